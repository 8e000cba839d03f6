"""The scheduler's invariants, whatever happens in whatever order."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Grant, TenantCaps, Ticket
from sidecar.scheduler.turns import LaterRoom

CLASSES = {"interactive": 100.0, "standard": 20.0, "batch": 1.0}
TENANTS = ("a", "b", "c")
ROUTES = (("x",), ("y",), ("x", "y"), ("z", "x"))
EPOCH = 1_000_000.0
LIMITS = {
    "x": QuotaLimits(tokens_per_minute=60_000, requests_per_minute=120, max_concurrency=3),
    "y": QuotaLimits(tokens_per_minute=30_000, burndown=5.0),
    "z": QuotaLimits(),
}
CAPS = {
    "a": TenantCaps(weight=3.0),
    "b": TenantCaps(max_concurrency=2),
    "c": TenantCaps(weight=0.5, tokens_per_minute=20_000),
}


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.seq = 0
        self.limits = dict(LIMITS)
        self.caps = dict(CAPS)
        self.weights = dict(CLASSES)
        self.queued: dict[int, Ticket] = {}
        self.open: dict[int, Grant] = {}
        self.paused: dict[int, Grant] = {}
        self.turning: dict[int, Grant] = {}
        self.last_v: dict[object, float] = {}
        self.ids: set[int] = set()

    @initialize(slots=st.integers(1, 30), reserve=st.sampled_from((0.0, 0.05, 0.1)))
    def begin(self, slots: int, reserve: float) -> None:
        self.scheduler = Scheduler(
            classes=self.weights,
            slots=slots,
            tenants=self.caps.__getitem__,
            limits=self.limits.__getitem__,
            interactive_reserve=reserve,
            epoch_offset=EPOCH,
        )

    # ── what happens ───────────────────────────────────────────────────────────────────────────────────────

    @rule(
        tenant=st.sampled_from(TENANTS),
        job_class=st.sampled_from(tuple(CLASSES)),
        route=st.sampled_from(ROUTES),
        input_tokens=st.integers(1, 40_000),
        max_tokens=st.integers(1, 8_000),
        deadline_s=st.none() | st.floats(0.0, 60.0),
    )
    def push(
        self,
        tenant: str,
        job_class: str,
        route: tuple[str, ...],
        input_tokens: int,
        max_tokens: int,
        deadline_s: float | None,
    ) -> None:
        lane = Lane(tenant, job_class)
        if self.scheduler.room(lane) == 0:
            return
        self.seq += 1
        ticket = Ticket(
            seq=self.seq,
            lane=lane,
            job_id=f"j{self.seq}",
            size=100,
            stored_at=self.now + EPOCH,
            input_tokens=input_tokens,
            max_tokens=max_tokens,
            pools=route,
            deadline=None if deadline_s is None else self.now + EPOCH + deadline_s,
        )
        self.queued[self.seq] = ticket
        self.scheduler.push(ticket, now=self.now)

    @rule(most=st.integers(1, 10))
    def dispatch(self, most: int) -> None:
        for _ in range(most):
            if self.take() is None:
                self.check_work_conserving()
                return

    def take(self) -> Grant | None:
        slots_before = self.scheduler.ledger.slots_used
        grant = self.scheduler.grant(now=self.now)
        self.collect_dropped()
        if grant is None:
            assert not any(grant.holds_slot for grant in self.turning.values()), "what waits holds nothing"
            return None
        assert grant.id not in self.ids
        self.ids.add(grant.id)
        self.open[grant.id] = grant
        seq = grant.ticket.seq
        if grant.turn == 1 or seq in self.queued:
            assert self.queued.pop(seq).job_id == grant.ticket.job_id
            deadline = grant.ticket.deadline
            assert deadline is None or deadline > self.now + EPOCH
        else:
            assert self.turning.pop(seq).turn + 1 == grant.turn
        assert grant.holds_slot
        if self.scheduler.ledger.slots_used > slots_before:
            assert self.scheduler.ledger.slots_used <= self.scheduler.ledger.slots
        return grant

    @precondition(lambda self: self.open)
    @rule(data=st.data(), output=st.integers(0, 8_000), written=st.integers(0, 100), keeps_slot=st.booleans())
    def settle(self, data: st.DataObject, output: int, written: int, keeps_slot: bool) -> None:
        grant = self.pick_open(data)
        arguments = {
            "input_tokens": grant.input_tokens,
            "output_tokens": output,
            "cache_write_tokens": written,
            "seconds": max(0.0, self.now - grant.granted_at),
            "now": self.now,
            "keeps_slot": keeps_slot,
        }
        assert self.scheduler.settle(grant, **arguments) is True
        assert self.scheduler.settle(grant, **arguments) is False
        assert self.scheduler.undo(grant, now=self.now, keeps_slot=keeps_slot) is False
        if keeps_slot:
            self.paused[grant.ticket.seq] = grant

    @precondition(lambda self: self.open)
    @rule(data=st.data(), keeps_slot=st.booleans())
    def undo(self, data: st.DataObject, keeps_slot: bool) -> None:
        grant = self.pick_open(data)
        assert self.scheduler.undo(grant, now=self.now, keeps_slot=keeps_slot) is True
        assert self.scheduler.undo(grant, now=self.now, keeps_slot=keeps_slot) is False
        if keeps_slot:
            self.paused[grant.ticket.seq] = grant

    @precondition(lambda self: self.open)
    @rule(data=st.data(), delay_s=st.none() | st.floats(0.0, 20.0))
    def requeue(self, data: st.DataObject, delay_s: float | None) -> None:
        grant = self.pick_open(data)
        not_before = None if delay_s is None else self.now + delay_s
        assert self.scheduler.requeue(grant, now=self.now, not_before=not_before)
        self.queued[grant.ticket.seq] = grant.ticket

    @precondition(lambda self: self.open)
    @rule(data=st.data(), route=st.sampled_from(ROUTES[:2]))
    def switch(self, data: st.DataObject, route: tuple[str, ...]) -> None:
        grant = self.pick_open(data)
        if grant.input_tokens + grant.max_tokens > 30_000:
            assert self.scheduler.undo(grant, now=self.now)
            return
        assert self.scheduler.switch(grant, pools=route, now=self.now)
        self.turning[grant.ticket.seq] = grant

    @precondition(lambda self: self.paused)
    @rule(
        data=st.data(),
        route=st.sampled_from(ROUTES),
        input_tokens=st.integers(1, 20_000),
        after_s=st.none() | st.sampled_from([0.0, 0.5, 30.0]),
    )
    def next_turn(
        self, data: st.DataObject, route: tuple[str, ...], input_tokens: int, after_s: float | None
    ) -> None:
        """With `after_s` the first of several pools may be used only then."""
        grant = self.paused.pop(data.draw(st.sampled_from(sorted(self.paused))))
        later: list[LaterRoom] = []
        if after_s is not None and len(route) > 1:
            later, route = [LaterRoom(self.now + after_s, route[0], 0)], route[1:]
        self.scheduler.next_turn(
            grant, pools=route, later=later, input_tokens=input_tokens, max_tokens=500, now=self.now
        )
        self.turning[grant.ticket.seq] = grant

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def release_slot(self, data: st.DataObject) -> None:
        grant = self.paused[data.draw(st.sampled_from(sorted(self.paused)))]
        self.scheduler.release_slot(grant)
        self.scheduler.release_slot(grant)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        for held in (self.open, self.paused, self.turning):
            if held and data.draw(st.booleans()):
                grant = held.pop(data.draw(st.sampled_from(sorted(held))))
                self.scheduler.finish(grant, now=self.now)
                self.scheduler.finish(grant, now=self.now)

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.collect_dropped()
        if self.queued:
            ticket = self.queued.pop(data.draw(st.sampled_from(sorted(self.queued))))
            assert self.scheduler.remove(ticket.lane, ticket.seq) is True
            assert self.scheduler.remove(ticket.lane, ticket.seq) is False

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        pool=st.sampled_from("xyz"),
        kind=st.sampled_from(("quota", "region", "daily", "not_ready")),
        retry_after=st.none() | st.floats(0.0, 10.0),
    )
    def throttled(self, pool: str, kind: str, retry_after: float | None) -> None:
        self.scheduler.throttled(pool, now=self.now, kind=kind, retry_after=retry_after)  # type: ignore[arg-type]

    @rule(pool=st.sampled_from("xyz"))
    def succeeded(self, pool: str) -> None:
        self.scheduler.succeeded(pool, now=self.now)

    @rule(slots=st.integers(1, 30))
    def set_slots(self, slots: int) -> None:
        self.scheduler.set_slots(slots)

    @rule(
        batch=st.floats(0.5, 50.0),
        weight=st.floats(0.1, 10.0),
        concurrency=st.none() | st.integers(1, 3),
        tokens=st.none() | st.integers(1_000, 50_000),
    )
    def set_policy(self, batch: float, weight: float, concurrency: int | None, tokens: int | None) -> None:
        self.weights["batch"] = batch
        self.caps["b"] = TenantCaps(weight, concurrency, tokens)
        self.scheduler.set_policy(
            classes=self.weights, tenants=self.caps.__getitem__, limits=self.limits.__getitem__, now=self.now
        )

    # ── what holds ─────────────────────────────────────────────────────────────────────────────────────────

    def pick_open(self, data: st.DataObject) -> Grant:
        return self.open.pop(data.draw(st.sampled_from(sorted(self.open))))

    def collect_dropped(self) -> None:
        for ticket, code, _ in self.scheduler.take_dropped(now=self.now):
            assert self.queued.pop(ticket.seq).job_id == ticket.job_id
            if code == "deadline_exceeded":
                assert ticket.deadline is not None
                assert ticket.deadline <= self.now + EPOCH + 1e-6
            else:
                assert code == "quota_exceeded"
                need = ticket.input_tokens + ticket.max_tokens
                assert all(need > (self.limits[pool].tokens_per_minute or need) for pool in ticket.pools)

    def check_work_conserving(self) -> None:
        scheduler = self.scheduler
        for lane, state in scheduler.backlog.lanes.items():
            for flow in state.flows.values():
                waiting = [queue for queue in flow.queues if queue.items]
                if not waiting or not scheduler.ledger.has_slot(lane.job_class):
                    continue
                if flow.is_parked:
                    ticket = waiting[0].items[0]
                    waits = [
                        flow.tenant.wait_s(q.items[0].input_tokens + q.items[0].max_tokens, now=self.now)
                        for q in waiting
                    ]
                    assert max(waits) > 0, f"{ticket} is parked without a reason"
                    continue
                for queue in waiting:
                    for key in queue.line.pools:
                        pool = scheduler.ledger.pool(key)
                        need = queue.items[0].input_tokens + queue.items[0].max_tokens
                        assert key in scheduler.dispatch.held or need > pool.largest
        for turn in scheduler.turns.waiting.values():
            is_free = scheduler.ledger.has_slot(turn.ticket.lane.job_class) and turn.flow.tenant.has_slot
            assert not is_free or all(
                key in scheduler.dispatch.held
                or turn.ticket.input_tokens + turn.ticket.max_tokens > scheduler.ledger.pool(key).largest
                for key in turn.ticket.pools
            ), f"{turn.ticket} waits for nothing"
        for key, need in scheduler.dispatch.held.items():
            assert not scheduler.ledger.pool(key).fits(need, self.now)

    @invariant()
    def nothing_leaks(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        ledger = self.scheduler.ledger
        holding = [*self.open.values(), *self.paused.values(), *self.turning.values()]
        slots = [grant for grant in holding if grant.holds_slot]
        assert ledger.slots_used == len(slots)
        assert ledger.slots_used_by_others == sum(g.ticket.lane.job_class != "interactive" for g in slots)
        assert set(ledger.open) == set(self.open)
        for key, pool in ledger.pools.items():
            assert pool.in_flight == sum(grant.pool == key for grant in self.open.values())
        for name, tenant in ledger.tenants.items():
            assert tenant.running == sum(grant.ticket.lane.tenant == name for grant in slots)
        waiting = self.scheduler.backlog.queued + len(self.scheduler.backlog.dropped)
        assert waiting == len(self.queued)
        assert len(self.scheduler.turns.waiting) == len(self.turning)

    @invariant()
    def virtual_time_is_monotone(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        share = self.scheduler.share
        seen: dict[object, float] = {"root": share.v}
        for market in share.markets.values():
            seen[market.key] = market.v
            for of_class in market.shares.values():
                for line in of_class.lines.values():
                    seen[(market.key, of_class.name, line.pools)] = line.v
        for key, v in seen.items():
            assert v >= self.last_v.get(key, 0.0) - 1e-9
        self.last_v = seen

    def teardown(self) -> None:
        """No starvation: while calls end and time passes by `next_wake` alone, everything gets its turn."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(2_000):
            while self.take() is not None:
                pass
            if self.open or self.paused:
                self.now += 0.5
                self.end_everything()
            elif self.queued or self.turning:
                wake = self.scheduler.next_wake(now=self.now)
                assert wake is not None, "something waits, and nothing would ever wake it"
                self.now = max(wake, self.now + 1e-3)
            else:
                break
        assert not self.queued
        assert not self.turning
        self.nothing_leaks()
        self.now += 86_400 * 3
        for pool in self.scheduler.ledger.pools.values():
            pool.refill(self.now)
            assert abs(pool.tokens.level - pool.tokens.cap) < 1e-3
            assert pool.day_used == 0

    def end_everything(self) -> None:
        for grant in self.open.values():
            self.scheduler.settle(
                grant, input_tokens=grant.input_tokens, output_tokens=100, seconds=0.5, now=self.now
            )
        for grant in self.paused.values():
            self.scheduler.finish(grant, now=self.now)
        for pool in self.scheduler.ledger.pools:
            self.scheduler.succeeded(pool, now=self.now)
        self.open.clear()
        self.paused.clear()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
