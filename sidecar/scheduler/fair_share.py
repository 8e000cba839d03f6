"""Hierarchical start-time fair queueing: who is next, by what each has been charged.

Three levels, each with its own virtual time: markets (jobs that prefer the same quota pool), in them classes by
weight, in them lanes by their tenant's weight. With one pool in use the first level vanishes. A charge is in
pool-seconds and is divided by the weight; the smallest virtual time goes next. Prediction errors are added at
settlement (`settle`), so a lane pays what it used. A lane that was idle is lifted to the virtual time of its
line: it may neither save up service nor pay for the past. Virtual times of lines, markets and the root, the
levels that lanes are lifted to, never go back.

Inside a class there is a line per set of interchangeable pools, so that a head which waits for one pool holds
back neither other lanes nor its own lane's jobs for another. Sources: start-time fair queueing (Goyal 1996),
Virtual Token Counter (Sheng et al., OSDI'24).
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from sidecar.ports.bus import Lane
from sidecar.scheduler.tickets import Ticket

Pools = frozenset[str]
COLD_RATIO = 0.25
NEWCOMER_STARTS = 2
_NOT_IN_HEAP = -1
_ROUNDING = 1e-9
_numbers = count()


class Queue:
    """A lane's jobs for one set of pools, oldest first. `order` names its one valid entry in the line's heap."""

    __slots__ = ("flow", "items", "line", "order")

    def __init__(self, flow: "Flow", line: "Line") -> None:
        self.flow = flow
        self.line = line
        self.items: list[Ticket] = []
        self.order = _NOT_IN_HEAP

    @property
    def competes(self) -> bool:
        """Whether it has jobs that may be begun as far as holds are concerned."""
        return bool(self.items) and not self.line.is_held


class Flow:
    """A lane in one market. `vt` is its virtual time, `ratio` its expected output / max_tokens."""

    __slots__ = (
        "is_active",
        "is_parked",
        "lane",
        "queues",
        "ratio",
        "running",
        "served",
        "share",
        "tenant",
        "vt",
        "weighs",
        "window",
    )

    def __init__(self, lane: Lane, share: "Share", *, tenant: Any, window: Any) -> None:
        self.lane = lane
        self.tenant = tenant
        self.window = window
        self.share = share
        self.queues: list[Queue] = []
        self.vt = 0.0
        self.ratio = COLD_RATIO
        self.served = 0.0
        self.running = 0
        self.weighs = 0.0
        self.is_active = False
        self.is_parked = False


class Line:
    """The queues of one class for one set of pools. `v`: the virtual time of the last start.

    `newcomers` are queues whose lanes came from idleness, each with its entry and the number of starts before it:
    after `NEWCOMER_STARTS` further ones it is next, whatever settlements did to others meanwhile. `is_held`: its
    pools are all on hold, and none of its queues competes.
    """

    __slots__ = ("heap", "is_held", "newcomers", "pools", "stale", "starts", "v")

    def __init__(self, pools: Pools, v: float) -> None:
        self.pools = pools
        self.v = v
        self.stale = 0
        self.starts = 0
        self.is_held = False
        self.heap: list[tuple[float, int, Queue]] = []
        self.newcomers: deque[tuple[Queue, int, int]] = deque()

    def head(self) -> Queue | None:
        """The queue that is next. Stale entries are dropped; one whose lane was charged meanwhile moves back."""
        if self.newcomers and (newcomer := self._newcomer()) is not None:
            return newcomer
        heap = self.heap
        while heap:
            vt, order, queue = heap[0]
            if order != queue.order:
                heappop(heap)
                self.stale -= 1
            elif vt < queue.flow.vt:
                heapreplace(heap, (queue.flow.vt, order, queue))
            else:
                return queue
        return None

    def _newcomer(self) -> Queue | None:
        while self.newcomers:
            queue, order, starts = self.newcomers[0]
            if order == queue.order:
                return queue if self.starts - starts >= NEWCOMER_STARTS else None
            # It was served, or has left.
            self.newcomers.popleft()
        return None

    def greet(self, queue: Queue) -> None:
        """A queue that just entered belongs to a lane that was idle and owes nothing."""
        self.newcomers.append((queue, queue.order, self.starts))

    def floor(self) -> float:
        """What an idle lane is lifted to: the last start, or the least charged lane if that is more."""
        head = self.head()
        return self.v if head is None else max(self.v, head.flow.vt)

    def enter(self, queue: Queue) -> None:
        """Give a queue an entry by its lane's virtual time; an older one of it becomes stale."""
        if queue.order != _NOT_IN_HEAP:
            self.leave(queue)
        queue.order = next(_numbers)
        heappush(self.heap, (queue.flow.vt, queue.order, queue))

    def leave(self, queue: Queue) -> None:
        if queue.order == _NOT_IN_HEAP:
            return
        queue.order = _NOT_IN_HEAP
        self.stale += 1
        if self.stale > 64 and self.stale * 2 > len(self.heap):
            self.heap = [entry for entry in self.heap if entry[1] == entry[2].order]
            heapify(self.heap)
            self.stale = 0

    def serve(self, vt: float) -> None:
        """A head with this virtual time is the one in service, or the one that waits for its pool."""
        if vt > self.v:
            self.v = vt

    def advance(self, queue: Queue) -> None:
        """The head gave a job away and was charged: it goes behind those of equal virtual time, or leaves."""
        self.starts += 1
        if self.heap[0][1] != queue.order:
            # A newcomer whose turn it was by the number of starts.
            if queue.items:
                self.enter(queue)
            else:
                self.leave(queue)
        elif queue.items:
            queue.order = order = next(_numbers)
            heapreplace(self.heap, (queue.flow.vt, order, queue))
        else:
            heappop(self.heap)
            queue.order = _NOT_IN_HEAP


class Share:
    """One class in one market. `turns` counts waiting later turns, which keep the class active."""

    __slots__ = ("active", "lines", "market", "name", "vt", "weighs", "weight")

    def __init__(self, name: str, weight: float, market: "Market") -> None:
        self.name = name
        self.weight = weight
        self.market = market
        self.lines: dict[Pools, Line] = {}
        self.vt = 0.0
        self.active = 0
        self.weighs = 0.0

    def line(self, pools: Pools) -> Line:
        """The line for a set of pools. A new one starts where the slowest of the others is, not at zero."""
        line = self.lines.get(pools)
        if line is None:
            start = min((other.v for other in self.lines.values()), default=0.0)
            line = self.lines[pools] = Line(pools, start)
        return line

    def by_turn(self) -> Iterable[Line]:
        """The lines that wait for something, the one with the least charged lane first."""
        lines = self.lines
        if len(lines) == 1:
            return lines.values()
        waiting = [(queue.flow.vt, queue.order, line) for line in lines.values() if (queue := line.head())]
        waiting.sort()
        return [line for _, _, line in waiting]


class Market:
    """All jobs that prefer one pool. `v` is the last start of a class, what an idle class is lifted to."""

    __slots__ = ("active", "key", "shares", "v", "vt", "waiting", "weight")

    def __init__(self, key: str, classes: Mapping[str, float]) -> None:
        self.key = key
        self.shares = {name: Share(name, weight, self) for name, weight in classes.items()}
        self.waiting: tuple[Share, ...] = ()
        self.vt = 0.0
        self.v = 0.0
        self.weight = 1.0
        self.active = 0

    def note_waiting(self) -> None:
        """A class has something that waits again, or no more."""
        # Three classes at most: a loop, as a comprehension is a call of its own.
        waiting: list[Share] = []
        for share in self.shares.values():
            if share.active:
                waiting.append(share)
        self.waiting = tuple(waiting)

    def by_turn(self) -> Sequence[Share]:
        """The classes that wait for something, the least charged first."""
        waiting = self.waiting
        return waiting if len(waiting) < 2 else sorted(waiting, key=_vt)


def _vt(node: Share | Market) -> float:
    return node.vt


class FairShare:
    """The hierarchy as a whole: opens markets, activates and charges flows."""

    __slots__ = ("classes", "markets", "v", "weighs")

    def __init__(self, classes: Mapping[str, float]) -> None:
        self.classes = dict(classes)
        self.markets: dict[str, Market] = {}
        self.v = 0.0
        self.weighs = dict.fromkeys(classes, 0.0)

    def market(self, key: str) -> Market:
        market = self.markets.get(key)
        if market is None:
            market = self.markets[key] = Market(key, self.classes)
            market.vt = self.v
        return market

    def by_turn(self) -> Iterable[Market]:
        """The markets that wait for something, the least charged first."""
        if len(self.markets) == 1:
            return self.markets.values()
        markets = [market for market in self.markets.values() if market.active]
        markets.sort(key=_vt)
        return markets

    def set_classes(self, classes: Mapping[str, float]) -> None:
        """New weights hold for the next charge; what was charged stays charged."""
        self.classes.update(classes)
        for name, weight in classes.items():
            self.weighs.setdefault(name, 0.0)
            for market in self.markets.values():
                if name in market.shares:
                    market.shares[name].weight = weight
                else:
                    market.shares[name] = Share(name, weight, market)

    def activate(self, flow: Flow, *, credit: float | None = 0.0) -> None:
        """Put a flow's queues into their lines, after lifting it to the lines' virtual time less `credit`.

        `credit` is in pool-seconds of one lane; None: not lifted, as for a retry that never ran.
        """
        flow.is_active = True
        waiting = [queue for queue in flow.queues if queue.competes]
        is_newcomer = False
        if credit is not None and waiting:
            floor = min([queue.line.floor() for queue in waiting]) - credit / flow.tenant.weight
            if floor > flow.vt:
                flow.vt = floor
                is_newcomer = credit == 0
        for queue in waiting:
            queue.line.enter(queue)
            if is_newcomer:
                queue.line.greet(queue)
        self.wake(flow.share, is_lifted=credit is not None)

    def wake(self, share: Share, *, is_lifted: bool = True) -> None:
        """One more thing waits in this class."""
        market = share.market
        if is_lifted and not share.active:
            least = min(market.waiting, key=_vt).vt if market.waiting else market.v
            share.vt = max(share.vt, market.v, least)
        if is_lifted and not market.active:
            busy = [other.vt for other in self.markets.values() if other.active]
            market.vt = max(market.vt, self.v, min(busy, default=self.v))
        share.active += 1
        market.active += 1
        if share.active == 1:
            market.note_waiting()

    def rest(self, share: Share) -> None:
        """One thing less waits in this class."""
        share.active -= 1
        market = share.market
        market.active -= 1
        if not share.active:
            market.note_waiting()

    def deactivate(self, flow: Flow) -> None:
        """Take a flow out of its lines: it is empty, or at a cap of its tenant."""
        if flow.is_active:
            flow.is_active = False
            for queue in flow.queues:
                if queue.order != _NOT_IN_HEAP:
                    queue.line.leave(queue)
            self.rest(flow.share)

    def weigh(self, flow: Flow, weight: float) -> None:
        """How much a waiting flow counts when markets share the slots; 0 when it does not wait."""
        share = flow.share
        change = weight - flow.weighs
        flow.weighs = weight
        share.weighs += change
        self.weighs[share.name] += change

    def charge(self, flow: Flow, cost: float) -> tuple[float, float, float]:
        """Charge a start of `cost` pool-seconds. Returns what was added to flow, class and market."""
        share = flow.share
        market = share.market
        if share.vt > market.v:
            market.v = share.vt
        if market.vt > self.v:
            self.v = market.vt
        if len(self.markets) > 1:
            self._reweigh(market)
        added = (cost / flow.tenant.weight, cost / share.weight, cost / market.weight)
        flow.vt += added[0]
        share.vt += added[1]
        market.vt += added[2]
        return added

    def refund(self, flow: Flow, added: tuple[float, float, float]) -> None:
        """Take a charge back in full."""
        flow.vt -= added[0]
        flow.share.vt -= added[1]
        flow.share.market.vt -= added[2]
        self._advance(flow)

    def settle(self, flow: Flow, difference: float) -> None:
        """Add actual minus predicted cost, in pool-seconds."""
        share = flow.share
        flow.vt += difference / flow.tenant.weight
        share.vt += difference / share.weight
        share.market.vt += difference / share.market.weight
        if difference < 0 and flow.is_active:
            self._advance(flow)

    def _advance(self, flow: Flow) -> None:
        """A flow's virtual time fell: its entries in the heaps are too late, enter it anew."""
        if flow.is_active:
            for queue in flow.queues:
                if queue.competes:
                    queue.line.enter(queue)

    def _reweigh(self, market: Market) -> None:
        """A market weighs what waits in it: each class's weight, split over the markets its lanes wait in."""
        weight = 0.0
        for name, share in market.shares.items():
            if share.weighs > _ROUNDING:
                weight += share.weight * share.weighs / max(self.weighs[name], share.weighs)
        if weight > 0:
            market.weight = weight
