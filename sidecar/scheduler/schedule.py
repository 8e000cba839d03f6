"""The scheduler: which queued job may make its next model call now, and on which quota pool.

Pure: values in, values out; `now` is monotonic seconds and never goes back. It joins the hierarchy of
`fair_share`, the `backlog` in memory, the `turns` of running jobs and the `ledger` of debits, over which
`dispatch` looks for the next call. `epoch_offset`
turns monotonic into wall-clock seconds, for deadlines and quota days; the owner keeps it current.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Any

import msgspec

from sidecar.errors import Permanent
from sidecar.models.holds import said_of
from sidecar.models.pauses import Pause
from sidecar.models.profile import QuotaLimits
from sidecar.models.result import Usage
from sidecar.ports.bus import Lane
from sidecar.scheduler import checkpoint, wait_estimate
from sidecar.scheduler.backlog import MOST_HELD, Backlog
from sidecar.scheduler.dispatch import Dispatch
from sidecar.scheduler.fair_share import FairShare
from sidecar.scheduler.holding import Holding, MaxHold
from sidecar.scheduler.holds import Holds
from sidecar.scheduler.ledger import Ledger
from sidecar.scheduler.meter import Meter
from sidecar.scheduler.paused import ModelOf, Paused
from sidecar.scheduler.quota import Throttle
from sidecar.scheduler.refusals import Limit
from sidecar.scheduler.tenants import Price
from sidecar.scheduler.tickets import DeniedCall, DroppedTicket, Grant, TenantCaps, Ticket, WaitReason
from sidecar.scheduler.turns import LaterRoom, NextCall, Turns, in_order


class Scheduler:
    """See the module. `now` is given to every method that depends on time."""

    def __init__(
        self,
        *,
        classes: Mapping[str, float],
        slots: int,
        tenants: Callable[[str], TenantCaps] = lambda name: TenantCaps(),
        limits: Callable[[str], QuotaLimits] = lambda pool: QuotaLimits(),
        price: Price = lambda pool, input_tokens, max_tokens: 0.0,
        meter: Meter | None = None,
        interactive_reserve: float = 0.05,
        window: int = 16,
        epoch_offset: float = 0.0,
        max_hold_s: MaxHold = lambda name: None,
        model_of: ModelOf = lambda pool: None,
    ) -> None:
        """`max_hold_s(class)`: how long its jobs may be held; None for no bound."""
        self.share = FairShare(classes)
        self.ledger = Ledger(self.share, caps=tenants, limits=limits, price=price, epoch_offset=epoch_offset)
        self.holds = Holds()
        self.holding = Holding(self.holds, max_hold_s=max_hold_s, most=MOST_HELD)
        self.paused = Paused(model_of)
        self.backlog = Backlog(self.share, self.ledger, size=window, holding=self.holding, paused=self.paused)
        self.turns = Turns(self.share)
        self.dispatch = Dispatch(
            self.share, backlog=self.backlog, turns=self.turns, ledger=self.ledger, holds=self.holds
        )
        self._holds_seen = 0
        self.meter = meter
        self._interactive_reserve = interactive_reserve
        self.set_slots(slots)

    @property
    def epoch_offset(self) -> float:
        """Wall-clock minus monotonic seconds."""
        return self.ledger.epoch_offset

    @epoch_offset.setter
    def epoch_offset(self, seconds: float) -> None:
        self.ledger.epoch_offset = seconds

    @property
    def is_idle(self) -> bool:
        """Whether neither ticket nor later turn waits, nor what was refused: then `grant` gives nothing."""
        dispatch, backlog = self.dispatch, self.backlog
        return not (
            backlog.queued
            or self.paused.count
            or self.turns.waiting
            or backlog.dropped
            or dispatch.denied
            or dispatch.held
        )

    def set_slots(self, slots: int) -> None:
        """How many jobs may run at once over all workers; running ones are never taken back."""
        self.ledger.set_slots(slots, kept_share=self._interactive_reserve)

    def set_policy(
        self,
        *,
        classes: Mapping[str, float],
        tenants: Callable[[str], TenantCaps],
        limits: Callable[[str], QuotaLimits],
        now: float,
    ) -> None:
        """Take new weights, caps and quotas while running. What was charged stays charged. O(lanes)."""
        self.ledger.now = now
        self.share.set_classes(classes)
        self.ledger.caps = tenants
        self.ledger.limits = limits
        for tenant in self.ledger.tenants.values():
            self.ledger.set_caps(tenant)
            self.backlog.unpark(tenant)
        for key, pool in self.ledger.pools.items():
            pool.set_limits(limits(key), now=now)
        self.backlog.reweigh()

    def rehold(self, *, now: float) -> bool:
        """Follow what `holds` was told. Whether that changed anything."""
        if self._holds_seen == self.holds.version:
            return False
        self._holds_seen, self.ledger.now = self.holds.version, now
        self.backlog.rehold()
        return True

    def held_turns(self) -> list[Grant]:
        """Running jobs whose next call waits for pools that are all on hold."""
        return [turn.previous for turn in self.turns.waiting.values() if self.holds.hold_of(turn.whole.pools)]

    def hold_back(self, ticket: Ticket, *, now: float, not_before: float) -> None:
        """Queue a job again that had nothing left to call: with what its pools are on hold for, or by itself."""
        self.ledger.now = now
        if self.holds.hold_of(ticket.pools) is not None or not_before <= now:
            self.backlog.push(ticket, is_retry=True, credit=None)
            return
        left_s = self.holding.watch(ticket, now=now)
        self.holding.alone.add(ticket.seq)
        self.backlog.delay(ticket, until=min(not_before, now + max(left_s, 0.0)))

    def held(self, pools: tuple[str, ...]) -> WaitReason | None:
        """Why jobs for these pools are on hold; None where they are not."""
        hold = self.holds.hold_of(pools)
        return None if hold is None else WaitReason("model", None, said_of(hold.cause))

    def held_alone(self, seq: int) -> WaitReason | None:
        """Why a job waits for its own next try; None where it does not."""
        return WaitReason("model", None, said_of("model_unavailable")) if seq in self.holding.alone else None

    def pause(self, rules: Sequence[Pause], *, now: float) -> None:
        """Hold what these pauses say, and nothing else any more. What runs goes on. O(tickets)."""
        self.ledger.now = now
        self.backlog.pause(rules)

    def pause_of(self, ticket: Ticket) -> WaitReason | None:
        """Why an operator holds a waiting job; None where nobody does."""
        rule = self.paused.rule_for(ticket) if self.paused.rules else None
        return None if rule is None else WaitReason("pause", None, rule.reason or None)

    def room(self, lane: Lane) -> int:
        """How many more tickets the lane's window takes: up to 16 (setting), to 64 while its heads are blocked."""
        return self.backlog.room(
            lane, held=self.dispatch.held if len(self.dispatch.held) < len(self.ledger.pools) else {}
        )

    def push(self, ticket: Ticket, *, now: float) -> None:
        """Append a ticket, oldest first, each once. Raises KeyError for a class that is not configured."""
        self.ledger.now = now
        self.backlog.push(ticket)

    def remove(self, lane: Lane, seq: int) -> bool:
        """Take a queued ticket out, for instance because it was cancelled. False when it is not queued here."""
        return self.backlog.remove(lane, seq)

    def requeue(self, grant: Grant, *, now: float, not_before: float | None = None) -> bool:
        """Undo a grant, put its ticket back at the head of its lane, not lifted; at `not_before` if given."""
        if not self.undo(grant, now=now):
            return False
        self.push_back(grant.ticket, now=now, not_before=not_before)
        return True

    def push_back(self, ticket: Ticket, *, now: float, not_before: float | None = None) -> None:
        """Queue a job again whose grant has ended without its end: at the head of its lane, not lifted."""
        self.ledger.now = now
        if not_before is not None and not_before > now:
            self.backlog.delay(ticket, until=not_before)
        else:
            self.backlog.push(ticket, is_retry=True, credit=None)

    def take_dropped(self, *, now: float) -> list[DroppedTicket]:
        """Tickets that left without running since the last call: deadline passed, or no pool can hold them."""
        if self.backlog.deadlines:
            self.backlog.expire(now + self.ledger.epoch_offset)
        if self.holding.next_end <= now:
            self.ledger.now = now
            self.backlog.expire_held()
        dropped, self.backlog.dropped = self.backlog.dropped, []
        return dropped

    def take_denied(self) -> list[DeniedCall]:
        """Later turns that can't be made any more since the last call: the tenant's money of the day is spent."""
        denied, self.dispatch.denied = self.dispatch.denied, []
        return denied

    def spent(self, name: str, *, day: int, total: float, now: float) -> None:
        """The ledger's total of what a tenant spent on a UTC `day`, in millionths of a US dollar. Idempotent."""
        self.ledger.now = now
        tenant = self.ledger.tenant(name)
        if tenant.budget is not None:
            tenant.budget.heard(day, total)
            self.backlog.unpark(tenant)

    def recall(self, tenant: str, usd: float, *, epoch: float) -> None:
        """What is kept of the tenant's day: figures of today begin with it, and never fall below."""
        if self.meter is not None:
            self.meter.recall(tenant, usd, epoch)

    def knows_budget(self, name: str) -> bool:
        """Whether the tenant's total of the day was heard."""
        tenant = self.ledger.tenants.get(name)
        return tenant is not None and tenant.budget is not None and tenant.budget.settled is not None

    def budgets_to_read(self, *, all_in_use: bool) -> list[str]:
        """Tenants whose total is not known; with `all_in_use` also those with calls or jobs that it decides on."""
        return [
            name
            for name, tenant in self.ledger.with_budget.items()
            if tenant.budget is not None
            and (tenant.budget.settled is None or (all_in_use and (tenant.budget.reserved or tenant.parked)))
        ]

    def grant(self, *, now: float) -> Grant | None:
        """The next call that may start, with everything debited; None when nothing may start now."""
        grant = self.dispatch.next(now)
        if self.meter is not None and grant is not None and grant.turn == 1:
            self.meter.started(grant.ticket, now=now, epoch=now + self.ledger.epoch_offset)
        return grant

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

        Tokens as in `Usage`; cache reads are free. `seconds` is the time in the slot. `keeps_slot`: the job goes
        on; follow with `next_turn`, `release_slot` or `finish`.
        """
        self.ledger.now = now
        tokens = input_tokens + cache_write_tokens + grant.quota.burndown * output_tokens
        cost = self.ledger.settle(
            grant, quota_tokens=tokens, output_tokens=output_tokens, seconds=seconds, now=now
        )
        if cost is not None and self.meter is not None:
            usage = Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cache_read_tokens,
                cache_write_tokens=cache_write_tokens,
            )
            epoch = now + self.ledger.epoch_offset
            self.meter.settled(grant, usage, cost=cost, quota_tokens=tokens, now=now, epoch=epoch)
        if cost is not None and not keeps_slot:
            self.release_slot(grant)
        if grant.flow.tenant.parked:
            self.backlog.unpark(grant.flow.tenant)
        return cost is not None

    def undo(self, grant: Grant, *, now: float, keeps_slot: bool = False) -> bool:
        """Close the debit of a call that was not made or was refused. False when it was closed before."""
        self.ledger.now = now
        undone = self.ledger.undo(grant, now=now)
        if undone and not keeps_slot:
            self.release_slot(grant)
        if grant.flow.tenant.parked:
            self.backlog.unpark(grant.flow.tenant)
        return undone

    def release_slot(self, grant: Grant) -> None:
        """Give the slot back: the job waits for a tool or a child, or has ended. Idempotent."""
        if grant.holds_slot:
            self.ledger.free_slot(grant)
            if grant.flow.tenant.parked:
                self.backlog.unpark(grant.flow.tenant)

    def next_turn(
        self,
        grant: Grant,
        *,
        pools: tuple[str, ...],
        input_tokens: int,
        max_tokens: int,
        now: float,
        later: Sequence[LaterRoom] = (),
    ) -> None:
        """Ask for a running job's next call, after `settle` or `undo` of the last one, `grant`.

        One wait over all `pools`, in the order of preference, and those of `later` from their time on: whichever
        has room first. It comes from `grant()` as a new Grant of the same job with `turn` + 1, before queued jobs
        of its class. It takes over the slot where it is granted at once; otherwise it waits without, and takes
        one. A further call for the same grant replaces the first. Raises ValueError while `grant` is open, and
        Permanent when no pool can ever hold the call (`quota_exceeded`) or no money is left (`budget_exceeded`).
        """
        self.ledger.now = now
        if grant.is_open:
            raise ValueError(f"grant {grant.id} is neither settled nor undone")
        if grant.id in self.turns.waiting:
            self.turns.withdraw(grant)
        turn = msgspec.structs.replace(grant.ticket, pools=pools, input_tokens=input_tokens, max_tokens=max_tokens)
        whole = msgspec.structs.replace(turn, pools=in_order(pools, later)) if later else turn
        if not self.dispatch.is_runnable(whole):
            raise Permanent(
                f"the next turn needs {input_tokens + max_tokens} tokens, more than a minute's quota",
                code="quota_exceeded",
                details={"needed_tokens": input_tokens + max_tokens, "pools": list(whole.pools)},
            )
        # The job stays in the market of the pool that it prefers, whichever is free for it now.
        flow = self.backlog.flow(turn.lane, whole.pools[0])
        if flow.tenant.budget is not None and (error := self.dispatch.unpayable(whole, flow.tenant)) is not None:
            raise error
        self.turns.add(
            NextCall(grant, turn, flow, whole=whole, later=later),
            pools=self.backlog.pool_set(pools),
            needs_slot=not grant.holds_slot,
        )

    def switch(self, grant: Grant, *, pools: tuple[str, ...], now: float) -> bool:
        """Fall back to other pools: undo the first charge, ask for the call anew. False when it was closed."""
        if not self.undo(grant, now=now, keeps_slot=True):
            return False
        self.next_turn(grant, pools=pools, input_tokens=grant.input_tokens, max_tokens=grant.max_tokens, now=now)
        return True

    def finish(self, grant: Grant, *, now: float) -> None:
        """End a job in any state: withdraw its waiting turn, undo an open debit, free the slot. Idempotent."""
        if grant.id in self.turns.waiting:
            self.turns.withdraw(grant)
        if grant.is_open:
            self.undo(grant, now=now)
        self.release_slot(grant)

    def throttled(
        self,
        pool: str,
        *,
        now: float,
        kind: Throttle = "quota",
        retry_after: float | None = None,
        limit: Limit | None = None,
    ) -> None:
        """A call was refused: `quota` 429, `region` 503, `daily` tokens-per-day, `not_ready` ModelNotReady.

        `limit` is what a `quota` refusal named, if it did.
        """
        self.ledger.now = now
        self.ledger.pool(pool).throttled(kind, now=now, retry_after=retry_after, limit=limit)

    def succeeded(self, pool: str, *, now: float) -> None:
        """A call was answered."""
        self.ledger.now = now
        (self.ledger.pools.get(pool) or self.ledger.pool(pool)).succeeded(now=now)

    def next_wake(self, *, now: float) -> float | None:
        """When something that is blocked may become grantable by itself (monotonic); None: only by an event."""
        soonest = self.backlog.next_wake(epoch_offset=self.ledger.epoch_offset)
        if not self.holds.is_quiet and (at := self.holds.next_wake(now)) is not None:
            soonest = min(soonest, at)
        if self.dispatch.wakes:
            soonest = min(soonest, self.dispatch.wakes[0][0])
        if self.turns.later:
            soonest = min(soonest, self.turns.later[0][0])
        for key, need in self.dispatch.held.items():
            soonest = min(soonest, now + self.ledger.pool(key).wait_s(need, now=now))
        return None if soonest == inf else max(soonest, now)

    def blocked(self, lane: Lane, *, now: float) -> WaitReason | None:
        """Why nothing of a lane runs further; None when it has nothing queued or is simply not next."""
        return wait_estimate.blocked(
            lane, backlog=self.backlog, ledger=self.ledger, held=self.dispatch.held, now=now
        )

    def runnable_lanes(self, *, now: float) -> list[Lane]:
        """Lanes with a job that nothing is in the way of: none once `grant` has found nothing more."""
        return [
            lane
            for lane, state in self.backlog.lanes.items()
            if state.queued and self.blocked(lane, now=now) is None and self.ledger.has_slot(lane.job_class)
        ]

    def blocked_turns(self, *, now: float, most: int) -> list[tuple[Grant, WaitReason]]:
        """Running jobs whose next call waits and that were not told why, each once; `most` at a time."""
        untold = list(islice((turn for turn in self.turns.waiting.values() if not turn.is_told), most))
        for turn in untold:
            turn.is_told = True
        held = self.dispatch.held
        return [
            (turn.previous, wait_estimate.turn_blocked(turn, ledger=self.ledger, held=held, now=now))
            for turn in untold
        ]

    def is_head(self, ticket: Ticket) -> bool:
        """Whether the ticket is the next of its lane, for its pools."""
        state = self.backlog.lanes.get(ticket.lane)
        flows = state.flows.values() if state is not None else ()
        return any(queue.items and queue.items[0] is ticket for flow in flows for queue in flow.queues)

    def wait_s(self, ticket: Ticket, *, ahead: int, now: float) -> float:
        """How long a ticket of a lane with `ahead` jobs before it waits at most, at the lane's fair rate (s)."""
        return wait_estimate.wait_s(
            ticket, ahead=ahead, backlog=self.backlog, ledger=self.ledger, held=self.dispatch.held, now=now
        )

    def stats(self, *, now: float, max_lanes: int = 100) -> dict[str, Any]:
        """What operators ask: slots, pools, classes, and the lanes with most in hand. JSON-able. O(lanes)."""
        return wait_estimate.stats(
            backlog=self.backlog,
            ledger=self.ledger,
            turns=len(self.turns.waiting),
            held=self.dispatch.held,
            now=now,
            top=max_lanes,
        )

    def snapshot(self, *, now: float) -> dict[str, Any]:
        """What a successor needs: virtual times, predictions, buckets. JSON-able. Forgets idle lanes. O(lanes)."""
        return checkpoint.snapshot(self.backlog, self.ledger, now=now)

    def restore(self, state: Mapping[str, Any], *, now: float) -> None:
        """Go on from a predecessor's snapshot, before the first push. Raises ValueError for what is none."""
        checkpoint.restore(state, self.backlog, self.ledger, now=now)

    def adopt(
        self, ticket: Ticket, *, pool: str, now: float, is_open: bool = True, holds_slot: bool = True
    ) -> Grant:
        """Take over a job that a predecessor granted and that still runs. What it paid is in the checkpoint.

        `is_open`: its call is under way. One that is not has been settled with the predecessor.
        """
        self.ledger.now = now
        flow = self.backlog.flow(ticket.lane, ticket.pools[0])
        grant = self.ledger.adopt(flow, ticket, self.ledger.pool(pool), now, is_open=is_open)
        if not holds_slot:
            self.release_slot(grant)
        return grant
