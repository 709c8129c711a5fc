import threading

import numpy as np
import pytest
import torch

from lmfast.training.prefetch import AHEAD, PinnedBuffers, Prefetched

CPU = torch.device("cpu")


class Numbers:
    """step(i) is an array of i; records which steps were requested, and by which thread."""

    def __init__(self):
        self.asked, self.threads = [], set()

    def step(self, i):
        if i == 99:
            raise OSError("the disk is gone")
        self.asked.append(i)
        self.threads.add(threading.get_ident())
        return np.full((2, 3), i)


def test_every_step_gets_its_own_batch_in_any_order():
    numbers = Numbers()
    with Prefetched(numbers, CPU) as batches:
        for i in (5, 6, 7, 8, 3, 4, 4, 9, 0):
            assert (batches.step(i) == i).all()


def test_another_thread_prepares_batches_ahead():
    numbers = Numbers()
    with Prefetched(numbers, CPU) as batches:
        for i in range(10):
            batches.step(i)
        for _, future in batches.pending:
            future.result()
        assert numbers.asked == list(range(10 + AHEAD))
    assert threading.get_ident() not in numbers.threads and len(numbers.threads) == 1


def test_an_error_reaches_the_step_it_belongs_to():
    with Prefetched(Numbers(), CPU) as batches:
        assert batches.step(98)[0, 0] == 98
        with pytest.raises(OSError, match="the disk is gone"):
            batches.step(99)


def test_the_thread_ends():
    before = threading.active_count()
    batches = Prefetched(Numbers(), CPU)
    batches.step(0)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


@pytest.fixture
def device(monkeypatch):
    """A device that passes an event when the test says so; waiting for it earlier is an error."""

    class Event:
        recorded: list = []  # noqa: RUF012 - all events of this test

        def record(self):
            self.reached = False
            self.recorded.append(self)

        def synchronize(self):
            assert self.reached, "the buffer would be overwritten while the device may read it"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    return Event


def test_a_buffer_is_refilled_only_after_the_device_has_used_it(device):
    buffers = PinnedBuffers(3)
    arrays = []
    for i in range(3):
        arrays.append(buffers.store(i, np.full(4, i)))
        buffers.release_after(i)
    assert [a[0] for a in arrays] == [0, 1, 2]
    with pytest.raises(AssertionError, match="overwritten"):
        buffers.store(3, np.full(4, 3))
    device.recorded[0].reached = True
    assert buffers.store(3, np.full(4, 3)) is arrays[0] and arrays[0][0] == 3
    device.recorded[1].reached = True
    other = buffers.store(4, np.full(5, 4))  # another shape gets another buffer
    assert other.shape == (5,) and arrays[1][0] == 1


def test_on_cuda_a_batch_is_valid_until_the_batch_after_next_is_requested(device):
    with Prefetched(Numbers(), torch.device("cuda")) as batches:
        seen = []
        for i in range(12):
            for event in device.recorded:
                event.reached = True  # everything queued before this step is done
            seen.append(batches.step(i))
            for _, future in batches.pending:
                future.exception()  # everything in flight is done
            for back in range(min(2, i + 1)):
                assert (seen[-1 - back] == i - back).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_gpu():
    with Prefetched(Numbers(), torch.device("cuda")) as batches:
        for i in range(50):
            rows = torch.from_numpy(batches.step(i))
            assert rows.is_pinned()
            there = rows.to("cuda", non_blocking=True)
            torch.cuda._sleep(1_000_000)
            assert i % 7 or (there == i).all()


def test_the_thread_pins_on_the_device_of_its_rank(device, monkeypatch):
    devices = {}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda number: devices.update({threading.get_ident(): number})
    )
    numbers = Numbers()
    with Prefetched(numbers, torch.device("cuda")) as batches:
        assert batches.step(0)[0, 0] == 0
    assert devices == dict.fromkeys(numbers.threads, 3) and threading.get_ident() not in devices
