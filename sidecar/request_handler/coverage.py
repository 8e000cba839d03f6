"""Which sequences of a stream have been heard of. Doorbells have no gaps, so a lost one is a hole. Pure."""

from bisect import bisect_right


class Coverage:
    """Everything up to `highest` is known but what lies in a hole."""

    __slots__ = ("_holes", "highest")

    def __init__(self) -> None:
        self.highest = 0
        self._holes: list[tuple[int, int]] = []

    @property
    def is_complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self._holes

    def knows(self, seq: int) -> bool:
        """Whether everything up to `seq` is known."""
        return seq <= self.highest and (not self._holes or seq < self._holes[0][0])

    def hear(self, seq: int) -> bool:
        """A doorbell rang for a sequence. False when it was known."""
        highest = self.highest
        if seq == highest + 1:
            self.highest = seq
            return True
        if seq > highest:
            self._holes.append((highest + 1, seq - 1))
            self.highest = seq
            return True
        if not any(first <= seq <= last for first, last in self._holes):
            return False
        self.close(seq, seq)
        return True

    def expect(self, last: int) -> None:
        """The stream has come to `last`."""
        if last > self.highest:
            self._holes.append((self.highest + 1, last))
            self.highest = last

    def next_hole(self) -> tuple[int, int] | None:
        """The first and last sequence of the oldest hole."""
        return self._holes[0] if self._holes else None

    def close(self, first: int, last: int) -> None:
        """What is stored of [first, last] is known now."""
        kept: list[tuple[int, int]] = []
        # Holes that end before are left alone: there may be many where much was lost one by one.
        at = bisect_right(self._holes, first, key=lambda hole: hole[1]) if self._holes else 0
        at = max(0, at - 1)
        for start, end in self._holes[at:]:
            if end < first or start > last:
                kept.append((start, end))
                continue
            if start < first:
                kept.append((start, first - 1))
            if end > last:
                kept.append((last + 1, end))
        self._holes[at:] = kept
