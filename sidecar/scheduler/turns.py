"""Later turns: the next model calls of running jobs, before queued jobs of their class."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from sidecar.scheduler.caps import Tenant
from sidecar.scheduler.fair_share import FairShare, Flow, Pools, Share
from sidecar.scheduler.tickets import Grant, Ticket

TurnKey = tuple[Pools, bool]


class NextCall:
    """A running job's next model call. It waits for quota, and for a slot where it gave its own back."""

    __slots__ = ("flow", "previous", "ticket")

    def __init__(self, previous: Grant, ticket: Ticket, flow: Flow) -> None:
        self.previous = previous
        self.ticket = ticket
        self.flow = flow


class Turns:
    """All waiting turns: per class and market a heap for each set of pools, by the virtual time of their lanes.

    Those that hold a slot and those that need one are kept apart, so that the latter are not in the way.
    """

    def __init__(self, share: FairShare) -> None:
        self.share = share
        self.count = 0
        self._heaps: dict[Share, dict[TurnKey, list[tuple[float, int, NextCall]]]] = {}
        self._numbers = count()

    def add(self, turn: NextCall, *, pools: Pools, needs_slot: bool) -> None:
        heaps = self._heaps.setdefault(turn.flow.share, {})
        heappush(heaps.setdefault((pools, needs_slot), []), (turn.flow.vt, next(self._numbers), turn))
        self.count += 1
        self.share.wake(turn.flow.share)

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

    def remove(self, share: Share, key: TurnKey, turn: NextCall) -> None:
        """Take a turn out. O(log n) for a head."""
        heap = self._heaps[share][key]
        if heap[0][2] is turn:
            heappop(heap)
        else:
            heap[:] = [entry for entry in heap if entry[2] is not turn]
            heapify(heap)
        if not heap:
            del self._heaps[share][key]
        self.count -= 1
        self.share.rest(share)

    def withdraw(self, previous: Grant) -> bool:
        """Take out the turn that follows `previous`. O(waiting turns)."""
        if not self.count:
            return False
        for share, heaps in self._heaps.items():
            for key, heap in heaps.items():
                for _, _, turn in heap:
                    if turn.previous is previous:
                        self.remove(share, key, turn)
                        return True
        return False
