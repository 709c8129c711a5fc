"""What a batch is asked to teach: the loss of a model on a batch, as a sum and a count.

An objective returns sums, never means, so that the loop can divide by the valid tokens of a whole optimizer step,
however it is cut into forward passes.
"""

import numpy as np
import torch
from torch import Tensor

import kernels
from lmfast.model.transformer import TransformerLM

IGNORE = -100
"""target of a position that carries no loss (PyTorch's convention)"""


class NextToken:
    """Pretraining: every token predicts the next; the loss is −log p in nats, summed.

    z_loss: while the model trains, z_loss · logsumexp(logits)² is added to each token's loss, which keeps the logits
    from drifting (Chowdhery et al. 2022, 5). In eval mode the loss is −log p alone.
    """

    def __init__(self, z_loss: float = 0.0):
        self.z_loss = z_loss

    def tensors(self, batch: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """ids (rows, context_length + 1) int64 → inputs and targets (rows, context_length) on `device`."""
        ids = torch.from_numpy(batch)
        if device.type == "cuda":
            ids = ids.pin_memory().to(device, non_blocking=True)
        else:
            ids = ids.to(device)
        return ids[:, :-1].clamp(min=0), ids[:, 1:].contiguous()

    def valid_tokens(self, batch: np.ndarray) -> int:
        """How many targets of the batch carry loss."""
        return int((batch[:, 1:] != IGNORE).sum())

    def loss(self, model: TransformerLM, inputs: Tensor, targets: Tensor) -> Tensor:
        """Summed loss, fp32 scalar."""
        hidden = model.hidden(inputs)
        loss_sum, _ = kernels.linear_cross_entropy(
            hidden.flatten(0, 1),
            model.head.weight,
            targets.flatten(),
            ignore_index=IGNORE,
            softcap=model.config.logit_softcap,
            z_loss=self.z_loss if model.training else 0.0,
        )
        return loss_sum
