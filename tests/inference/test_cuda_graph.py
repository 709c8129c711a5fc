import contextlib
import threading

import pytest
import torch

from lmfast.inference import cuda_graph
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from tests.inference.test_decode import build


@pytest.fixture
def pretended(monkeypatch):
    """A fake CUDA that records the calls made to it, in order."""
    asked = []

    class Stream:
        def __init__(self, device):
            self.name = f"stream {len(asked)}"

        def wait_stream(self, other):
            asked.append("wait")

    class CUDAGraph:
        def capture_begin(self, **options):
            asked.append(options)

        def capture_end(self):
            asked.append("end")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    cuda_graph.side_stream.cache_clear()
    yield asked
    cuda_graph.side_stream.cache_clear()


@torch.inference_mode()
def test_warming_up_leaves_no_trace(pretended):
    decoder = TorchDecoder(build(), 2, Sampling(0.7))
    decoder.read({0: [1, 2, 3], 1: [4, 5]})
    before = [tensor.tolist() for tensor in decoder._state()]
    runs = []
    cuda_graph.warm_up(lambda: (decoder._advance(), runs.append(1)), decoder._state(), decoder.device)
    assert [tensor.tolist() for tensor in decoder._state()] == before and len(runs) == 2


def test_capturing_does_not_affect_other_threads_and_ends_if_the_step_fails(pretended):
    cuda_graph.capture(lambda: pretended.append("step"), torch.device("cpu"))
    assert pretended == ["wait", {"capture_error_mode": "thread_local"}, "step", "end", "wait"]
    cuda_graph.capture(lambda: None, torch.device("cpu"), pool=7)
    assert {"pool": 7, "capture_error_mode": "thread_local"} in pretended
    with pytest.raises(ZeroDivisionError):
        cuda_graph.capture(lambda: 1 / 0, torch.device("cpu"))
    assert pretended[-1] == "end"


def test_one_thread_at_a_time_uses_the_side_stream(pretended):
    """Work that another thread queued there during a capture would become part of the graph."""
    device, order = torch.device("cpu"), []
    within, go_on = threading.Event(), threading.Event()

    def slow():
        order.append("begin")
        within.set()
        go_on.wait(10)
        order.append("end")

    capturing = threading.Thread(target=cuda_graph.capture, args=(slow, device))
    others = [
        threading.Thread(target=cuda_graph.warm_up, args=(lambda: order.append("warm"), [], device)),
        threading.Thread(target=cuda_graph.capture, args=(lambda: order.append("other"), device)),
    ]
    capturing.start()
    within.wait(10)
    for other in others:
        other.start()
        other.join(0.1)
    go_on.set()
    for thread in (capturing, *others):
        thread.join(10)
    assert order[:2] == ["begin", "end"] and sorted(order[2:]) == ["other", "warm", "warm"]


def test_one_side_stream_per_device(pretended):
    one, two = torch.device("cuda:0"), torch.device("cuda:1")
    assert cuda_graph.side_stream(one) is cuda_graph.side_stream(one) is not cuda_graph.side_stream(two)
