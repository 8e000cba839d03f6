"""Parties that are not heard for a moment, because refusing them costs too much already.

Taking a request costs ten times as much as reading it, and a flood may be refused only so often. Beyond that each
message is dropped by the bytes of its subject, before anything is made of it, and only counted.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

DEAF_S = 0.05
# Each time that follows at once is twice as long, up to this: of a flood that goes on no more is answered than
# what may wait, once a second.
LONGEST_DEAF_S = 1.0
# Of all parties: who speaks under many names is refused instead, one by one.
MOST_DEAF = 1024

K = TypeVar("K", bound=Hashable)


class Deaf(Generic[K]):
    """`on_end` is called with a party and how many of each kind were dropped, when it is heard again."""

    def __init__(self, on_end: Callable[[str, Counter[K]], None]) -> None:
        self._on_end = on_end
        # Named by bytes, as the wire has them: looking here is all that a dropped message costs.
        self.dropped: dict[bytes, Counter[K]] = {}
        # How long it was the last time, and when that is forgotten.
        self._last: dict[bytes, tuple[float, float]] = {}

    def begin(self, party: str) -> None:
        name = party.encode()
        if name in self.dropped or len(self.dropped) >= MOST_DEAF:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        last_s, until = self._last.get(name, (0.0, 0.0))
        deaf_s = DEAF_S if now >= until else min(2 * last_s, LONGEST_DEAF_S)
        if len(self._last) >= MOST_DEAF:
            self._last.clear()
        self._last[name] = deaf_s, now + deaf_s + LONGEST_DEAF_S
        self.dropped[name] = Counter()
        loop.call_later(deaf_s, self._end, name, party)

    def _end(self, name: bytes, party: str) -> None:
        self._on_end(party, self.dropped.pop(name))


def dropper(dropped: Mapping[bytes, Counter[K]], kind: K, *, position: int) -> Callable[[bytes], bool]:
    """Says of a subject whether its party, the token at `position`, is not heard now, and counts it as `kind`."""
    most = position + 1

    def is_dropped(subject: bytes) -> bool:
        if dropped:
            names = subject.split(b".", most)
            counts = dropped.get(names[position]) if len(names) > position else None
            if counts is not None:
                counts[kind] += 1
                return True
        return False

    return is_dropped
