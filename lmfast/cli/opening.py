"""The run that `lmfast generate` and `lmfast serve` use. Opened without torch, whose import takes longer than a short text,
where the decoder for CPUs in C++ reads the weights itself: in float32, with a KV cache, without a GPU."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lmfast.errors import UserError
from lmfast.hardware import may_have_gpu
from lmfast.inference.cpu.weights import DecoderWeights, model_blocker
from lmfast.model.config import ResolvedConfig
from lmfast.model.rope import rope_tables
from lmfast.model.sinusoidal import sinusoidal_table
from lmfast.settings import Precision, read_model
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint, find_checkpoint
from lmfast.training.run_folder import load_tokenizer, newest_run
from lmfast.training.weights import mapped_weights

if TYPE_CHECKING:
    from lmfast.model.transformer import TransformerLM


@dataclass(frozen=True)
class Execution:
    """How a model computes; see the options of `lmfast generate`."""

    device: Literal["auto", "cuda", "cpu", "mps"]
    precision: Precision
    quantize: Literal["int8"] | None
    compile: bool = False
    kv_cache: bool = True


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


def open_run(path: str | None, execution: Execution) -> OpenRun:
    """Opens a run folder or checkpoint, by default the newest run. Raises UserError if it or the device cannot be used."""
    folder = Path(path) if path else newest_run()
    checkpoint = find_checkpoint(folder)
    config = read_model(checkpoint.run)
    if execution.quantize is not None and (reason := model_blocker(config)):
        raise UserError(f"--quantize {execution.quantize} needs lmfast's decoder for CPUs: {reason}")
    if _needs_torch(execution, config):
        return _with_torch(execution, folder, checkpoint)
    return _without_torch(execution, folder, checkpoint, config)


def _needs_torch(execution: Execution, config: ResolvedConfig) -> bool:
    if execution.compile or not execution.kv_cache or execution.precision != "fp32":
        return True
    if execution.device != "cpu" and (execution.device != "auto" or may_have_gpu()):
        return True
    return model_blocker(config) is not None


def _without_torch(
    execution: Execution, folder: Path, checkpoint: Checkpoint, config: ResolvedConfig
) -> OpenRun:
    tokenizer = load_tokenizer(checkpoint.run)
    unused = config.unused_ids(tokenizer.vocab) if tokenizer is not None else []
    model = DecoderWeights(
        config,
        mapped_weights(checkpoint, config),
        rope_tables(config),
        sinusoidal_table(config),
        np.array(unused) if unused else None,
    )
    return OpenRun(
        folder, model, tokenizer, "cpu", {"quantize": execution.quantize}, contextlib.nullcontext()
    )


def _with_torch(execution: Execution, folder: Path, checkpoint: Checkpoint) -> OpenRun:
    from lmfast.model.device import autocast, compile_blocker, pick_device
    from lmfast.training.loading import load_checkpoint

    device = pick_device(execution.device)
    if execution.compile and (reason := compile_blocker(device)):
        raise UserError(f"--compile does not work here: {reason}; remove it")
    if execution.quantize is not None and device.type != "cpu":
        raise UserError(f"--quantize {execution.quantize} is for CPUs; add --device cpu")
    model, tokenizer, _ = load_checkpoint(checkpoint, device)
    options = {
        "kv_cache": execution.kv_cache,
        "compile": execution.compile,
        "quantize": execution.quantize,
    }
    return OpenRun(folder, model, tokenizer, str(device), options, autocast(device, execution.precision))
