"""A queue that serves clients in turns, so that one with many requests does not delay the others.

The items of one client keep their order. Not thread-safe.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by client.

    >>> queue = FairQueue()
    >>> for client, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4)):
    ...     queue.push(client, item)
    >>> [queue.pop() for _ in range(len(queue))]
    [1, 4, 2, 3]
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[Hashable, deque[T]] = OrderedDict()  # the next one first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, client: Hashable, item: T) -> None:
        self._clients.setdefault(client, deque()).append(item)
        self._length += 1

    def pop(self) -> T:
        """Removes and returns the next item. Raises KeyError if there is none."""
        client, items = self._clients.popitem(last=False)
        item = items.popleft()
        if items:
            self._clients[client] = items
        self._length -= 1
        return item

    def remove(self, client: Hashable, item: T) -> bool:
        """Removes an item; False if it is not in the queue."""
        items = self._clients.get(client)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._clients[client]
        self._length -= 1
        return True
