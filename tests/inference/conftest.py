"""CUDA graphs without CUDA, shared by the tests of decoding."""

import pytest

from lmfast.inference import cuda_graph


class Replayed:
    """Stands in for cuda_graph: a captured graph is the step itself, run at each replay. Counts the calls."""

    captured = recorded = waited = 0

    def __init__(self):
        self.prefills = []

    def capture(self, step, device, pool=None):
        graph = Graph(step, pool)
        if getattr(getattr(step, "func", step), "__name__", None) == "_advance":
            self.captured += 1
        else:
            self.prefills.append(graph)
        return graph

    def record(self, event, device):
        self.recorded += 1
        event.recorded = True

    def wait_for(self, event, device):
        assert event.recorded
        self.waited += 1


class Graph:
    def __init__(self, step, given):
        self.replay, self.given = step, given

    def pool(self):
        return self


class Event:
    recorded = False
    synchronized = 0

    def synchronize(self):
        assert self.recorded
        self.synchronized += 1


@pytest.fixture
def replayed(monkeypatch) -> Replayed:
    fake = Replayed()
    monkeypatch.setattr(cuda_graph, "uses_graphs", lambda device: True)
    monkeypatch.setattr(cuda_graph, "new_event", Event)
    monkeypatch.setattr(cuda_graph, "warm_up", lambda step, state, device: None)
    for name in ("capture", "record", "wait_for"):
        monkeypatch.setattr(cuda_graph, name, getattr(fake, name))
    return fake


@pytest.fixture
def by_torch(monkeypatch):
    """TorchDecoder rather than the CPU's own decoder."""
    monkeypatch.setattr(
        "lmfast.inference.model_decoder.unsupported_reason", lambda model: "the test wants torch"
    )
