"""Whose turn it is where several parties want the same few workers. Pure.

Start-time fair queueing in small: each party has a mark that moves on by what its work cost. The party with the
lowest mark is next, and one that comes new begins at the mark of those that are being served: it neither waits for
what others have piled up nor makes up for the time in which it wanted nothing.
"""

from collections import deque
from collections.abc import Container, Iterator
from typing import Generic, TypeVar

from sidecar.errors import Permanent

Item = TypeVar("Item")

# What a piece of work counts at least, in seconds: cheap work is shared out by number.
LEAST_COST_S = 0.001


class FairQueue(Generic[Item]):
    """Work that waits, by party. `most` is how much may wait of one party, and eight times that of all."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._waiting: dict[str, deque[Item]] = {}
        self._marks: dict[str, float] = {}
        self._now = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._waiting.values() for item in items)

    def push(self, party: str, item: Item) -> None:
        """Raises Permanent (`queue_full`) where the party has as much waiting as it may, or all have."""
        items = self._waiting.setdefault(party, deque())
        if len(items) >= self._most or self._size >= 8 * self._most:
            raise Permanent(
                f"{len(items)} costly checks of this tenant wait already: send fewer at a time", code="queue_full"
            )
        self._marks[party] = max(self._marks.get(party, 0.0), self._now)
        items.append(item)
        self._size += 1

    def pop(self, busy: Container[str]) -> tuple[str, Item] | None:
        """The next piece of work, of a party that is not in `busy`; None where there is none."""
        ready = [party for party, items in self._waiting.items() if items and party not in busy]
        if not ready:
            return None
        party = min(ready, key=self._marks.__getitem__)
        self._now = max(self._now, self._marks[party])
        item = self._waiting[party].popleft()
        self._size -= 1
        return party, item

    def remove(self, party: str, item: Item) -> bool:
        """Take out what waits no longer for its turn. False where it is not there."""
        try:
            self._waiting.get(party, deque()).remove(item)
        except ValueError:
            return False
        self._size -= 1
        return True

    def charge(self, party: str, seconds: float) -> None:
        """Work of a party has ended, and has cost so much. Where nothing waits, all are level again."""
        self._marks[party] = self._marks.get(party, self._now) + max(seconds, LEAST_COST_S)
        for name in [name for name, items in self._waiting.items() if not items]:
            del self._waiting[name]
        if not self._size:
            self._now = max(self._marks.values())
        for name in [
            name for name, mark in self._marks.items() if mark <= self._now and name not in self._waiting
        ]:
            del self._marks[name]
