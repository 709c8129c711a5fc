"""The run that `lmfast generate` uses. Opened without torch, whose import takes longer than a short text, where the decoder
for CPUs in C++ reads the weights itself: in float32, with a KV cache, without a GPU."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lmfast.errors import UserError
from lmfast.hardware import may_have_gpu
from lmfast.inference.cpu.weights import DecoderWeights, model_blocker
from lmfast.model.config import ResolvedConfig
from lmfast.model.rope import rope_tables
from lmfast.settings import read_model, selected_precision
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint, find_checkpoint
from lmfast.training.run_folder import load_tokenizer, newest_run
from lmfast.training.weights import mapped_weights

if TYPE_CHECKING:
    from lmfast.generate import GenerateSettings
    from lmfast.model.transformer import TransformerLM


class OpenRun(NamedTuple):
    """A model to generate with, and how."""

    folder: Path
    model: "TransformerLM | DecoderWeights"
    tokenizer: Tokenizer | None
    device: str
    options: dict[str, Any]
    """of lmfast.inference.decode.continue_prompts"""
    precision: contextlib.AbstractContextManager[Any]
    """the context to generate in"""


def open_run(settings: "GenerateSettings") -> OpenRun:
    """Opens the run that the settings name, or the newest. Raises UserError if it or the device cannot be used."""
    folder = Path(settings.checkpoint) if settings.checkpoint else newest_run()
    checkpoint = find_checkpoint(folder)
    config = read_model(checkpoint.run)
    if settings.quantize is not None and (reason := model_blocker(config)):
        raise UserError(f"--quantize {settings.quantize} needs lmfast's decoder for CPUs: {reason}")
    if _needs_torch(settings, config):
        return _with_torch(settings, folder, checkpoint)
    return _without_torch(settings, folder, checkpoint, config)


def _needs_torch(settings: "GenerateSettings", config: ResolvedConfig) -> bool:
    if settings.compile or not settings.kv_cache or selected_precision(settings) != "fp32":
        return True
    if settings.device != "cpu" and (settings.device != "auto" or may_have_gpu()):
        return True
    return model_blocker(config) is not None


def _without_torch(
    settings: "GenerateSettings", folder: Path, checkpoint: Checkpoint, config: ResolvedConfig
) -> OpenRun:
    tokenizer = load_tokenizer(checkpoint.run)
    unused = config.unused_ids(tokenizer.vocab) if tokenizer is not None else []
    model = DecoderWeights(
        config, mapped_weights(checkpoint, config), rope_tables(config), np.array(unused) if unused else None
    )
    return OpenRun(folder, model, tokenizer, "cpu", {"quantize": settings.quantize}, contextlib.nullcontext())


def _with_torch(settings: "GenerateSettings", folder: Path, checkpoint: Checkpoint) -> OpenRun:
    from lmfast.model.device import autocast, compile_blocker, pick_device
    from lmfast.training.loading import load_checkpoint

    device = pick_device(settings.device)
    if settings.compile and (reason := compile_blocker(device)):
        raise UserError(f"--compile does not work here: {reason}; remove it")
    if settings.quantize is not None and device.type != "cpu":
        raise UserError(f"--quantize {settings.quantize} is for CPUs; add --device cpu")
    model, tokenizer, _ = load_checkpoint(checkpoint, device)
    options = {"kv_cache": settings.kv_cache, "compile": settings.compile, "quantize": settings.quantize}
    precision = autocast(device, selected_precision(settings))
    return OpenRun(folder, model, tokenizer, str(device), options, precision)
