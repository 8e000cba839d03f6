"""The slots of one lane's requests in the order of their sequences, in chunks. Pure."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from sidecar.ports.bus import Lane

CHUNK = 1024


class LaneOrder:
    """`seqs`, where a method takes them, are the sequences by slot. `size` is how many there are,
    `unread` how many of those nobody has read the payload of: whoever reads counts.

    Requests come and go at the ends as a rule; whatever else costs one chunk's move.
    """

    __slots__ = ("_chunks", "lane", "size", "unread")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.size = self.unread = 0
        self._chunks: list[array[int]] = []

    def insert(self, slot: int, seqs: "array[int]") -> None:
        self.size += 1
        chunks, seq = self._chunks, seqs[slot]
        if not chunks or seqs[chunks[-1][-1]] < seq:
            if chunks and len(chunks[-1]) < CHUNK:
                chunks[-1].append(slot)
            else:
                chunks.append(array("I", (slot,)))
            return
        at = self._chunk_of(seq, seqs)
        chunk = chunks[at]
        chunk.insert(bisect_left(chunk, seq, key=seqs.__getitem__), slot)
        if len(chunk) > 2 * CHUNK:
            chunks[at : at + 1] = [chunk[:CHUNK], chunk[CHUNK:]]

    def remove(self, slot: int, seqs: "array[int]") -> None:
        """Take out a slot that is there."""
        self.size -= 1
        at, within = 0, 0
        chunk = self._chunks[0]
        if chunk[0] != slot:
            at = self._chunk_of(seqs[slot], seqs)
            chunk = self._chunks[at]
            within = bisect_left(chunk, seqs[slot], key=seqs.__getitem__)
        del chunk[within]
        if not chunk:
            del self._chunks[at]

    def find(self, seq: int, seqs: "array[int]") -> int | None:
        """The slot of a sequence."""
        at = self._chunk_of(seq, seqs)
        if at == len(self._chunks):
            return None
        chunk = self._chunks[at]
        slot = chunk[bisect_left(chunk, seq, key=seqs.__getitem__)]
        return slot if seqs[slot] == seq else None

    def rank(self, seq: int, seqs: "array[int]") -> int:
        """How many sequences are lower."""
        at = self._chunk_of(seq, seqs)
        before = sum(map(len, self._chunks[:at]))
        if at == len(self._chunks):
            return before
        return before + bisect_left(self._chunks[at], seq, key=seqs.__getitem__)

    def last(self, seqs: "array[int]") -> int:
        return seqs[self._chunks[-1][-1]] if self._chunks else 0

    def before(self, seq: int, seqs: "array[int]") -> Iterator[int]:
        """The sequences below `seq`, descending."""
        at = self._chunk_of(seq, seqs)
        for number in range(min(at, len(self._chunks) - 1), -1, -1):
            chunk = self._chunks[number]
            end = bisect_left(chunk, seq, key=seqs.__getitem__) if number == at else len(chunk)
            for within in range(end - 1, -1, -1):
                yield seqs[chunk[within]]

    def _chunk_of(self, seq: int, seqs: "array[int]") -> int:
        """The first chunk that ends at `seq` or behind it."""
        return bisect_left(self._chunks, seq, key=lambda chunk: seqs[chunk[-1]])
