"""Loads models from run folders and checkpoints.

In: a run folder, or a checkpoint in it. Out: the model in fp32, its tokenizer and config. Rejects (UserError) weights that
are not finite or have a different shape.
"""

import os
from pathlib import Path

import torch

from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.model.transformer import TransformerLM
from lmfast.settings import read_model
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint, find_checkpoint
from lmfast.training.run_folder import load_tokenizer
from lmfast.training.weights import check_weights


def load_run(
    folder: str | os.PathLike[str], device: str = "cpu", mapped: bool = False
) -> tuple[TransformerLM, Tokenizer | None, ResolvedConfig]:
    """(model, tokenizer or None, model config) of a run folder or of a checkpoint folder in it.

    Uses the newest intact checkpoint. The model is in eval mode, in fp32, on `device`. mapped: leave its weights in the
    mapped file, which saves their memory and is for reading them once; on the CPU only.
    """
    return load_checkpoint(find_checkpoint(Path(folder)), device, mapped)


def load_checkpoint(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", mapped: bool = False
) -> tuple[TransformerLM, Tokenizer | None, ResolvedConfig]:
    """(model, tokenizer or None, model config) of an open checkpoint, like `load_run`."""
    run = checkpoint.run
    config = read_model(run)
    tokenizer = load_tokenizer(run)
    model = build_model(checkpoint, config, device, mapped)
    if tokenizer is not None:
        model.restrict_to(tokenizer.vocab)
    return model, tokenizer, config


def build_model(
    checkpoint: Checkpoint, config: ModelConfig, device: str | torch.device = "cpu", mapped: bool = False
) -> TransformerLM:
    """A TransformerLM of shape `config` with the weights of a checkpoint, in eval mode. mapped: see `load_run`."""
    model = TransformerLM.uninitialised(config, device)
    load_weights(model, checkpoint, mapped=mapped)
    return model.eval()


def load_weights(
    model: TransformerLM, checkpoint: Checkpoint, may_grow: bool = False, mapped: bool = False
) -> None:
    """Copies the weights of a checkpoint into `model`. Raises UserError as `check_weights`.

    may_grow: embedding and head may have fewer rows in the checkpoint; see `_grow`. mapped: use its tensors themselves.
    """
    tensors, own = checkpoint.model_tensors(), model.named_weights()
    for name in own if may_grow else ():
        if is_vocabulary_table(name):
            tensors[name] = _grow(tensors[name], len(own[name]))
    check_weights(checkpoint, {name: tuple(weight.shape) for name, weight in own.items()}, tensors)
    with torch.no_grad():
        for name, tensor in own.items():
            if mapped:
                tensor.data = tensors[name]
            else:
                tensor.copy_(tensors[name])


def is_vocabulary_table(name: str) -> bool:
    """Whether a weight has one row per token id."""
    return name in ("head.weight", "embedding.weight") or name.endswith(".value_embedding.weight")


def _grow(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Extends a table (ids, width) to `count` ids. New rows are the mean of the old ones, which hardly changes the
    probabilities of the other ids (Hewitt 2021), plus noise of a tenth of their standard deviation."""
    if len(rows) >= count:
        return rows
    noise = torch.randn(count - len(rows), rows.shape[1], generator=torch.Generator().manual_seed(0))
    return torch.cat([rows, (rows.mean(0) + 0.1 * rows.std(0) * noise).to(rows.dtype)])
