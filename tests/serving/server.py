"""A server of a tiny model in this process, for tests: `running_server()` as a context."""

import contextlib
import dataclasses
import functools
import socket
import threading
import time
from collections.abc import Iterator

import torch
import uvicorn

from lmfast.data.chat import add_chat_tokens
from lmfast.inference.model_decoder import make_slots
from lmfast.inference.slots import SlotDecoder
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.serving.answering import Limits
from lmfast.serving.app import make_app
from lmfast.serving.scheduler import Scheduler
from lmfast.serving.served_model import ServedModel
from lmfast.tokenizer.bpe import Tokenizer

CONTEXT = 200
WORDS = ["the ", "cat ", "sat ", "on ", "a ", "mat. ", "dog ", "ran ", "ä", "€uro ", "🙂"]


@functools.cache
def tokenizer() -> Tokenizer:
    """Bytes, the words, and chat tokens."""
    vocab, merges = {i: bytes([i]) for i in range(256)}, []
    for word in WORDS:
        data = word.encode()
        for end in range(2, len(data) + 1):
            if data[:end] not in vocab.values():
                vocab[len(vocab)] = data[:end]
                merges.append((data[: end - 1], data[end - 1 : end]))
    return add_chat_tokens(Tokenizer(vocab, merges, ["<|endoftext|>"]))


@functools.cache
def model() -> TransformerLM:
    torch.manual_seed(0)
    config = ModelConfig(tokenizer().vocab_size, CONTEXT, d_model=32, num_layers=2, num_heads=4, d_ff=64)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embedding" not in name:
                weight.mul_(3)
    return model


@dataclasses.dataclass(frozen=True)
class RunningServer:
    port: int
    scheduler: Scheduler

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settle(self) -> None:
        """Waits until nothing is queued or decoded."""
        deadline = time.monotonic() + 30
        while self.scheduler.jobs or self.scheduler.waiting or not self.scheduler.batch.idle:
            assert time.monotonic() < deadline
            time.sleep(0.002)


@contextlib.contextmanager
def running_server(
    slots: int = 4,
    max_queue: int = 1000,
    limits: Limits = Limits(),  # noqa: B008
    decoder: SlotDecoder | None = None,
    max_prompt: int = CONTEXT - 1,
    tokens: Tokenizer | None = None,
    **options,
) -> Iterator[RunningServer]:
    """options: of `make_app`."""
    served = ServedModel("tiny", tokens or tokenizer(), CONTEXT, model().config.vocab_size, max_prompt)
    scheduler = Scheduler(decoder or make_slots(model(), slots), max_queue)
    app = make_app(served, scheduler, limits, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive()
            time.sleep(0.005)
        yield RunningServer(listener.getsockname()[1], scheduler)
    finally:
        server.should_exit = True
        thread.join(30)
        scheduler.close()
        listener.close()
