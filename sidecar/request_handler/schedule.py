"""The scheduler: which queued job may make its next model call now, and on which quota pool.

Pure: values in, values out; `now` is monotonic seconds and never goes back. It joins the hierarchy of
`fair_share`, the `backlog` in memory, the pools of `quota` and the `ledger` of debits. `epoch_offset` turns
monotonic into wall-clock seconds, for deadlines and quota days; `expire` keeps it current.

A pass asks markets, classes and lines in the order of their virtual times. A head that no pool has room for
holds its pools for the rest of the pass: nobody passes it there, while the buckets fill up to what it needs.
"""

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

import msgspec

from sidecar.models.profile import Limits
from sidecar.ports import Lane
from sidecar.request_handler.backlog import CREDIT_S, Backlog
from sidecar.request_handler.caps import Tenant
from sidecar.request_handler.fair_share import FairShare, Flow, Line, Pools, Queue, Share
from sidecar.request_handler.ledger import Ledger
from sidecar.request_handler.quota import Pool, Throttle
from sidecar.request_handler.tickets import Blocked, Dropped, Grant, TenantCaps, Ticket


class Turn:
    """A running job's next model call. It waits for quota, and for a slot where it gave its own back."""

    __slots__ = ("flow", "number", "previous", "ticket")

    def __init__(self, previous: Grant, ticket: Ticket, flow: Flow) -> None:
        self.previous = previous
        self.ticket = ticket
        self.flow = flow
        self.number = previous.turn + 1


TurnKey = tuple[Pools, bool]
TurnHeap = list[tuple[float, int, Turn]]


class Scheduler:
    """See the module."""

    def __init__(
        self,
        *,
        classes: Mapping[str, float],
        slots: int,
        tenants: Callable[[str], TenantCaps] = lambda name: TenantCaps(),
        limits: Callable[[str], Limits] = lambda pool: Limits(),
        interactive_reserve: float = 0.05,
        window: int = 16,
        epoch_offset: float = 0.0,
    ) -> None:
        self.share = FairShare(classes)
        self.ledger = Ledger(self.share, caps=tenants, limits=limits, epoch_offset=epoch_offset)
        self.backlog = Backlog(self.share, self.ledger.tenant, size=window)
        self._interactive_reserve = interactive_reserve
        self._held: dict[str, float] = {}
        self._is_slot_short = False
        self._wakes: list[tuple[float, int, Tenant]] = []
        self._turns: dict[Share, dict[TurnKey, TurnHeap]] = {}
        self._turn_count = 0
        self._orders = count()
        self.set_slots(slots)

    @property
    def queued(self) -> int:
        """Tickets in all windows."""
        return self.backlog.queued

    @property
    def open_grants(self) -> Mapping[int, Grant]:
        """Debits that are neither settled nor undone, by id."""
        return self.ledger.open

    def set_slots(self, slots: int) -> None:
        """How many jobs may run at once over all workers; running ones are never taken back."""
        self.ledger.set_slots(slots, kept_share=self._interactive_reserve)

    def set_policy(
        self,
        *,
        classes: Mapping[str, float],
        tenants: Callable[[str], TenantCaps],
        limits: Callable[[str], Limits],
        now: float,
    ) -> None:
        """Take new weights, caps and quotas while running. O(lanes)."""
        self.share.set_classes(classes)
        self.ledger.caps = tenants
        self.ledger.limits = limits
        for name, tenant in self.ledger.tenants.items():
            tenant.set_caps(tenants(name), now=now)
            self._unpark(tenant)
        for key, pool in self.ledger.pools.items():
            pool.set_limits(limits(key), now=now)
        self.backlog.reweigh()

    # ── the backlog ────────────────────────────────────────────────────────────────────────────────────────

    def room(self, lane: Lane) -> int:
        """How many more tickets the lane's window takes: up to 16 (setting), to 64 while its heads are blocked."""
        return self.backlog.room(lane, is_blocked=self._is_held)

    def _is_held(self, queue: Queue) -> bool:
        held = self._held
        return bool(held) and len(held) < len(self.ledger.pools) and all(key in held for key in queue.line.pools)

    def push(self, ticket: Ticket, *, now: float) -> None:
        """Append a ticket, oldest first, each once. Raises KeyError for a class that is not configured."""
        self.ledger.now = now
        self.backlog.push(ticket)

    def remove(self, lane: Lane, seq: int) -> bool:
        """Take a queued ticket out, for instance because it was cancelled. False when it is not queued here."""
        return self.backlog.remove(lane, seq)

    def requeue(self, grant: Grant, *, now: float, not_before: float | None = None) -> bool:
        """Undo a grant and put its ticket back at the head of its lane, not lifted; at `not_before` if given."""
        if not self.undo(grant, now=now):
            return False
        if not_before is not None and not_before > now:
            self.backlog.delay(grant.ticket, until=not_before)
        else:
            self.backlog.push(grant.ticket, is_retry=True, credit=None)
        return True

    def expire(self, *, now: float, epoch: float) -> list[Dropped]:
        """Tickets that left without running since the last call: their deadline passed, or no pool can hold them.

        `epoch` is the wall clock at `now`; it is remembered for deadlines until the next call.
        """
        self.ledger.epoch_offset = epoch - now
        self.backlog.expire(epoch)
        dropped, self.backlog.dropped = self.backlog.dropped, []
        return dropped

    # ── dispatch ───────────────────────────────────────────────────────────────────────────────────────────

    def grant(self, *, now: float) -> Grant | None:
        """The next call that may start, with everything debited; None when nothing may start now."""
        ledger = self.ledger
        ledger.now = now
        if self._wakes or self.backlog.has_timers:
            self._wake(now)
        self._is_slot_short = False
        if ledger.slots_used >= ledger.slots and not self._turn_count:
            self._is_slot_short = self.backlog.queued > 0
            self._held = {}
            return None
        held: dict[str, float] = {}
        for market in self.share.by_turn():
            for share in market.by_turn():
                found = self._from_class(share, held, now)
                if found is not None:
                    return found
        self._held = held
        return None

    def _wake(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            tenant = heappop(self._wakes)[2]
            tenant.wakes_at = inf
            self._unpark(tenant)
        self.backlog.wake(now)
        self.backlog.expire(now + self.ledger.epoch_offset)

    def _from_class(self, share: Share, held: dict[str, float], now: float) -> Grant | None:
        has_slot = self.ledger.has_slot(share.name)
        if self._turn_count and (heaps := self._turns.get(share)):
            for key in list(heaps):
                if has_slot or not key[1]:
                    found = self._from_turns(heaps, key, held, now)
                    if found is not None:
                        return found
        if not has_slot:
            self._is_slot_short = True
            return None
        for line in share.by_turn():
            found = self._from_line(line, held, now)
            if found is not None:
                return found
        return None

    def _from_line(self, line: Line, held: dict[str, float], now: float) -> Grant | None:
        backlog = self.backlog
        while (queue := line.head()) is not None:
            flow = queue.flow
            ticket = queue.items[0]
            tenant: Tenant = flow.tenant
            if tenant.is_bounded and self._park(flow, ticket, now):
                continue
            pool = self._choose(flow, ticket, held, now)
            if pool is None:
                if self._is_runnable(ticket):
                    return None
                backlog.remove(ticket.lane, ticket.seq)
                backlog.drop(ticket, "quota_exceeded")
                continue
            line.pop_head(queue)
            backlog.took(flow)
            grant = self.ledger.debit(flow, ticket, pool, turn=1, takes_slot=True, now=now)
            if queue.items:
                line.rotate(queue)
            else:
                backlog.settle_down(flow)
            return grant
        return None

    def _from_turns(
        self, heaps: dict[TurnKey, TurnHeap], key: TurnKey, held: dict[str, float], now: float
    ) -> Grant | None:
        heap = heaps[key]
        turn = heap[0][2]
        pool = self._choose(turn.flow, turn.ticket, held, now)
        if pool is None:
            return None
        self._drop_turn(heaps, key, 0)
        return self.ledger.debit(turn.flow, turn.ticket, pool, turn=turn.number, takes_slot=key[1], now=now)

    def _choose(self, flow: Flow, ticket: Ticket, held: dict[str, float], now: float) -> Pool | None:
        """The first pool of the ticket's with room. Those without are held for it."""
        pools = self.ledger.pools
        output = flow.ratio * ticket.max_tokens
        for key in ticket.pools:
            if key in held:
                continue
            pool = pools.get(key) or self.ledger.pool(key)
            tokens = pool.burndown * output
            need = ticket.input_tokens + (ticket.max_tokens if ticket.max_tokens > tokens else tokens)
            if pool.fits(need, now=now):
                return pool
            if ticket.input_tokens + ticket.max_tokens <= pool.largest:
                held[key] = need
        return None

    def _is_runnable(self, ticket: Ticket) -> bool:
        need = ticket.input_tokens + ticket.max_tokens
        return any(need <= self.ledger.pool(key).largest for key in ticket.pools)

    def _park(self, flow: Flow, ticket: Ticket, now: float) -> bool:
        """Take a lane out whose tenant is at a cap. False when it is not."""
        tenant: Tenant = flow.tenant
        wait_s = tenant.wait_s(ticket.input_tokens + ticket.max_tokens, now=now)
        if wait_s <= 0:
            return False
        self.backlog.deactivate(flow)
        tenant.parked.append(flow)
        if wait_s < inf and now + wait_s < tenant.wakes_at:
            tenant.wakes_at = now + wait_s
            heappush(self._wakes, (tenant.wakes_at, next(self._orders), tenant))
        return True

    def _unpark(self, tenant: Tenant) -> None:
        if tenant.parked:
            parked, tenant.parked = tenant.parked, []
            for flow in parked:
                if any(queue.items for queue in flow.queues):
                    self.backlog.activate(flow, credit=CREDIT_S)

    # ── the end of a call, and what may follow it ──────────────────────────────────────────────────────────

    def settle(
        self,
        grant: Grant,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        seconds: float,
        now: float,
        keeps_slot: bool = False,
    ) -> bool:
        """Close the debit of a call that was made, at what it used. False when it was closed before.

        Cache reads are free. `keeps_slot`: the job goes on; follow with `next_turn`, `release_slot` or `finish`.
        """
        self.ledger.now = now
        closed = self.ledger.settle(
            grant,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_write_tokens=cache_write_tokens,
            seconds=seconds,
            now=now,
        )
        if closed and not keeps_slot:
            self.release_slot(grant)
        return closed

    def undo(self, grant: Grant, *, now: float, keeps_slot: bool = False) -> bool:
        """Close the debit of a call that was not made or was refused. False when it was closed before."""
        self.ledger.now = now
        undone = self.ledger.undo(grant, now=now)
        if undone and not keeps_slot:
            self.release_slot(grant)
        return undone

    def release_slot(self, grant: Grant) -> None:
        """Give the slot back: the job waits for a tool or a child, or has ended. Idempotent."""
        if grant.holds_slot:
            self.ledger.free_slot(grant)
            self._unpark(grant.flow.tenant)

    def next_turn(
        self, grant: Grant, *, pools: tuple[str, ...], input_tokens: int, max_tokens: int, now: float
    ) -> None:
        """Ask for a running job's next call, after `settle` or `undo`.

        It comes from `grant` as a new Grant with the same job, `turn` + 1, before queued jobs of its class. It
        takes over the slot, or takes one where it was released.
        """
        self.ledger.now = now
        if grant.is_open:
            raise ValueError(f"grant {grant.id} is neither settled nor undone")
        ticket = msgspec.structs.replace(
            grant.ticket, pools=pools, input_tokens=input_tokens, max_tokens=max_tokens
        )
        flow = self.backlog.flow(ticket.lane, pools[0])
        heaps = self._turns.setdefault(flow.share, {})
        key = (self.backlog.pool_set(pools), not grant.holds_slot)
        heappush(heaps.setdefault(key, []), (flow.vt, next(self._orders), Turn(grant, ticket, flow)))
        self._turn_count += 1
        self.share.wake(flow.share)

    def switch(self, grant: Grant, *, pools: tuple[str, ...], now: float) -> bool:
        """Fall back to other pools: undo the first charge, ask for the call anew. False when it was closed."""
        if not self.undo(grant, now=now, keeps_slot=True):
            return False
        self.next_turn(grant, pools=pools, input_tokens=grant.input_tokens, max_tokens=grant.max_tokens, now=now)
        return True

    def finish(self, grant: Grant, *, now: float) -> None:
        """End a job in any state: withdraw its waiting turn, undo an open debit, free the slot. Idempotent."""
        self.undo(grant, now=now)
        self.release_slot(grant)
        for heaps in self._turns.values():
            for key, heap in list(heaps.items()):
                for at, entry in enumerate(heap):
                    if entry[2].previous is grant:
                        self._drop_turn(heaps, key, at)
                        return

    def _drop_turn(self, heaps: dict[TurnKey, TurnHeap], key: TurnKey, at: int) -> None:
        heap = heaps[key]
        turn = heap[at][2]
        if at == 0:
            heappop(heap)
        else:
            del heap[at]
            heapify(heap)
        if not heap:
            del heaps[key]
        self._turn_count -= 1
        self.share.rest(turn.flow.share)

    # ── what the pools teach ───────────────────────────────────────────────────────────────────────────────

    def throttled(
        self, pool: str, *, now: float, kind: Throttle = "quota", retry_after: float | None = None
    ) -> None:
        """A call was refused: `quota` 429, `region` 503, `daily` tokens-per-day, `not_ready` ModelNotReady."""
        self.ledger.now = now
        self.ledger.pool(pool).throttled(kind, now=now, retry_after=retry_after)

    def succeeded(self, pool: str, *, now: float) -> None:
        """A call was answered."""
        self.ledger.now = now
        self.ledger.pool(pool).succeeded(now=now)

    # ── what the owner asks ────────────────────────────────────────────────────────────────────────────────

    def next_wake(self, *, now: float) -> float | None:
        """When something that is blocked may become grantable by itself (monotonic); None: only by an event."""
        wakes = [self.backlog.next_wake(epoch_offset=self.ledger.epoch_offset)]
        if self._wakes:
            wakes.append(self._wakes[0][0])
        wakes += [now + self.ledger.pool(key).wait_s(need, now=now) for key, need in self._held.items()]
        soonest = min(wakes)
        return None if soonest == inf else max(soonest, now)

    def blocked(self, lane: Lane, *, now: float) -> Blocked | None:
        """Why nothing of a lane runs further; None when it has nothing queued or is simply not next."""
        state = self.backlog.lanes.get(lane)
        if state is None or not state.queued:
            return None
        if any(flow in state.tenant.parked for flow in state.flows.values()):
            wakes_at = state.tenant.wakes_at
            return Blocked("tenant", None if wakes_at == inf else max(wakes_at - now, 0.0))
        if not self.ledger.has_slot(lane.job_class):
            return Blocked("slot")
        waiting = [queue for flow in state.flows.values() for queue in flow.queues if queue.items]
        if waiting and all(key in self._held for queue in waiting for key in queue.line.pools):
            return Blocked("quota", self._quota_wait_s(waiting, now))
        return None

    def _quota_wait_s(self, waiting: Iterable[Queue], now: float) -> float | None:
        """Only the head of a line knows how long the bucket needs; those behind it do not."""
        waits = [
            self.ledger.pool(key).wait_s(self._held[key], now=now)
            for queue in waiting
            if queue.line.head() is queue
            for key in queue.line.pools
        ]
        soonest = min(waits, default=inf)
        return None if soonest == inf else soonest
