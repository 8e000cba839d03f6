"""The bounded part of the backlog that is in memory: per lane a window of tickets, in the order of arrival.

Also what leaves a window by itself: tickets whose deadline passed, and retries that may not go on yet.
"""

from collections.abc import Container, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from sidecar.errors import ErrorCode, SidecarError
from sidecar.models.pauses import Pause
from sidecar.ports.bus import Lane
from sidecar.scheduler.caps import Tenant
from sidecar.scheduler.fair_share import FairShare, Flow, Pools, Queue
from sidecar.scheduler.holding import Holding, held_too_long
from sidecar.scheduler.ledger import Ledger
from sidecar.scheduler.paused import Paused
from sidecar.scheduler.tickets import DroppedTicket, Ticket

CREDIT_S = 2.0
GROWN_WINDOW = 64
GROWTH_BUDGET = 16_384
# So many jobs on hold are kept in memory beside the windows, of all lanes together.
MOST_HELD = 65_536


class LaneState:
    """What a lane has in memory: its flows (one per market) and how many tickets they hold.

    `held` of those queued or delayed are on hold, and take no room from others.
    """

    __slots__ = ("active", "delayed", "flows", "held", "queued", "tenant")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.flows: dict[str, Flow] = {}
        self.queued = 0
        self.delayed = 0
        self.held = 0
        self.active = 0


class Backlog:
    """All lanes' windows over one `FairShare`. `queued` counts tickets, delayed retries included.

    `delayed` and `deadlines` are heaps by time, monotonic and wall-clock. `holding` keeps account of jobs on hold.
    """

    def __init__(self, share: FairShare, ledger: Ledger, *, size: int, holding: Holding, paused: Paused) -> None:
        self.paused = paused
        self.share = share
        self.ledger = ledger
        self.size = size
        self.holding = holding
        self.lanes: dict[Lane, LaneState] = {}
        self.queued = 0
        self.dropped: list[DroppedTicket] = []
        self._sets: dict[tuple[str, ...], Pools] = {}
        self.delayed: list[tuple[float, int, Ticket]] = []
        self.deadlines: list[tuple[float, int, Ticket]] = []
        self._numbers = count()

    def flow(self, lane: Lane, market: str) -> Flow:
        """The lane's place in a market. Raises KeyError for a class that is not configured."""
        state = self.lane(lane)
        flow = state.flows.get(market)
        if flow is None:
            share = self.share.market(market).shares[lane.job_class]
            flow = state.flows[market] = Flow(lane, share, tenant=state.tenant, window=state)
        return flow

    def lane(self, lane: Lane) -> LaneState:
        state = self.lanes.get(lane)
        if state is None:
            state = self.lanes[lane] = LaneState(self.ledger.tenant(lane.tenant))
        return state

    def pool_set(self, pools: tuple[str, ...]) -> Pools:
        found = self._sets.get(pools)
        if found is None:
            if len(self._sets) > 4096:
                self._sets.clear()
            found = self._sets[pools] = frozenset(pools)
        return found

    def room(self, lane: Lane, *, held: Container[str]) -> int:
        """How many more tickets the lane may hand over. While all its jobs wait for `held` pools it may grow.

        The growth of all lanes together is bounded, so memory is, too.
        """
        if self.paused.count and not self.paused.may_read(lane, size=self.size):
            return 0
        state = self.lanes.get(lane)
        if state is None:
            return self.size
        free = self.size - state.queued - state.delayed
        if state.held and self.holding.may_pass:
            free += state.held
        if free > 0 or self.queued > self.size * len(self.lanes) + GROWTH_BUDGET:
            return max(free, 0)
        waiting = [queue for flow in state.flows.values() for queue in flow.queues if queue.competes]
        if waiting and all(key in held for queue in waiting for key in queue.line.pools):
            return max(GROWN_WINDOW - state.queued - state.delayed, 0)
        return 0

    def push(self, ticket: Ticket, *, is_retry: bool = False, credit: float | None = 0.0) -> None:
        """Append a ticket to its lane's window, or put a retry at its head."""
        pools = self._usable(ticket)
        if not pools:
            self.drop(ticket, "quota_exceeded")
            return
        if self.paused.rules and self.paused.take(ticket):
            if ticket.deadline is not None:
                self._watch(ticket, ticket.deadline)
            return
        flow = self.flow(ticket.lane, ticket.pools[0])
        state: LaneState = flow.window
        queue = self._queue(flow, pools)
        if is_retry:
            queue.items.insert(0, ticket)
        else:
            queue.items.append(ticket)
        state.queued += 1
        self.queued += 1
        if ticket.deadline is not None:
            self._watch(ticket, ticket.deadline)
        if queue.line.is_held:
            self._is_held(state, ticket)
        elif flow.is_active:
            if len(queue.items) == 1:
                queue.line.enter(queue)
        elif not flow.is_parked:
            self.activate(flow, credit=credit)

    def _usable(self, ticket: Ticket) -> Pools:
        """The pools that can hold the ticket at all: only for these it queues, so it holds nobody up elsewhere."""
        need, opened = ticket.input_tokens + ticket.max_tokens, self.ledger.pools
        pools = self.pool_set(ticket.pools)
        for key in ticket.pools:
            if need > (opened.get(key) or self.ledger.pool(key)).largest:
                return frozenset(key for key in pools if need <= self.ledger.pool(key).largest)
        return pools

    def _watch(self, ticket: Ticket, deadline: float) -> None:
        if len(self.deadlines) > 2 * (self.queued + self.paused.count) + 1024:
            waiting = {id(ticket) for ticket in self.tickets()}
            self.deadlines = [entry for entry in self.deadlines if id(entry[2]) in waiting]
            heapify(self.deadlines)
        heappush(self.deadlines, (deadline, next(self._numbers), ticket))

    def tickets(self) -> Iterator[Ticket]:
        """All that wait, delayed retries and what is paused included. O(tickets)."""
        yield from self.paused.tickets()
        for state in self.lanes.values():
            for flow in state.flows.values():
                for queue in flow.queues:
                    yield from queue.items
        for _, _, ticket in self.delayed:
            yield ticket

    def park(self, flow: Flow) -> None:
        """Take a flow out whose tenant is at a cap."""
        self.deactivate(flow)
        flow.is_parked = True
        flow.tenant.parked.append(flow)

    def unpark(self, tenant: Tenant) -> None:
        """Let a tenant's parked lanes compete again; those still at a cap are parked when their turn comes."""
        if tenant.parked:
            parked, tenant.parked = tenant.parked, []
            for flow in parked:
                flow.is_parked = False
                if any(queue.competes for queue in flow.queues):
                    self.activate(flow, credit=CREDIT_S)

    def activate(self, flow: Flow, *, credit: float | None) -> None:
        """Let a flow compete that has tickets; see `FairShare.activate` for `credit`."""
        self.share.activate(flow, credit=credit)
        state: LaneState = flow.window
        state.active += 1
        self._weigh(state)

    def deactivate(self, flow: Flow) -> None:
        """The flow is empty or parked."""
        if flow.is_active:
            self.share.deactivate(flow)
            state: LaneState = flow.window
            state.active -= 1
            self.share.weigh(flow, 0.0)
            if state.active:
                self._weigh(state)

    def _weigh(self, state: LaneState) -> None:
        """A lane's weight is split evenly over the markets that it waits in."""
        weight = state.tenant.weight / state.active
        for flow in state.flows.values():
            if flow.is_active:
                self.share.weigh(flow, weight)

    def reweigh(self) -> None:
        """Tenants' weights have changed. O(lanes)."""
        for state in self.lanes.values():
            if state.active:
                self._weigh(state)

    def _queue(self, flow: Flow, pools: Pools) -> Queue:
        for queue in flow.queues:
            if queue.line.pools is pools or queue.line.pools == pools:
                return queue
        if len(flow.queues) > 3:
            flow.queues = [queue for queue in flow.queues if queue.items]
        line = flow.share.lines.get(pools)
        if line is None:
            line = flow.share.line(pools)
            line.is_held = self.holding.is_held(pools)
        queue = Queue(flow, line)
        flow.queues.append(queue)
        return queue

    # Holds.

    def rehold(self) -> None:
        """What is on hold has changed: take lines out of the competition, and let others in. O(lanes)."""
        changed = set()
        for market in self.share.markets.values():
            for share in market.shares.values():
                for line in share.lines.values():
                    if line.is_held is not self.holding.is_held(line.pools):
                        line.is_held = not line.is_held
                        changed.add(line)
        for state in self.lanes.values() if changed else ():
            for flow in state.flows.values():
                queues = [queue for queue in flow.queues if queue.items and queue.line in changed]
                if queues:
                    self._rehold(state, flow, queues)

    def _rehold(self, state: LaneState, flow: Flow, queues: list[Queue]) -> None:
        for queue in queues:
            if queue.line.is_held:
                queue.line.leave(queue)
                for ticket in queue.items:
                    self._is_held(state, ticket)
                continue
            for ticket in queue.items:
                self._is_free(state, ticket)
            if flow.is_active:
                queue.line.enter(queue)
        if flow.is_active:
            self.settle_down(flow)
        elif not flow.is_parked and any(queue.competes for queue in flow.queues):
            # As one that was idle: an outage earns nobody a claim on others.
            self.activate(flow, credit=0.0)

    def _is_held(self, state: LaneState, ticket: Ticket) -> None:
        state.held += 1
        stored_at = ticket.stored_at - self.ledger.epoch_offset
        self.holding.add(ticket, now=self.ledger.now, stored_at=stored_at)

    def _is_free(self, state: LaneState, ticket: Ticket) -> None:
        state.held -= 1
        self.holding.free(ticket)

    def take_held(self, queue: Queue, ticket: Ticket) -> None:
        """A job on hold leaves to be the probe of what it is held for. What it was held since stands."""
        queue.items.remove(ticket)
        self.took(queue.flow)
        queue.flow.window.held -= 1
        self.holding.count -= 1

    def expire_held(self) -> None:
        """Drop the jobs that have been on hold for as long as their class may be."""
        for ticket, held_s in self.holding.overdue(self.ledger.now):
            is_held = ticket.seq in self.holding.alone or self.holding.is_held(self.pool_set(ticket.pools))
            if is_held and self.remove(ticket.lane, ticket.seq):
                self.drop(ticket, "model_unavailable", held_too_long(ticket, self.holding.reason, held_s))

    def took(self, flow: Flow) -> None:
        """A ticket left by dispatch."""
        flow.window.queued -= 1
        self.queued -= 1

    def settle_down(self, flow: Flow) -> None:
        """After tickets left: a flow without any is idle."""
        for queue in flow.queues:
            if queue.items and not queue.line.is_held:
                return
        self.deactivate(flow)

    def forget_idle(self, keep: int = 20_000) -> None:
        """Drop lanes that have nothing and owe nothing; beyond `keep` lanes also their predictions. O(lanes)."""
        surplus = len(self.lanes) - keep
        if surplus <= 0:
            return
        for lane, state in list(self.lanes.items()):
            if (
                surplus > 0
                and not state.queued
                and not state.delayed
                and all(map(_owes_nothing, state.flows.values()))
            ):
                del self.lanes[lane]
                surplus -= 1

    def pause(self, rules: Sequence[Pause]) -> None:
        """Take new pauses over: put aside what they hold, queue what they hold no more, as what was idle is."""
        waiting = list(self.tickets()) if rules else []
        for ticket in self.paused.set_rules(rules):
            self.push(ticket)
        for ticket in waiting:
            if self.paused.rule_for(ticket) is not None and self.remove(ticket.lane, ticket.seq):
                self.paused.take(ticket)

    def delay(self, ticket: Ticket, *, until: float) -> None:
        """Keep a retry aside until `until` (monotonic)."""
        state = self.lane(ticket.lane)
        state.delayed += 1
        self.queued += 1
        if ticket.seq in self.holding.alone:
            state.held += 1
            self.holding.count += 1
        heappush(self.delayed, (until, ticket.seq, ticket))
        if ticket.deadline is not None:
            self._watch(ticket, ticket.deadline)

    def wake(self, now: float) -> None:
        """Return retries whose time has come to the heads of their lanes."""
        while self.delayed and self.delayed[0][0] <= now:
            _, _, ticket = heappop(self.delayed)
            self._is_no_more_delayed(self.lanes[ticket.lane], ticket)
            self.push(ticket, is_retry=True, credit=CREDIT_S)

    def _is_no_more_delayed(self, state: LaneState, ticket: Ticket) -> None:
        state.delayed -= 1
        self.queued -= 1
        if ticket.seq in self.holding.alone:
            self.holding.alone.discard(ticket.seq)
            state.held -= 1
            self.holding.count -= 1

    def expire(self, epoch: float) -> None:
        """Drop the tickets whose deadline has passed."""
        while self.deadlines and self.deadlines[0][0] <= epoch:
            _, _, ticket = heappop(self.deadlines)
            if self.remove(ticket.lane, ticket.seq):
                self.drop(ticket, "deadline_exceeded")

    def drop(self, ticket: Ticket, code: ErrorCode, error: SidecarError | None = None) -> None:
        self.dropped.append(DroppedTicket(ticket, code, error))

    def next_wake(self, *, epoch_offset: float) -> float:
        """Monotonic seconds of the next delayed retry or deadline."""
        wake = min(self.delayed[0][0] if self.delayed else inf, self.holding.next_end)
        return min(wake, self.deadlines[0][0] - epoch_offset) if self.deadlines else wake

    def remove(self, lane: Lane, seq: int) -> bool:
        """Take a ticket out. O(window)."""
        if self.paused.count and self.paused.remove(lane, seq):
            return True
        state = self.lanes.get(lane)
        if state is None:
            return False
        for flow in state.flows.values():
            for queue in flow.queues:
                for at, ticket in enumerate(queue.items):
                    if ticket.seq == seq:
                        del queue.items[at]
                        self.took(flow)
                        if queue.line.is_held:
                            self._is_free(state, ticket)
                        elif flow.is_parked:
                            self.unpark(flow.tenant)
                        elif not queue.items:
                            queue.line.leave(queue)
                            self.settle_down(flow)
                        return True
        return bool(state.delayed) and self._remove_delayed(state, lane, seq)

    def _remove_delayed(self, state: LaneState, lane: Lane, seq: int) -> bool:
        found = [entry for entry in self.delayed if entry[1] == seq and entry[2].lane == lane]
        if not found:
            return False
        self.delayed = [entry for entry in self.delayed if entry not in found]
        heapify(self.delayed)
        self._is_no_more_delayed(state, found[0][2])
        return True


def _owes_nothing(flow: Flow) -> bool:
    floor = min((line.v for line in flow.share.lines.values()), default=0.0)
    return not flow.running and flow.vt <= floor
