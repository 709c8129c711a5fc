"""Reuses decoders between calls on the same model, with their cast weights and captured graphs.

A call borrows a decoder and returns it; concurrent calls get different ones. Each model keeps the MAX_IDLE most recently
used idle decoders. They hold a copy of the weights in the autocast dtype and a cache of the whole context for each
sequence, and are freed with the model. A reused decoder gives the same results as a new one (TorchDecoder.begin).
Thread-safe; on CUDA, all threads must use one stream (cuda_graph.py).
"""

import threading
import weakref

from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import DecoderKey, TorchDecoder
from lmfast.model.transformer import TransformerLM

MAX_IDLE = 2  # per model


class DecoderCache:
    """The idle decoders of one model, oldest first."""

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
    """A decoder for one call, ready to `read`; its `close` returns it to the cache, unless it failed."""
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
