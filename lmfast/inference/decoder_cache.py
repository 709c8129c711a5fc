"""Decoders that outlive a call: the next call on the same model gets one that is warm, with its cast weights and graph.

A call borrows a decoder and gives it back; two calls at once get two. Each model keeps MAX_IDLE idle decoders, the latest
used; they hold their model's weights in the autocast dtype and a cache of the whole context for each sequence, and are
freed with the model. A used decoder gives exactly what a new one would: see TorchDecoder.begin. Threads may call this at
the same time; on CUDA they must use one stream (cuda_graph.py).
"""

import threading
import weakref

from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import DecoderKey, TorchDecoder
from lmfast.model.transformer import TransformerLM

MAX_IDLE = 2  # per model


class DecoderCache:
    """The idle decoders of one model, the oldest first."""

    def __init__(self) -> None:
        self.idle: list[TorchDecoder] = []
        self.lock = threading.Lock()

    def take(self, key: DecoderKey) -> TorchDecoder | None:
        with self.lock:
            for decoder in reversed(self.idle):
                if decoder.key == key:
                    self.idle.remove(decoder)
                    return decoder
        return None

    def put(self, decoder: TorchDecoder) -> None:
        with self.lock:
            self.idle.append(decoder)
            dropped = self.idle[:-MAX_IDLE]
            self.idle = self.idle[-MAX_IDLE:]
        for old in dropped:
            old.free()

    def clear(self) -> None:
        with self.lock:
            dropped, self.idle = self.idle, []
        for old in dropped:
            old.free()


_caches: weakref.WeakKeyDictionary[TransformerLM, DecoderCache] = weakref.WeakKeyDictionary()
_creating = threading.Lock()


def decoder_cache_for(model: TransformerLM) -> DecoderCache:
    with _creating:
        if model not in _caches:
            _caches[model] = cache = DecoderCache()
            weakref.finalize(model, cache.clear).atexit = False
        return _caches[model]


def borrow(model: TransformerLM, batch: int, sampling: Sampling, compiled: bool = False) -> TorchDecoder:
    """A decoder for one call, ready to `read`; its `close` gives it back, unless it failed on the way."""
    cache = decoder_cache_for(model)
    decoder = cache.take(DecoderKey.of(model, batch, sampling, compiled))
    if decoder is not None and not decoder.fits():
        decoder.free()
        decoder = None
    if decoder is None:
        decoder = TorchDecoder(model, batch, sampling, compiled)
    else:
        decoder.begin(model, sampling)
    decoder.give_back = cache.put
    return decoder
