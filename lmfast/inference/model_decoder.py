"""The decoder of a TransformerLM.

With a cache, CpuDecoder is used for the models it supports (float32 on a CPU), otherwise TorchDecoder; without, or while its
weights are sharded, the model itself on whole windows, the reference for both. decoder_cache.py reuses TorchDecoders.
CpuSlots and TorchSlots are the same for sequences that join and leave.
"""

from collections.abc import Callable
from typing import Literal

import torch

from lmfast.errors import UserError
from lmfast.inference.cpu.decoder import CpuDecoder
from lmfast.inference.cpu.slots import CpuSlots
from lmfast.inference.cpu.torch_weights import unsupported_reason, weights_of
from lmfast.inference.decode import Decoder
from lmfast.inference.decoder_cache import borrow
from lmfast.inference.sampling import Sampling
from lmfast.inference.slots import SlotDecoder
from lmfast.inference.torch_sampling import sample
from lmfast.inference.torch_slots import TorchSlots
from lmfast.model.transformer import TransformerLM


@torch.inference_mode()
def make_decoder(
    model: TransformerLM,
    batch: int,
    sampling: Sampling,
    kv_cache: bool = True,
    compile: bool = False,
    quantize: Literal["int8"] | None = None,
) -> Decoder:
    """The decoder of a batch; see the module's docstring. Raises UserError if `quantize` is set and CpuDecoder cannot be
    used."""
    reason = _cpu_decoder_blocker(model, kv_cache, compile)
    if reason is None:
        return CpuDecoder(weights_of(model), batch, sampling, torch.get_num_threads(), quantize)
    if quantize is not None:
        raise UserError(
            f"quantize {quantize} needs lmfast's own decoder for CPUs, which cannot be used: {reason}"
        )
    if model.sharded or not kv_cache:
        return PlainDecoder(model, batch, sampling)
    return borrow(model, batch, sampling, compile)


@torch.inference_mode()
def make_slots(
    model: TransformerLM,
    slots: int,
    quantize: Literal["int8"] | None = None,
    context_length: int | None = None,
) -> SlotDecoder:
    """The decoder of `slots` independent sequences, for continuous batching, ready for the first step.

    context_length: at most the model's, which is the default. Raises UserError as `make_decoder`."""
    if model.sharded:
        raise UserError(
            "texts cannot be generated in batches while the weights are sharded (parallel fsdp, hsdp)"
        )
    reason = unsupported_reason(model)
    if reason is None:
        return CpuSlots(weights_of(model), slots, torch.get_num_threads(), quantize, context_length)
    if quantize is not None:
        raise UserError(
            f"quantize {quantize} needs lmfast's own decoder for CPUs, which cannot be used: {reason}"
        )
    decoder = TorchSlots(model, slots, context_length)
    decoder.warm_up()
    return decoder


def _cpu_decoder_blocker(model: TransformerLM, kv_cache: bool, compile: bool) -> str | None:
    """Why CpuDecoder cannot be used; None if it can."""
    if not kv_cache:
        return "kv_cache is off"
    if compile:
        return "compile is on"
    return unsupported_reason(model)


class PlainDecoder:
    """Computes each step from whole windows, without a cache: slow, the reference for the other decoders."""

    lag = 0

    def __init__(self, model: TransformerLM, batch: int, sampling: Sampling):
        self.model, self.sampling = model, sampling
        self.windows: list[list[int]] = [[0] for _ in range(batch)]

    def read(self, windows: dict[int, list[int]]) -> None:
        for row, ids in windows.items():
            self.windows[row] = list(ids)

    @torch.inference_mode()
    def step(self, rows: list[int], number: int) -> Callable[[], list[int]]:
        device = self.model.embedding.weight.device
        windows = [self.windows[row] for row in rows]
        lengths = torch.tensor([len(window) for window in windows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for k, window in enumerate(windows):
            ids[k, : len(window)] = torch.tensor(window)
        hidden = self.model.hidden(ids.to(device))
        last = hidden[torch.arange(len(rows), device=device), (lengths - 1).to(device)]
        places = torch.tensor(rows, device=device)
        logits = self.model.mask_unused(self.model.logits(last))
        new: list[int] = sample(logits, self.sampling, number, places).numpy(force=True).tolist()
        for window, token in zip(windows, new, strict=True):
            window.append(token)
        return lambda: new

    def close(self) -> None:
        pass
