"""Loads models from run folders and checkpoints.

In: a run folder, or a checkpoint in it. Out: the model in fp32, its tokenizer and config. Rejects (UserError) weights that
are not finite or have a different shape.
"""

import os
from pathlib import Path

import torch

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.model.transformer import TransformerLM
from lmfast.settings import read_model
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint, find_checkpoint


def load_run(
    folder: str | os.PathLike[str], device: str = "cpu"
) -> tuple[TransformerLM, Tokenizer | None, ResolvedConfig]:
    """(model, tokenizer or None, model config) of a run folder or of a checkpoint folder in it.

    Uses the newest intact checkpoint. The model is in eval mode, in fp32, on `device`.
    """
    return load_checkpoint(find_checkpoint(Path(folder)), device)


def load_checkpoint(
    checkpoint: Checkpoint, device: str | torch.device = "cpu"
) -> tuple[TransformerLM, Tokenizer | None, ResolvedConfig]:
    """(model, tokenizer or None, model config) of an open checkpoint, like `load_run`."""
    run = checkpoint.run
    config = read_model(run)
    tokenizer = Tokenizer.load(run / "tokenizer") if (run / "tokenizer").is_dir() else None
    model = build_model(checkpoint, config, device)
    if tokenizer is not None:
        model.restrict_to(tokenizer.vocab)
    return model, tokenizer, config


def build_model(
    checkpoint: Checkpoint, config: ModelConfig, device: str | torch.device = "cpu"
) -> TransformerLM:
    """A TransformerLM of shape `config` with the weights of a checkpoint, in eval mode."""
    model = TransformerLM.uninitialised(config, device)
    load_weights(model, checkpoint)
    return model.eval()


def load_weights(model: TransformerLM, checkpoint: Checkpoint, may_grow: bool = False) -> None:
    """Copies the weights of a checkpoint into `model`. Raises UserError naming the first tensor that does not fit or is
    not finite.

    may_grow: embedding and head may have fewer rows in the checkpoint; see `_grow`.
    """
    tensors = checkpoint.model_tensors()
    own = model.named_weights()
    for name in own if may_grow else ():
        if name == "head.weight" or name.endswith("embedding.weight"):
            tensors[name] = _grow(tensors[name], len(own[name]))
    for name in [*own, *tensors]:
        if name not in tensors or name not in own or own[name].shape != tensors[name].shape:
            there = tuple(tensors[name].shape) if name in tensors else "absent"
            here = tuple(own[name].shape) if name in own else "absent"
            raise UserError(
                f"{checkpoint.path}: has another model shape: {name} is {there}, not {here}; use the settings of its "
                "config.yaml"
            )
        if tensors[name].numel() and not all(end.isfinite() for end in tensors[name].aminmax()):
            raise UserError(f"{checkpoint.path}: {name} is not finite; use an older checkpoint")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _grow(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Extends a table (ids, width) to `count` ids. New rows are the mean of the old ones, which hardly changes the
    probabilities of the other ids (Hewitt 2021), plus noise of a tenth of their standard deviation."""
    if len(rows) >= count:
        return rows
    noise = torch.randn(count - len(rows), rows.shape[1], generator=torch.Generator().manual_seed(0))
    return torch.cat([rows, (rows.mean(0) + 0.1 * rows.std(0) * noise).to(rows.dtype)])
