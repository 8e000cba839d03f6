"""What the index knows of each lane: how far it has been read, and whether more may stand behind. Pure."""

from collections.abc import Iterator, Mapping

from sidecar.ports.bus import Doorbell, Lane, LaneCounts


class LaneIndex:
    """One lane. `read_seq`: everything up to here is in memory or gone. `has_more`: something may stand behind.

    `tracked` counts requests in memory, `excess` those of them that are turned away, `stored` all that the stream
    holds: the count of the last reconcile and what was heard since.
    """

    __slots__ = ("excess", "has_more", "is_filling", "lane", "read_seq", "stored", "tracked")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.read_seq = 0
        self.has_more = False
        self.is_filling = False
        self.tracked = 0
        self.excess = 0
        self.stored = 0


class Index:
    """All lanes, and the requests in memory: waiting in a window, or granted and not yet ended."""

    def __init__(self) -> None:
        self.lanes: dict[Lane, LaneIndex] = {}
        self._tracked: dict[int, Lane] = {}
        self._excess: set[int] = set()
        self.highest_seq = 0

    def lane(self, lane: Lane) -> LaneIndex:
        found = self.lanes.get(lane)
        if found is None:
            found = self.lanes[lane] = LaneIndex(lane)
        return found

    def ring(self, doorbell: Doorbell) -> LaneIndex | None:
        """Note a doorbell. The lane to read, or None when the request is known already."""
        lane = self.lane(doorbell.lane)
        if doorbell.seq > self.highest_seq:
            self.highest_seq = doorbell.seq
            lane.stored += 1
        if doorbell.seq <= lane.read_seq:
            return None
        lane.has_more = True
        return lane

    def hold(self, lane: Lane, seq: int) -> None:
        """A request is in a worker's hands, whether it was read here or not."""
        if seq not in self._tracked:
            self._tracked[seq] = lane
            self.lane(lane).tracked += 1

    def set_aside(self, lane: LaneIndex, seq: int) -> bool:
        """A request is one too many for its lane: not to be read with the others. False when it is known."""
        if seq in self._tracked or seq <= lane.read_seq:
            return False
        self.hold(lane.lane, seq)
        self._excess.add(seq)
        lane.excess += 1
        return True

    def let_in(self, lane: LaneIndex, seq: int) -> None:
        """There is room after all for a request that was set aside."""
        if seq in self._excess:
            self._excess.discard(seq)
            del self._tracked[seq]
            lane.excess -= 1
            lane.tracked -= 1

    def track(self, lane: LaneIndex, seq: int) -> bool:
        """A request was read. False when it is in memory already."""
        if seq > lane.read_seq:
            lane.read_seq = seq
        if seq in self._tracked:
            return False
        self._tracked[seq] = lane.lane
        lane.tracked += 1
        return True

    def forget(self, seq: int) -> None:
        """A request is gone from the stream, or no concern of ours any more."""
        lane = self._tracked.pop(seq, None)
        if lane is not None:
            index = self.lanes[lane]
            index.tracked -= 1
            index.stored = max(0, index.stored - 1)
            if seq in self._excess:
                self._excess.discard(seq)
                index.excess -= 1

    def is_tracked(self, seq: int) -> bool:
        return seq in self._tracked

    def reconcile(self, backlog: LaneCounts) -> Iterator[LaneIndex]:
        """The lanes to read, by what the stream really holds.

        A lane that holds more than what is in memory, though nothing is known to stand behind, has a hole: a
        doorbell was lost, or a request was dropped on the way. It is read again from its start.
        """
        self.highest_seq = max(self.highest_seq, backlog.last_seq)
        for index in self.lanes.values():
            index.stored = 0
        for lane, count in backlog.counts.items():
            index = self.lane(lane)
            index.stored = count
            if count > index.tracked and not index.is_filling:
                if not index.has_more:
                    index.read_seq = 0
                index.has_more = True
                yield index
        self._drop_idle(backlog.counts)

    def _drop_idle(self, counts: Mapping[Lane, int]) -> None:
        for lane in [key for key, index in self.lanes.items() if key not in counts and _is_idle(index)]:
            del self.lanes[lane]


def _is_idle(index: LaneIndex) -> bool:
    return not (index.tracked or index.has_more or index.is_filling)
