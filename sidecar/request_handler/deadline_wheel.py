"""Deadlines of many requests, by slot: what is due is found without looking at what is not. Pure.

Times are hundredths of a second since the wheel was made, rounded up, 0 for none. What is due within a minute lies
in buckets of a quarter of a second, what is later in buckets of a minute, which are opened when their time comes.
"""

from array import array
from heapq import heappop, heappush
from itertools import repeat
from math import ceil

_TICKS_A_S = 100
_FINE = 25
_COARSE = 6_400
_LATEST = 0xFFFF_FFFF
# Of a bucket's entries so many may be of requests that have gone, and half of them.
_STALE = 1_024


class DeadlineWheel:
    """A slot has one deadline, the earliest that was given. Slots beyond those that had one take no room."""

    def __init__(self, *, now: float) -> None:
        self._born = now
        self._due = array("I")
        self._buckets: dict[int, array[int]] = {}
        self._stale: dict[int, int] = {}
        # Keys of buckets, earliest first. Fine buckets have keys from 0 on, coarse ones lie below.
        self._fine: list[int] = []
        self._coarse: list[int] = []
        self._opened = 1

    def watch(self, slot: int, deadline: float) -> None:
        """`deadline` in seconds since 1970."""
        ticks = min(max(1, ceil((deadline - self._born) * _TICKS_A_S)), _LATEST)
        if slot >= len(self._due):
            self._due.extend(repeat(0, slot + 1 - len(self._due)))
        before = self._due[slot]
        if before and before <= ticks:
            return
        if before:
            self.forget(slot)
        self._due[slot] = ticks
        self._put(slot, ticks)

    def forget(self, slot: int) -> None:
        """The slot has no deadline any more. Its entry is passed over, or goes with others like it."""
        ticks = self._due[slot] if slot < len(self._due) else 0
        if not ticks:
            return
        self._due[slot] = 0
        key = self._key(ticks)
        stale = self._stale.get(key, 0) + 1
        bucket = self._buckets.get(key)
        if bucket is not None and stale > _STALE and stale * 2 > len(bucket):
            kept = {slot for slot in bucket if self._due[slot] and self._key(self._due[slot]) == key}
            self._buckets[key] = array("I", kept)
            stale = 0
        self._stale[key] = stale

    def take_due(self, now: float, *, most: int) -> list[int]:
        """Up to `most` slots whose deadline has passed; a slot comes once."""
        ticks = int((now - self._born) * _TICKS_A_S)
        while self._coarse and self._coarse[0] <= ticks // _COARSE + 1:
            self._open(heappop(self._coarse))
        self._opened = max(self._opened, ticks // _COARSE + 2)
        found: list[int] = []
        while self._fine and (self._fine[0] + 1) * _FINE <= ticks and len(found) < most:
            key = self._fine[0]
            bucket = self._buckets[key]
            while bucket and len(found) < most:
                slot = bucket.pop()
                if self._due[slot] and self._due[slot] // _FINE == key:
                    self._due[slot] = 0
                    found.append(slot)
            if not bucket:
                heappop(self._fine)
                self._buckets.pop(key)
                self._stale.pop(key, None)
        return found

    def _key(self, ticks: int) -> int:
        coarse = ticks // _COARSE
        return ticks // _FINE if coarse < self._opened else -1 - coarse

    def _put(self, slot: int, ticks: int) -> None:
        key = self._key(ticks)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = array("I")
            heappush(*((self._fine, key) if key >= 0 else (self._coarse, -1 - key)))
        bucket.append(slot)

    def _open(self, coarse: int) -> None:
        self._opened = max(self._opened, coarse + 1)
        self._stale.pop(-1 - coarse, None)
        for slot in set(self._buckets.pop(-1 - coarse)):
            ticks = self._due[slot]
            if ticks and ticks // _COARSE == coarse:
                self._put(slot, ticks)
