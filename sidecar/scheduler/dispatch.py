"""One dispatch decision: classes, then lanes, then pools; and the lanes that wait for a cap of their tenant.

A pass asks markets, classes and lines in the order of their virtual times. A head that no pool has room for
holds its pools for the rest of the pass: nobody passes it there, while the buckets fill up to what it needs.
"""

from heapq import heappop, heappush
from itertools import count
from math import inf

from sidecar.errors import Permanent
from sidecar.scheduler.backlog import Backlog
from sidecar.scheduler.caps import Tenant
from sidecar.scheduler.fair_share import FairShare, Flow, Line, Queue, Share
from sidecar.scheduler.holds import Holds
from sidecar.scheduler.ledger import Ledger
from sidecar.scheduler.quota import Pool
from sidecar.scheduler.tenants import refusal
from sidecar.scheduler.tickets import DeniedCall, Grant, Ticket
from sidecar.scheduler.turns import Turns

# Of a lane's held jobs so many are looked at for a probe; how often so many jobs were one is remembered.
PROBED = 16
MOST_PROBED = 4096


class Dispatch:
    """See the module. `held` are the pools that heads waited for in the last pass, with the tokens they need.

    `wakes` is a heap of when tenants' buckets hold what their parked lanes need, `holds` what no call gets past.
    """

    def __init__(self, share: FairShare, *, backlog: Backlog, turns: Turns, ledger: Ledger, holds: Holds) -> None:
        self.share = share
        self.holds = holds
        self.backlog = backlog
        self.turns = turns
        self.ledger = ledger
        self.held: dict[str, float] = {}
        self.wakes: list[tuple[float, int, Tenant]] = []
        self.denied: list[DeniedCall] = []
        self.probed: dict[int, int] = {}
        self._numbers = count()

    def next(self, now: float) -> Grant | None:
        """The next call that may start, debited; None when nothing may start now."""
        self.ledger.now = now
        backlog, later = self.backlog, self.turns.later
        if self.wakes or backlog.delayed or backlog.deadlines or (later and later[0][0] <= now):
            self._wake(now)
        if not self.turns.waiting and (not backlog.queued or self.ledger.slots_used >= self.ledger.slots):
            self.held = {}
            return None
        found = self._pass(now)
        # What no pool has room for waits without its slot; others may go in its place.
        while found is None and self.turns.waiting and self.turns.give_up_slots(self._free_slot):
            found = self._pass(now)
        if found is None and backlog.holding.count and self.holds.is_any_due(now):
            found = self._probe(now)
        return found

    def _probe(self, now: float) -> Grant | None:
        """Of the held jobs whose pool may be tried one that was tried least, of these the least charged lane's."""
        best: tuple[int, float, Queue, Ticket, Pool] | None = None
        for state in self.backlog.lanes.values():
            if not state.held or not state.tenant.has_slot:
                continue
            for flow in state.flows.values():
                for queue in flow.queues:
                    if queue.items and queue.line.is_held and self.ledger.has_slot(flow.lane.job_class):
                        ticket = min(queue.items[:PROBED], key=self._times_probed)
                        rank = (self._times_probed(ticket), flow.vt)
                        pool = self._pool_to_probe(ticket, flow, now) if best is None or rank < best[:2] else None
                        if pool is not None:
                            best = (*rank, queue, ticket, pool)
        if best is None:
            return None
        _, _, queue, ticket, pool = best
        self.probed[ticket.seq] = self.probed.pop(ticket.seq, 0) + 1
        if len(self.probed) > MOST_PROBED:
            del self.probed[next(iter(self.probed))]
        self.backlog.take_held(queue, ticket)
        self.holds.begin_probe(pool.key, ticket.seq, now)
        return self.ledger.debit(queue.flow, ticket, pool, now)

    def _times_probed(self, ticket: Ticket) -> int:
        return self.probed.get(ticket.seq, 0)

    def _pool_to_probe(self, ticket: Ticket, flow: Flow, now: float) -> Pool | None:
        key = self.holds.pool_to_probe(ticket.pools, now)
        if key is None or (flow.tenant.budget is not None and not self._is_due(ticket, flow.tenant)):
            return None
        pool, need = self.ledger.pool(key), ticket.input_tokens + ticket.max_tokens
        return pool if need <= pool.largest and pool.fits(need, now) else None

    def _free_slot(self, grant: Grant) -> None:
        self.ledger.free_slot(grant)
        self.backlog.unpark(grant.flow.tenant)

    def _pass(self, now: float) -> Grant | None:
        held: dict[str, float] = {}
        for market in self.share.by_turn():
            for share in market.by_turn():
                if self.turns.waiting and (found := self._from_turns(share, held, now)) is not None:
                    return found
                if self.ledger.has_slot(share.name):
                    for line in share.by_turn():
                        if (found := self._from_line(line, held, now)) is not None:
                            return found
        self.held = held
        return None

    def _wake(self, now: float) -> None:
        while self.wakes and self.wakes[0][0] <= now:
            tenant = heappop(self.wakes)[2]
            tenant.wakes_at = inf
            self.backlog.unpark(tenant)
        if self.turns.later:
            self.turns.wake(now, self.backlog.pool_set)
        if self.backlog.delayed:
            self.backlog.wake(now)
        if self.backlog.deadlines:
            self.backlog.expire(now + self.ledger.epoch_offset)

    def _from_line(self, line: Line, held: dict[str, float], now: float) -> Grant | None:
        backlog = self.backlog
        while (queue := line.head()) is not None:
            flow = queue.flow
            ticket = queue.items[0]
            tenant: Tenant = flow.tenant
            is_bounded = tenant.bucket is not None or tenant.running >= tenant.concurrency
            if (is_bounded and self._park(flow, ticket, now)) or (
                tenant.budget is not None and self._is_unpaid(flow, ticket)
            ):
                continue
            pool = self._choose(flow, ticket, held, now)
            if pool is None:
                if self.is_runnable(ticket):
                    line.serve(flow.vt)
                    return None
                backlog.remove(ticket.lane, ticket.seq)
                backlog.drop(ticket, "quota_exceeded")
                continue
            items = queue.items
            del items[0]
            if flow.vt > line.v:
                line.v = flow.vt
            flow.window.queued -= 1
            backlog.queued -= 1
            grant = self.ledger.debit(flow, ticket, pool, now)
            line.advance(queue)
            if not items:
                backlog.settle_down(flow)
            return grant
        return None

    def _from_turns(self, share: Share, held: dict[str, float], now: float) -> Grant | None:
        for key in self.turns.keys(share, has_slot=self.ledger.has_slot(share.name)):
            turn = self.turns.head(share, key, is_due=self._is_due)
            if turn is None:
                continue
            if turn.flow.tenant.budget is not None and (error := self.unpayable(turn.whole, turn.flow.tenant)):
                self.turns.remove(turn)
                self.denied.append(DeniedCall(turn.previous, error))
                continue
            pool = self._choose(turn.flow, turn.ticket, held, now)
            if pool is None and not self.is_runnable(turn.whole):
                # A quota that shrank below a call that already waits: the model's own refusal ends it.
                pool = self.ledger.pool(turn.ticket.pools[0])
            if pool is not None:
                self.turns.remove(turn)
                return self.ledger.debit(turn.flow, turn.whole, pool, now, turn.previous)
        return None

    def _choose(self, flow: Flow, ticket: Ticket, held: dict[str, float], now: float) -> Pool | None:
        """The first pool of the ticket's with room. Those without are held for it, unless they could never."""
        pools = self.ledger.pools
        input_tokens = ticket.input_tokens
        max_tokens = ticket.max_tokens
        output = flow.ratio * max_tokens
        holds = None if self.holds.is_quiet else self.holds
        for key in ticket.pools:
            if key in held or (holds is not None and not holds.admits(key, now)):
                continue
            pool = pools.get(key) or self.ledger.pool(key)
            if input_tokens + max_tokens > pool.largest:
                continue
            tokens = pool.burndown * output
            need = input_tokens + (max_tokens if max_tokens > tokens else tokens)
            if flow.tenant.budget is not None and self.ledger.money(ticket, key) > flow.tenant.budget.free:
                continue
            if pool.fits(need, now):
                if holds is not None:
                    holds.started(key)
                return pool
            held[key] = need
        return None

    def is_runnable(self, ticket: Ticket) -> bool:
        """Whether any of its pools can ever hold the ticket."""
        need, opened = ticket.input_tokens + ticket.max_tokens, self.ledger.pools
        return any(need <= (opened.get(key) or self.ledger.pool(key)).largest for key in ticket.pools)

    def unpayable(self, ticket: Ticket, tenant: Tenant) -> Permanent | None:
        """Why the rest of the tenant's budget can't pay the call today, even when all that runs has ended."""
        budget = self.ledger.budget(tenant)
        if budget is None:
            return None
        needed = self.ledger.money_needed(ticket)
        return None if needed <= budget.left else refusal(ticket, budget, needed=needed)

    def _is_unpaid(self, flow: Flow, ticket: Ticket) -> bool:
        """Take a job out that the tenant can't pay: for today, or until calls that run have ended."""
        error = self.unpayable(ticket, flow.tenant)
        if error is not None:
            self.backlog.remove(ticket.lane, ticket.seq)
            self.backlog.drop(ticket, "budget_exceeded", error)
            return True
        if self._is_due(ticket, flow.tenant):
            return False
        self.backlog.park(flow)
        return True

    def _is_due(self, ticket: Ticket, tenant: Tenant) -> bool:
        """Whether nothing has to end before the call is made or denied."""
        budget = self.ledger.budget(tenant)
        if budget is None:
            return True
        needed = self.ledger.money_needed(ticket)
        return needed <= budget.free or needed > budget.left

    def _park(self, flow: Flow, ticket: Ticket, now: float) -> bool:
        """Take a lane out whose tenant is at a cap. False when it is not."""
        tenant: Tenant = flow.tenant
        wait_s = tenant.wait_s(ticket.input_tokens + ticket.max_tokens, now=now)
        if wait_s <= 0:
            return False
        self.backlog.park(flow)
        if wait_s < inf and now + wait_s < tenant.wakes_at:
            tenant.wakes_at = now + wait_s
            heappush(self.wakes, (tenant.wakes_at, next(self._numbers), tenant))
        return True
