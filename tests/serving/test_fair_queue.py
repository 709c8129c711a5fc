import pytest

from lmfast.serving.fair_queue import FairQueue


def test_clients_take_turns():
    queue = FairQueue()
    for i in range(5):
        queue.push("many", ("many", i))
    queue.push("one", ("one", 0))
    queue.push("two", ("two", 0))
    order = [queue.pop() for _ in range(3)]
    assert order == [("many", 0), ("one", 0), ("two", 0)]
    queue.push("one", ("one", 1))
    assert [queue.pop() for _ in range(5)] == [("many", 1), ("one", 1), *(("many", i) for i in (2, 3, 4))]
    assert len(queue) == 0 and not queue
    with pytest.raises(KeyError):
        queue.pop()


def test_removed_items_are_not_served():
    queue = FairQueue()
    for item in (1, 2):
        queue.push("a", item)
    assert queue.remove("a", 1) and not queue.remove("a", 1) and not queue.remove("b", 2)
    assert len(queue) == 1
    assert queue.remove("a", 2) and len(queue) == 0
    queue.push("a", 3)
    assert queue.pop() == 3
