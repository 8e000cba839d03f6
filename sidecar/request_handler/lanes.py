"""What the index knows of each lane: how far it has been read, and whether more may stand behind. Pure."""

from collections.abc import Iterator, Mapping

from sidecar.ports.bus import Doorbell, Lane, LaneCounts


class LaneIndex:
    """One lane. `read_seq`: everything up to here is in memory or gone. `has_more`: something may stand behind.

    `tracked` counts requests in memory, `stored` all that the stream holds: the count of the last reconcile and
    what was heard since. A lane that holds more than it may has an `edge`: what stands behind it, `beyond`
    requests, is not read with the others but judged one by one in its order, and the edge moves past each that was
    judged, up to `judged_seq`; `excess` counts those that were judged to be too many and are not gone yet.
    """

    __slots__ = (
        "beyond",
        "edge",
        "excess",
        "has_more",
        "is_filling",
        "judged_seq",
        "lane",
        "read_seq",
        "stored",
        "tracked",
    )

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.read_seq = 0
        self.has_more = False
        self.is_filling = False
        self.tracked = 0
        self.edge: int | None = None
        self.beyond = 0
        self.judged_seq = 0
        self.excess = 0
        self.stored = 0

    @property
    def kept(self) -> int:
        """How many requests the lane has that stay: queued and running."""
        return self.stored - self.beyond - self.excess

    def is_beyond(self, seq: int) -> bool:
        """Whether a request is yet to be judged."""
        return self.edge is not None and seq > self.edge

    def let_in(self, seq: int) -> None:
        """The next request beyond the edge may stay: it is read when those before it have been."""
        self.judged(seq)
        if seq > self.read_seq:
            self.has_more = True

    def judged(self, seq: int) -> None:
        """The edge moves past a request."""
        if self.edge is not None and seq > self.edge:
            self.edge = self.judged_seq = seq
            if self.beyond:
                self.beyond -= 1
            else:
                # No doorbell told of it. Uncounted, its end would leave a place that nobody left, and everything
                # that follows would be let in.
                self.stored += 1

    def lift_edge(self) -> None:
        """Nothing stands behind the edge any more, as far as is known."""
        self.edge, self.beyond = None, 0


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

    def ring(self, doorbell: Doorbell, *, most: int) -> LaneIndex | None:
        """Note a doorbell. The lane, or None when the request is known already.

        A request that is more than the `most` its lane may hold is to be judged, and with it all that follow it
        before it was.
        """
        lane, seq = self.lane(doorbell.lane), doorbell.seq
        is_new = seq > self.highest_seq
        if is_new:
            self.highest_seq = seq
        if seq <= lane.judged_seq:
            # The judgement was faster than the doorbell, and has counted it.
            return None
        lane.stored += is_new
        if seq <= lane.read_seq:
            return None
        if lane.edge is None and lane.stored > most and seq not in self._tracked:
            lane.edge = seq - 1
        if lane.is_beyond(seq):
            lane.beyond += is_new
        else:
            lane.has_more = True
        return lane

    def hold(self, lane: Lane, seq: int) -> None:
        """A request is in a worker's hands, whether it was read here or not."""
        if seq not in self._tracked:
            self._tracked[seq] = lane
            self.lane(lane).tracked += 1

    def turn_away(self, lane: LaneIndex, seq: int) -> None:
        """The next request beyond the edge is one too many: it is ended, and not read with the others."""
        lane.judged(seq)
        if seq not in self._tracked:
            self.hold(lane.lane, seq)
            self._excess.add(seq)
            lane.excess += 1

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
        before = {lane: index.stored for lane, index in self.lanes.items()}
        for index in self.lanes.values():
            index.stored = 0
        for lane, count in backlog.counts.items():
            index = self.lane(lane)
            index.stored = count
            if index.edge is not None:
                # What was not heard of came after what was.
                index.beyond = max(0, index.beyond + count - before.get(lane, count))
            if count > index.tracked + index.beyond and not index.is_filling:
                if not index.has_more:
                    index.read_seq = 0
                index.has_more = True
                yield index
        self._drop_idle(backlog.counts)

    def _drop_idle(self, counts: Mapping[Lane, int]) -> None:
        for lane in [key for key, index in self.lanes.items() if key not in counts and _is_idle(index)]:
            del self.lanes[lane]


def _is_idle(index: LaneIndex) -> bool:
    return not (index.tracked or index.has_more or index.is_filling or index.edge is not None)
