"""Training objectives: the loss of a model on a batch, as a sum and a count.

An objective returns sums, not means, so that the loop can divide by the valid tokens of a whole optimizer step, however
it is split into forward passes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmfast.data.packing import positions
from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks

IGNORE = -100
"""the target of positions without loss (PyTorch's convention)"""


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies `array` to `device`. CUDA copies use pinned memory: from pageable memory they would wait for the device."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def read_by_loss(targets: Tensor) -> Tensor:
    """(rows, length) bool: the positions that count in the load of experts: those up to the last target with loss of their
    row. What follows is padding, or the end of the last document, which no loss depends on."""
    return (targets != IGNORE).flip(1).cumsum(1).flip(1) > 0


class NextToken:
    """Next-token prediction: the summed −log p of every token, in nats.

    z_loss: in training, adds z_loss · logsumexp(logits)² to the loss of each token, which keeps the logits from drifting
    (Chowdhery et al. 2022, section 5).

    separator: the id of <|endoftext|>, to restrict attention to the token's own document. As an input, the separator
    belongs to the document after it, so the first token is predicted from <|endoftext|> alone, as in generation; as a
    target, it ends the document before it. The loss of a row is then the sum of the losses of its documents. The model
    derives positions from document_ids (`TransformerLM.hidden`).
    """

    padded = False  # whether rows of training may end in padding

    def __init__(self, z_loss: float = 0.0, separator: int | None = None):
        self.z_loss, self.separator = z_loss, separator

    def tensors(self, batch: np.ndarray, device: torch.device) -> tuple[Tensor | None, ...]:
        """ids (rows, context_length + 1) int64 → inputs, targets (rows, context_length) on `device`; with a separator
        also None (positions) and document_ids, computed on the device."""
        ids = to_device(batch, device)
        inputs, targets = ids[:, :-1].clamp(min=0), ids[:, 1:].contiguous()
        if self.separator is None:
            return inputs, targets
        return inputs, targets, None, (inputs == self.separator).cumsum(1)

    def valid_tokens(self, batch: np.ndarray) -> int:
        """Number of targets with loss in the batch."""
        return int((batch[:, 1:] != IGNORE).sum())

    def count(self, inputs: Tensor, targets: Tensor, *others: Tensor | None) -> Tensor:
        """`valid_tokens` of `tensors`, on the device."""
        return (targets != IGNORE).sum()

    def loss(
        self,
        model: TransformerLM,
        inputs: Tensor,
        targets: Tensor,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """Summed loss, fp32 scalar. positions, document_ids: (rows, context_length), for packed rows."""
        counted = (
            read_by_loss(targets) if self.padded and model.config.num_experts and model.training else None
        )
        hidden = model.hidden(inputs, positions, document_ids, counted)
        return model.head.cross_entropy(
            hidden.flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORE,
            softcap=model.config.logit_softcap,
            z_loss=self.z_loss if model.training else 0.0,
            fp8=model.head.fp8 and model.training,
        )


class SFT(NextToken):
    """Supervised fine-tuning: next-token prediction of the assistant's tokens in packed conversations."""

    padded = True

    def tensors(self, batch: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """rows (rows, length + 1) of packing.TOKEN → inputs, targets, positions, document_ids (rows, length), int64."""
        document = batch["document"][:, :-1]
        targets = np.where(batch["loss"][:, 1:], batch["id"][:, 1:], IGNORE)
        arrays = (batch["id"][:, :-1], targets, positions(document), document)
        inputs, targets, at, document = (to_device(array.astype(np.int64), device) for array in arrays)
        return inputs, targets, at, document

    def valid_tokens(self, batch: np.ndarray) -> int:
        """Number of tokens with loss in the batch."""
        return int(batch["loss"][:, 1:].sum())


class DPO:
    """Direct preference optimisation against a reference model.

    With h = (log π/π_ref of the chosen) − (log π/π_ref of the rejected answer), where log-probabilities are summed over
    the tokens of the answer, the loss of a pair is
    - sigmoid: −(1 − ε) log σ(βh) − ε log σ(−βh) (Rafailov et al. 2023), where ε = label_smoothing is the probability of
      a wrong label in conservative DPO (Mitchell 2023);
    - ipo: (h − 1 / 2β)² (Azar et al. 2023, eq. 17).
    length_normalised: use means over the tokens of the answer (as in Tülu 3, and in TRL's ipo).

    Rows are pairs, chosen then rejected; losses are summed over pairs. Rewards are β log π/π_ref.
    """

    NAMES = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    )

    def __init__(
        self,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        length_normalised: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.beta, self.loss_type, self.label_smoothing = beta, loss_type, label_smoothing
        self.length_normalised = length_normalised
        self.metric_sums = torch.zeros(len(self.NAMES) + 1, device=device)  # over pairs; last, their number

    def tensors(self, batch: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """rows (2 pairs, length + 1) of packing.TOKEN → inputs, targets (2 pairs, length), reference (2 pairs,) fp32."""
        targets = np.where(batch["loss"][:, 1:], batch["id"][:, 1:], IGNORE).astype(np.int64)
        reference = np.ascontiguousarray(batch["reference"][:, 0])
        inputs = batch["id"][:, :-1].astype(np.int64)
        return to_device(inputs, device), to_device(targets, device), to_device(reference, device)

    def valid_tokens(self, batch: np.ndarray) -> int:
        """Number of pairs, the divisor of the summed loss."""
        return len(batch) // 2

    def count(self, inputs: Tensor, targets: Tensor, reference: Tensor) -> Tensor:
        """`valid_tokens` of `tensors`, on the device."""
        return torch.ones_like(reference).sum() / 2

    def loss(self, model: TransformerLM, inputs: Tensor, targets: Tensor, reference: Tensor) -> Tensor:
        """Summed loss of the pairs, fp32 scalar; in training, accumulates their rewards for `read_metrics`."""
        losses, numbers = self.pairs(sequence_log_probs(model, inputs, targets), reference, targets)
        if model.training:
            self.metric_sums += torch.cat([numbers.sum(1), torch.ones_like(losses).sum()[None]])
        return losses.sum()

    def pairs(self, log_probs: Tensor, reference: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (pairs,) and metrics (6, pairs), from summed log-probabilities (2 pairs,) of model and reference."""
        if self.length_normalised:
            length = (targets != IGNORE).sum(1)
            log_probs, reference = log_probs / length, reference / length
        gain = log_probs - reference
        margin = gain[0::2] - gain[1::2]
        if self.loss_type == "ipo":
            losses = (margin - 1 / (2 * self.beta)).square()
        else:
            right, wrong = F.logsigmoid(self.beta * margin), F.logsigmoid(-self.beta * margin)
            losses = -(1 - self.label_smoothing) * right - self.label_smoothing * wrong
        with torch.no_grad():
            rewards, log_probs = self.beta * gain.detach(), log_probs.detach()
            chosen, rejected = rewards[0::2], rewards[1::2]
            better = (chosen > rejected).float()
            numbers = torch.stack(
                [chosen, rejected, better, chosen - rejected, log_probs[0::2], log_probs[1::2]]
            )
        return losses, numbers

    def read_metrics(self, ranks: Ranks = SINGLE_PROCESS) -> dict[str, float]:
        """Means of NAMES over the training pairs of all ranks since the last call; every rank must call it."""
        *sums, count = ranks.sum(self.metric_sums).tolist()
        self.metric_sums.zero_()
        return {name: value / count for name, value in zip(self.NAMES, sums, strict=True)} if count else {}


def sequence_log_probs(model: TransformerLM, inputs: Tensor, targets: Tensor) -> Tensor:
    """Summed log-probability (rows,) fp32 of each row's targets, excluding IGNORE.

    Calls the fused loss per row, so that logits of rows × length × vocabulary are never stored. Padding is on the right
    and cannot affect earlier tokens.
    """
    counted = read_by_loss(targets) if model.config.num_experts and model.training else None
    hidden, softcap = model.hidden(inputs, counted=counted), model.config.logit_softcap
    sums = [
        model.head.cross_entropy(row, target, IGNORE, softcap)
        for row, target in zip(hidden.unbind(), targets.unbind(), strict=True)
    ]
    return -torch.stack(sums)
