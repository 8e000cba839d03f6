"""Every stored request by job id and by its place in its lane, in arrays: some 45 bytes each. Pure.

An id is found by its hash, so what is found is a candidate: the stored header says whether it is the job.
"""

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sidecar.ports.bus import Lane
from sidecar.request_handler.deadline_wheel import DeadlineWheel
from sidecar.request_handler.lane_order import LaneOrder

_SHARDS = 256
_SHARD_BITS = 8
_SMALLEST = 16
_HASH = 0xFFFF_FFFF
# In `marks`: whether a payload was read; the other bits are a fingerprint of its metadata.
_READ = 1 << 31


class Indexed(NamedTuple):
    """A stored request as the index knows it."""

    seq: int
    lane: Lane


class JobIndex:
    """What is stored. Jobs are told apart by (tenant, job id); two requests with one id are two entries.

    A slot is a job's number here: its place in `_seqs`, `_hashes`, `_lanes`, `_marks` and in the wheel.
    The table of hashes is cut into shards, so that the growth of one takes some milliseconds at most.
    """

    def __init__(self, *, now: float) -> None:
        self._born = now
        self._reset()

    def _reset(self) -> None:
        self._seqs, self._hashes = array("Q"), array("I")
        self._lanes, self._marks = array("I"), array("I")
        self._free = array("I")
        self._wheel = DeadlineWheel(now=self._born)
        self._tables = [array("I", bytes(4 * _SMALLEST)) for _ in range(_SHARDS)]
        self._filled = [0] * _SHARDS
        self._orders: list[LaneOrder | None] = []
        self._numbers: dict[Lane, int] = {}
        self._spare_numbers: list[int] = []
        self._size = 0
        # Hashes that more than one request has, or had.
        self._shared: set[int] = set()

    def __len__(self) -> int:
        return self._size

    # Changes.

    def add(self, seq: int, lane: Lane, job: str, *, deadline: float | None = None) -> bool:
        """Take a request in. False when it is there already."""
        key = hash((lane.tenant, job)) & _HASH
        for slot in self._slots(key):
            if self._seqs[slot] == seq:
                return False
            self._shared.add(key)
        slot = self._new_slot(seq, key, self._number(lane))
        order = self._order(lane)
        order.insert(slot, self._seqs)
        order.unread += 1
        self._enter(key, slot)
        self._size += 1
        if deadline is not None:
            self._wheel.watch(slot, deadline)
        return True

    def discard(self, seq: int, lane: Lane, job: str) -> bool:
        """A request is gone from the stream. False when it was not known."""
        key = hash((lane.tenant, job)) & _HASH
        slot = self._slot(key, seq)
        if slot is None:
            return False
        self._remove(slot)
        return True

    def drop(self, seq: int, lane: Lane) -> bool:
        """The same for a request whose job id is not at hand."""
        order = self._order_of(lane)
        slot = order.find(seq, self._seqs) if order is not None else None
        if slot is None:
            return False
        self._remove(slot)
        return True

    def _remove(self, slot: int) -> None:
        number = self._lanes[slot]
        order = self._orders[number]
        if order is not None:
            order.remove(slot, self._seqs)
            order.unread -= not self._marks[slot] & _READ
            if not order.size:
                del self._numbers[order.lane]
                self._orders[number] = None
                self._spare_numbers.append(number)
        self._leave(self._hashes[slot], slot)
        self._wheel.forget(slot)
        self._free.append(slot)
        self._size -= 1
        if not self._size and len(self._seqs) > _SMALLEST:
            # A backlog has been worked off: its arrays go with it.
            self._reset()

    def note_read(
        self, seq: int, lane: Lane, job: str, *, metadata: Mapping[str, object], deadline: float | None = None
    ) -> None:
        """A payload was read: what it says that is looked for."""
        slot = self._slot(hash((lane.tenant, job)) & _HASH, seq)
        if slot is None:
            return
        self._order(lane).unread -= not self._marks[slot] & _READ
        self._marks[slot] = _READ | fingerprint(metadata)
        if deadline is not None:
            self._wheel.watch(slot, deadline)

    def watch(self, seq: int, lane: Lane, deadline: float) -> None:
        """Tell of this request again at `deadline`."""
        order = self._order_of(lane)
        slot = order.find(seq, self._seqs) if order is not None else None
        if slot is not None:
            self._wheel.watch(slot, deadline)

    def take_due(self, now: float, *, most: int) -> list[Indexed]:
        """Requests whose deadline has passed, each once; a quarter of a second late at most."""
        due = self._wheel.take_due(now, most=most)
        return [self._indexed(slot) for slot in due] if due else []

    # Questions.

    def unread(self, lane: Lane) -> int:
        """How many of the lane's payloads nobody has read yet."""
        order = self._order_of(lane)
        return order.unread if order is not None else 0

    @property
    def lanes(self) -> Iterator[Lane]:
        return iter(tuple(self._numbers))

    def find(self, tenant: str, job: str) -> list[Indexed]:
        """Requests that may be the job's, the lowest sequence first: of those that are, that one is the job."""
        key = hash((tenant, job)) & _HASH
        found = [self._indexed(slot) for slot in self._slots(key)]
        return sorted(entry for entry in found if entry.lane.tenant == tenant)

    def may_be_second(self, seq: int, tenant: str, job: str) -> bool:
        """Whether a request stored before this one may be of the same job. Costs next to nothing as a rule."""
        if not self._shared or (key := hash((tenant, job)) & _HASH) not in self._shared:
            return False
        seqs = [self._seqs[slot] for slot in self._slots(key)]
        if len(seqs) < 2:
            self._shared.discard(key)
        return any(found < seq for found in seqs)

    def length(self, lane: Lane) -> int:
        order = self._order_of(lane)
        return order.size if order is not None else 0

    def rank(self, seq: int, lane: Lane) -> int:
        """How many of the lane's requests have a lower sequence."""
        order = self._order_of(lane)
        return order.rank(seq, self._seqs) if order is not None else 0

    def last(self, lane: Lane) -> int:
        """The lane's highest sequence; 0 when it is empty."""
        order = self._order_of(lane)
        return order.last(self._seqs) if order is not None else 0

    def before(self, seq: int, lane: Lane) -> Iterator[int]:
        """The lane's sequences below `seq`, descending. The index must not change meanwhile."""
        order = self._order_of(lane)
        return order.before(seq, self._seqs) if order is not None else iter(())

    def may_fit(self, seq: int, lane: Lane, wanted: int) -> bool:
        """Whether a request was read and its metadata may hold what `wanted` is the fingerprint of."""
        order = self._order_of(lane)
        slot = order.find(seq, self._seqs) if order is not None else None
        return slot is not None and bool(self._marks[slot] & _READ) and not wanted & ~self._marks[slot]

    def is_read(self, seq: int, lane: Lane) -> bool:
        return self.may_fit(seq, lane, 0)

    # Lanes.

    def _number(self, lane: Lane) -> int:
        number = self._numbers.get(lane)
        if number is None:
            if self._spare_numbers:
                number = self._spare_numbers.pop()
                self._orders[number] = LaneOrder(lane)
            else:
                number = len(self._orders)
                self._orders.append(LaneOrder(lane))
            self._numbers[lane] = number
        return number

    def _order(self, lane: Lane) -> LaneOrder:
        order = self._orders[self._numbers[lane]]
        if order is None:
            raise KeyError(lane)
        return order

    def _order_of(self, lane: Lane) -> LaneOrder | None:
        number = self._numbers.get(lane)
        return None if number is None else self._orders[number]

    def _indexed(self, slot: int) -> Indexed:
        order = self._orders[self._lanes[slot]]
        if order is None:
            raise KeyError(slot)
        return Indexed(self._seqs[slot], order.lane)

    def _new_slot(self, seq: int, key: int, number: int) -> int:
        if self._free:
            slot = self._free.pop()
            self._seqs[slot], self._hashes[slot], self._lanes[slot], self._marks[slot] = seq, key, number, 0
            return slot
        self._seqs.append(seq)
        self._hashes.append(key)
        self._lanes.append(number)
        self._marks.append(0)
        return len(self._seqs) - 1

    # The table of hashes: open addressing, slot + 1 in each place, 0 where there is none.

    def _slots(self, key: int) -> Iterator[int]:
        table = self._tables[key & (_SHARDS - 1)]
        mask = len(table) - 1
        at = (key >> _SHARD_BITS) & mask
        while entry := table[at]:
            if self._hashes[entry - 1] == key:
                yield entry - 1
            at = (at + 1) & mask

    def _slot(self, key: int, seq: int) -> int | None:
        table, hashes, seqs = self._tables[key & (_SHARDS - 1)], self._hashes, self._seqs
        mask = len(table) - 1
        at = (key >> _SHARD_BITS) & mask
        while entry := table[at]:
            if hashes[entry - 1] == key and seqs[entry - 1] == seq:
                return entry - 1
            at = (at + 1) & mask
        return None

    def _enter(self, key: int, slot: int) -> None:
        shard = key & (_SHARDS - 1)
        table = self._tables[shard]
        self._filled[shard] += 1
        if self._filled[shard] * 3 > len(table) * 2:
            table = self._tables[shard] = self._resized(table, len(table) * 2)
        _put(table, (key >> _SHARD_BITS), slot + 1)

    def _leave(self, key: int, slot: int) -> None:
        """Take a slot out; what stands behind it and could have its place moves up, so that no marks are left."""
        shard = key & (_SHARDS - 1)
        table = self._tables[shard]
        mask = len(table) - 1
        at = (key >> _SHARD_BITS) & mask
        while table[at] != slot + 1:
            at = (at + 1) & mask
        hole = at
        while True:
            at = (at + 1) & mask
            entry = table[at]
            if not entry:
                break
            home = (self._hashes[entry - 1] >> _SHARD_BITS) & mask
            if ((at - home) & mask) >= ((at - hole) & mask):
                table[hole], hole = entry, at
        table[hole] = 0
        self._filled[shard] -= 1
        if len(table) > _SMALLEST and self._filled[shard] * 8 < len(table):
            self._tables[shard] = self._resized(table, len(table) // 2)

    def _resized(self, table: "array[int]", size: int) -> "array[int]":
        made = array("I", bytes(4 * size))
        for entry in table:
            if entry:
                _put(made, self._hashes[entry - 1] >> _SHARD_BITS, entry)
        return made


def _put(table: "array[int]", home: int, entry: int) -> None:
    mask = len(table) - 1
    at = home & mask
    while table[at]:
        at = (at + 1) & mask
    table[at] = entry


def fingerprint(metadata: Mapping[str, object]) -> int:
    """Two of 31 bits for each pair of a request's metadata: what lacks one of them lacks the pair.

    A number and its text are the same here, as they are to a command line.
    """
    bits = 0
    for name, value in metadata.items():
        text = "true" if value is True else "false" if value is False else str(value)
        mixed = hash((name, text))
        bits |= 1 << (mixed % 31) | 1 << ((mixed >> 8) % 31)
    return bits
