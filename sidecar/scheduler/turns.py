"""Later turns: the next model calls of running jobs, before queued jobs of their class."""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from operator import attrgetter
from typing import NamedTuple

import msgspec

from sidecar.scheduler.caps import Tenant
from sidecar.scheduler.fair_share import FairShare, Flow, Pools, Share
from sidecar.scheduler.tickets import Grant, Ticket

TurnKey = tuple[Pools, bool]


class LaterRoom(NamedTuple):
    """A pool that may take a call from `at` (monotonic seconds) on; `rank` is its place by preference."""

    at: float
    pool: str
    rank: int


def in_order(pools: Sequence[str], later: Sequence[LaterRoom]) -> tuple[str, ...]:
    """All pools by preference: those that may be used now, and each later one at its rank."""
    merged = list(pools)
    for room in sorted(later, key=attrgetter("rank")):
        merged.insert(room.rank, room.pool)
    return tuple(merged)


class NextCall:
    """A running job's next model call: one wait over all of its pools. It waits for quota, and for a slot where it
    holds none. `whole` names all of its pools, `ticket` those that it may use by now, `later` the others. `key` is
    that of the heap it is in.
    """

    __slots__ = ("flow", "is_told", "key", "later", "previous", "ticket", "whole")

    def __init__(
        self, previous: Grant, ticket: Ticket, flow: Flow, *, whole: Ticket, later: Sequence[LaterRoom]
    ) -> None:
        self.previous = previous
        self.ticket = ticket
        self.flow = flow
        self.whole = whole
        self.later = sorted(later)
        self.is_told = False
        self.key: TurnKey = (frozenset(), False)

    def advance(self, now: float) -> None:
        """Let it use the pools whose time has come until `now`, each at its place in the order of preference."""
        usable = set(self.ticket.pools)
        while self.later and self.later[0].at <= now:
            usable.add(self.later.pop(0).pool)
        pools = tuple(pool for pool in self.whole.pools if pool in usable)
        self.ticket = msgspec.structs.replace(self.ticket, pools=pools)


class Turns:
    """All waiting turns: per class and market a heap for each set of pools, by the virtual time of their lanes.

    Those that hold a slot and those that need one are kept apart, so that the latter are not in the way. A turn
    holds the slot of its last call for one pass of dispatch at most: what waits longer waits without.
    `waiting` are all turns by the id of the grant before them, `later` a heap of when further pools become usable.
    """

    def __init__(self, share: FairShare) -> None:
        self.share = share
        self._heaps: dict[Share, dict[TurnKey, list[tuple[float, int, NextCall]]]] = {}
        self.waiting: dict[int, NextCall] = {}
        self.later: list[tuple[float, int, NextCall]] = []
        # By the id of the grant before, like `waiting`, and emptied with it: what was granted is not to stay.
        self._with_slot: dict[int, NextCall] = {}
        self._numbers = count()

    def add(self, turn: NextCall, *, pools: Pools, needs_slot: bool) -> None:
        self.waiting[turn.previous.id] = turn
        self._enter(turn, (pools, needs_slot))
        if not needs_slot:
            self._with_slot[turn.previous.id] = turn
        self._watch(turn)
        self.share.wake(turn.flow.share)

    def of(self, previous: Grant) -> NextCall | None:
        """The turn that follows `previous`, if one waits."""
        return self.waiting.get(previous.id)

    def wake(self, now: float, pool_set: Callable[[tuple[str, ...]], Pools]) -> None:
        """Let turns use the pools whose time has come."""
        while self.later and self.later[0][0] <= now:
            _, _, turn = heappop(self.later)
            if self.waiting.get(turn.previous.id) is turn:
                self._take(turn)
                turn.advance(now)
                self._enter(turn, (pool_set(turn.ticket.pools), turn.key[1]))
                self._watch(turn)

    def give_up_slots(self, free: Callable[[Grant], None]) -> bool:
        """Take the slots of those that wait all the same. Whether there were any."""
        turns = list(self._with_slot.values())
        self._with_slot.clear()
        for turn in turns:
            free(turn.previous)
            self._take(turn)
            self._enter(turn, (turn.key[0], True))
        return bool(turns)

    def keys(self, share: Share, *, has_slot: bool) -> list[TurnKey]:
        """The heaps of a class whose turns could go on as far as slots are concerned."""
        return [key for key in self._heaps.get(share, ()) if has_slot or not key[1]]

    def head(self, share: Share, key: TurnKey, *, is_due: Callable[[Ticket, Tenant], bool]) -> NextCall | None:
        """The next turn of a heap, without those whose tenant may have no further slot now or that are not due."""
        heap = self._heaps[share][key]

        def may_go(turn: NextCall) -> bool:
            tenant: Tenant = turn.flow.tenant
            if key[1] and not tenant.has_slot:
                return False
            return tenant.budget is None or is_due(turn.ticket, tenant)

        if may_go(heap[0][2]):
            return heap[0][2]
        return next((turn for _, _, turn in sorted(heap) if may_go(turn)), None)

    def remove(self, turn: NextCall) -> None:
        """Take a turn out. O(log n) for a head. Its entry in `later` goes when its time comes."""
        self._take(turn)
        del self.waiting[turn.previous.id]
        self._with_slot.pop(turn.previous.id, None)
        self.share.rest(turn.flow.share)

    def withdraw(self, previous: Grant) -> bool:
        """Take out the turn that follows `previous`."""
        turn = self.waiting.get(previous.id)
        if turn is None:
            return False
        self.remove(turn)
        return True

    def _enter(self, turn: NextCall, key: TurnKey) -> None:
        turn.key = key
        heaps = self._heaps.setdefault(turn.flow.share, {})
        heappush(heaps.setdefault(key, []), (turn.flow.vt, next(self._numbers), turn))

    def _take(self, turn: NextCall) -> None:
        heaps = self._heaps[turn.flow.share]
        heap = heaps[turn.key]
        if heap[0][2] is turn:
            heappop(heap)
        else:
            heap[:] = [entry for entry in heap if entry[2] is not turn]
            heapify(heap)
        if not heap:
            del heaps[turn.key]

    def _watch(self, turn: NextCall) -> None:
        if turn.later:
            heappush(self.later, (turn.later[0].at, next(self._numbers), turn))
