"""The scheduler's rules, one by one."""

from collections import Counter
from collections.abc import Callable
from itertools import accumulate

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sidecar.errors import Permanent
from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Grant, TenantCaps, Ticket, WaitReason

CLASSES = {"interactive": 100.0, "standard": 20.0, "batch": 1.0}
WIDE = QuotaLimits(tokens_per_minute=10**9)


class Bench:
    """A scheduler and the small talk around it: numbers tickets, runs calls to their end."""

    def __init__(
        self,
        *,
        slots: int = 10**9,
        reserve: float = 0.0,
        caps: dict[str, TenantCaps] | None = None,
        limits: dict[str, QuotaLimits] | None = None,
    ) -> None:
        self.caps = caps or {}
        self.limits = limits or {}
        self.now = 100.0
        self.seq = 0
        self.scheduler = Scheduler(
            classes=CLASSES,
            slots=slots,
            tenants=self.tenant,
            limits=self.pool,
            interactive_reserve=reserve,
            epoch_offset=1_000_000.0,
        )

    def tenant(self, name: str) -> TenantCaps:
        return self.caps.get(name, TenantCaps())

    def pool(self, key: str) -> QuotaLimits:
        return self.limits.get(key, WIDE)

    def push(
        self,
        tenant: str,
        *,
        times: int = 1,
        job_class: str = "standard",
        pools: tuple[str, ...] = ("x",),
        input_tokens: int = 1_000,
        max_tokens: int = 1_000,
        deadline_s: float | None = None,
    ) -> Lane:
        lane = Lane(tenant, job_class)
        for _ in range(times):
            self.seq += 1
            deadline = None if deadline_s is None else self.now + 1_000_000.0 + deadline_s
            ticket = Ticket(
                seq=self.seq,
                lane=lane,
                job_id=f"j{self.seq}",
                size=1,
                stored_at=0.0,
                input_tokens=input_tokens,
                max_tokens=max_tokens,
                pools=pools,
                deadline=deadline,
            )
            self.scheduler.push(ticket, now=self.now)
        return lane

    def grant(self) -> Grant | None:
        return self.scheduler.grant(now=self.now)

    def take(self, most: int = 1_000) -> list[Grant]:
        granted = []
        while len(granted) < most and (grant := self.grant()) is not None:
            granted.append(grant)
        return granted

    def settle(self, grant: Grant, *, output: int = 250, seconds: float = 1.0, keeps_slot: bool = False) -> None:
        assert self.scheduler.settle(
            grant,
            input_tokens=grant.input_tokens,
            output_tokens=output,
            seconds=seconds,
            now=self.now,
            keeps_slot=keeps_slot,
        )


def tenants_of(grants: list[Grant]) -> list[str]:
    return [grant.ticket.lane.tenant for grant in grants]


def test_equal_tenants_take_turns_and_a_lane_keeps_its_order() -> None:
    bench = Bench()
    bench.push("a", times=3)
    bench.push("b", times=3)
    granted = bench.take()
    assert tenants_of(granted) == ["a", "b", "a", "b", "a", "b"]
    assert [g.ticket.seq for g in granted if g.ticket.lane.tenant == "a"] == [1, 2, 3]


def test_weights_are_ratios_of_service() -> None:
    bench = Bench(caps={"heavy": TenantCaps(weight=3.0)})
    bench.push("heavy", times=100)
    bench.push("light", times=100)
    assert Counter(tenants_of(bench.take(80))) == {"heavy": 60, "light": 20}


def test_service_is_measured_by_cost_not_by_jobs() -> None:
    bench = Bench()
    bench.push("large", times=50, input_tokens=9_750)
    bench.push("small", times=50, input_tokens=750)
    counts = Counter(tenants_of(bench.take(33)))
    assert counts == {"large": 3, "small": 30}


def test_classes_share_by_weight_and_none_starves() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=10**12)})
    for name in CLASSES:
        bench.push("a", times=2_000, job_class=name)
    counts = Counter(grant.ticket.lane.job_class for grant in bench.take(1_210))
    assert counts["batch"] == pytest.approx(10, abs=1)
    assert counts["standard"] == pytest.approx(200, abs=2)
    assert counts["interactive"] == pytest.approx(1_000, abs=2)


def test_the_difference_of_actual_and_predicted_cost_is_settled() -> None:
    bench = Bench()
    bench.push("long", times=40)
    bench.push("short", times=40)
    first, second = bench.take(2)
    bench.settle(first, output=1_000)
    bench.settle(second, output=0)
    long, short = (bench.scheduler.backlog.lanes[Lane(t, "standard")].flows["x"] for t in ("long", "short"))
    assert long.vt == pytest.approx(2_000 * 60 / 10**9)
    assert short.vt == pytest.approx(1_000 * 60 / 10**9)
    assert long.ratio > 0.25 > short.ratio


def test_an_idle_lane_does_not_save_up_service() -> None:
    bench = Bench()
    bench.push("sleeper")
    bench.settle(bench.take()[0])
    bench.push("steady", times=300)
    for grant in bench.take(200):
        bench.settle(grant)
    bench.push("sleeper", times=100)
    assert Counter(tenants_of(bench.take(40))) == {"steady": 20, "sleeper": 20}


def test_a_newcomer_waits_for_two_dispatches_at_most() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("flood", times=64)
    bench.push("other", times=64)
    for _ in range(30):
        bench.now += 1.3
        for grant in bench.take():
            bench.settle(grant)
    bench.push("newcomer")
    behind = []
    while "newcomer" not in behind:
        bench.now += 0.2
        behind += tenants_of(bench.take(1))
    assert len(behind) - 1 <= 2


def test_a_head_that_waits_for_its_pool_is_passed_by_nobody_there() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("big", input_tokens=40_000)
    bench.push("small", times=5, input_tokens=10, max_tokens=10)
    bench.push("small", job_class="batch", input_tokens=10, max_tokens=10)
    assert bench.grant() is None
    wake = bench.scheduler.next_wake(now=bench.now)
    assert wake is not None
    bench.now = wake
    assert tenants_of(bench.take(1)) == ["big"]


def test_a_blocked_pool_holds_up_neither_other_lanes_nor_the_same_lane_elsewhere() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a", input_tokens=40_000, pools=("x",))
    bench.push("a", pools=("y",))
    bench.push("b", pools=("y",))
    assert sorted(tenants_of(bench.take())) == ["a", "b"]


def test_the_first_pool_with_room_is_taken_in_the_order_of_preference() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=10**9, max_concurrency=1)})
    bench.push("a", times=2, pools=("x", "y"))
    assert [grant.pool for grant in bench.take()] == ["x", "y"]


def test_a_pool_too_small_for_a_job_is_not_held_for_it() -> None:
    bench = Bench(
        limits={"small": QuotaLimits(tokens_per_minute=3_000), "x": QuotaLimits(tokens_per_minute=60_000)}
    )
    bench.push("a", input_tokens=40_000, pools=("small", "x"))
    bench.push("b", input_tokens=100, max_tokens=100, pools=("small", "x"))
    assert [(g.ticket.lane.tenant, g.pool) for g in bench.take()] == [("b", "small")]


def test_a_job_that_no_pool_can_hold_is_dropped_with_its_reason() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=1_500)})
    bench.push("a")
    assert [(d.ticket.seq, d.code) for d in bench.scheduler.take_dropped(now=bench.now)] == [(1, "quota_exceeded")]
    assert bench.scheduler.backlog.queued == 0


def test_a_quota_that_shrinks_under_a_queued_job_drops_it_too() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000, max_concurrency=1)})
    bench.push("a", times=2)
    running = bench.take()
    bench.limits["x"] = QuotaLimits(tokens_per_minute=1_500, max_concurrency=1)
    bench.scheduler.set_policy(classes=CLASSES, tenants=bench.tenant, limits=bench.pool, now=bench.now)
    bench.settle(running[0])
    assert bench.grant() is None
    assert [d.code for d in bench.scheduler.take_dropped(now=bench.now)] == ["quota_exceeded"]


def test_slots_bound_what_runs_and_some_are_kept_for_interactive() -> None:
    bench = Bench(slots=20, reserve=0.1)
    bench.push("a", times=40, job_class="batch")
    assert len(bench.take()) == 18
    bench.push("a", times=5, job_class="interactive")
    assert len(bench.take()) == 2
    assert bench.scheduler.blocked(Lane("a", "batch"), now=bench.now) == WaitReason("slot")


@pytest.mark.parametrize(
    ("slots", "reserve", "kept"),
    [(1, 0.05, 0), (1, 0.5, 0), (2, 0.05, 1), (2, 0.5, 1), (3, 0.5, 1), (8, 0.05, 1), (9, 0.1, 1), (8, 0.0, 0)],
)
def test_of_few_slots_one_is_kept_where_there_are_two(slots: int, reserve: float, kept: int) -> None:
    bench = Bench(slots=slots, reserve=reserve)
    bench.push("a", times=10, job_class="batch")
    assert len(bench.take()) == slots - kept
    bench.push("b", times=10, job_class="interactive")
    assert len(bench.take()) == kept


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    reserve=st.floats(0.001, 0.5),
    pushed=st.lists(st.sampled_from(("standard", "batch")), min_size=60, max_size=60),
)
def test_wherever_there_are_two_slots_one_is_free_for_interactive(
    sizes: list[int], reserve: float, pushed: list[str]
) -> None:
    bench = Bench(slots=0, reserve=reserve)
    for total in accumulate(sizes):
        # Replicas come one after another, and each time all that may begin does.
        bench.scheduler.set_slots(total)
        for job_class in pushed:
            bench.push("a", job_class=job_class)
        bench.take()
        others = bench.scheduler.ledger.slots_used
        assert others < total or total == 1
        assert others >= total // 2
    if sum(sizes) >= 2:
        bench.push("b", job_class="interactive")
        assert [g.ticket.lane.job_class for g in bench.take()] == ["interactive"]


def test_a_tenant_at_its_concurrency_leaves_the_heap_until_one_of_its_jobs_ends() -> None:
    bench = Bench(caps={"capped": TenantCaps(max_concurrency=2)})
    bench.push("capped", times=5)
    bench.push("free", times=5)
    granted = bench.take()
    assert Counter(tenants_of(granted)) == {"capped": 2, "free": 5}
    assert bench.scheduler.blocked(Lane("capped", "standard"), now=bench.now) == WaitReason("tenant", None)
    bench.settle(granted[0])
    assert len(bench.take()) == 1


def test_a_tenant_at_its_tokens_a_minute_comes_back_by_a_timer() -> None:
    bench = Bench(caps={"capped": TenantCaps(tokens_per_minute=12_000)})
    bench.push("capped", times=5)
    assert len(bench.take()) == 1
    blocked = bench.scheduler.blocked(Lane("capped", "standard"), now=bench.now)
    assert blocked is not None
    assert blocked.reason == "tenant"
    assert blocked.estimate_s == pytest.approx(5.0)
    assert bench.scheduler.next_wake(now=bench.now) == pytest.approx(bench.now + 5.0)
    bench.now += 5.0
    assert len(bench.take()) == 1


def test_a_retry_goes_to_the_head_of_its_lane_with_its_charge_undone() -> None:
    bench = Bench()
    bench.push("a", times=3)
    grant = bench.grant()
    assert grant is not None
    assert bench.scheduler.requeue(grant, now=bench.now)
    assert bench.scheduler.backlog.lanes[grant.ticket.lane].flows["x"].vt == 0
    assert [g.ticket.seq for g in bench.take()] == [1, 2, 3]


def test_a_retry_may_have_to_wait_and_others_of_its_lane_go_on() -> None:
    bench = Bench()
    bench.push("a", times=2)
    grant = bench.grant()
    assert grant is not None
    bench.scheduler.requeue(grant, now=bench.now, not_before=bench.now + 3)
    assert [g.ticket.seq for g in bench.take()] == [2]
    assert bench.scheduler.next_wake(now=bench.now) == bench.now + 3
    bench.now += 3
    assert [g.ticket.seq for g in bench.take()] == [1]


def test_a_waiting_retry_can_be_removed() -> None:
    bench = Bench()
    lane = bench.push("a")
    grant = bench.grant()
    assert grant is not None
    bench.scheduler.requeue(grant, now=bench.now, not_before=bench.now + 3)
    assert bench.scheduler.remove(lane, 1)
    bench.now += 10
    assert bench.grant() is None
    assert bench.scheduler.backlog.queued == 0


def test_expired_jobs_leave_wherever_they_stand_in_the_window() -> None:
    bench = Bench(slots=1)
    bench.push("a", times=2)
    bench.push("a", deadline_s=5.0)
    bench.take()
    assert bench.scheduler.next_wake(now=bench.now) == pytest.approx(bench.now + 5)
    bench.now += 5
    assert [(d.ticket.seq, d.code) for d in bench.scheduler.take_dropped(now=bench.now)] == [
        (3, "deadline_exceeded")
    ]


def test_a_removed_job_is_gone_and_its_lane_goes_on() -> None:
    bench = Bench()
    lane = bench.push("a", times=3)
    assert bench.scheduler.remove(lane, 1)
    assert not bench.scheduler.remove(lane, 1)
    assert not bench.scheduler.remove(Lane("nobody", "standard"), 1)
    assert [g.ticket.seq for g in bench.take()] == [2, 3]


def test_a_later_turn_goes_before_queued_jobs_of_its_class_and_takes_the_slot_over() -> None:
    bench = Bench(slots=1)
    bench.push("agent")
    bench.push("other", times=3)
    first = bench.grant()
    assert first is not None
    bench.settle(first, keeps_slot=True)
    assert bench.grant() is None
    bench.scheduler.next_turn(first, pools=("x",), input_tokens=2_000, max_tokens=500, now=bench.now)
    second = bench.grant()
    assert second is not None
    assert (second.ticket.job_id, second.turn, second.input_tokens) == ("j1", 2, 2_000)
    assert second.holds_slot
    assert not first.holds_slot
    assert bench.scheduler.ledger.slots_used == 1


def test_a_job_that_waits_for_a_tool_gives_its_slot_to_others() -> None:
    bench = Bench(slots=1)
    bench.push("agent")
    bench.push("other")
    first = bench.grant()
    assert first is not None
    bench.settle(first, keeps_slot=True)
    bench.scheduler.release_slot(first)
    other = bench.grant()
    assert other is not None
    bench.scheduler.next_turn(first, pools=("x",), input_tokens=2_000, max_tokens=500, now=bench.now)
    assert bench.grant() is None
    bench.settle(other)
    second = bench.grant()
    assert second is not None
    assert second.turn == 2


def test_a_turn_needs_a_closed_grant_and_a_pool_that_can_hold_it() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a")
    grant = bench.grant()
    assert grant is not None
    with pytest.raises(ValueError, match="neither settled nor undone"):
        bench.scheduler.next_turn(grant, pools=("x",), input_tokens=1, max_tokens=1, now=bench.now)
    bench.settle(grant, keeps_slot=True)
    with pytest.raises(Permanent) as refused:
        bench.scheduler.next_turn(grant, pools=("x",), input_tokens=70_000, max_tokens=1, now=bench.now)
    assert refused.value.code == "quota_exceeded"


def test_switching_pools_undoes_the_first_charge_before_the_second() -> None:
    bench = Bench()
    bench.push("a")
    first = bench.grant()
    assert first is not None
    assert bench.scheduler.switch(first, pools=("y",), now=bench.now)
    second = bench.grant()
    assert second is not None
    assert second.pool == "y"
    lane = bench.scheduler.backlog.lanes[first.ticket.lane]
    assert lane.flows["x"].vt == 0
    assert lane.flows["y"].vt > 0
    assert bench.scheduler.ledger.pools["x"].in_flight == 0


def test_finish_ends_a_job_in_any_state_and_twice() -> None:
    bench = Bench()
    bench.push("a", times=3)
    running, paused, turning = bench.take()
    bench.settle(paused, keeps_slot=True)
    bench.settle(turning, keeps_slot=True)
    bench.scheduler.next_turn(turning, pools=("x",), input_tokens=1, max_tokens=1, now=bench.now)
    for grant in (running, paused, turning) * 2:
        bench.scheduler.finish(grant, now=bench.now)
    assert bench.scheduler.ledger.slots_used == 0
    assert not bench.scheduler.turns.waiting
    assert not bench.scheduler.ledger.open
    assert bench.grant() is None


def test_a_window_holds_sixteen_and_grows_only_while_its_heads_are_blocked() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    lane = Lane("a", "standard")
    assert bench.scheduler.room(lane) == 16
    bench.push("other", pools=("y",))
    bench.push("a", times=16, input_tokens=20_000)
    assert bench.scheduler.room(lane) == 0
    bench.take()
    assert bench.scheduler.room(lane) == 48
    bench.push("a", pools=("y",))
    assert tenants_of(bench.take()) == ["a"]


def test_with_one_pool_windows_do_not_grow() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a", times=16, input_tokens=20_000)
    bench.take()
    assert bench.scheduler.room(Lane("a", "standard")) == 0


def test_weights_and_caps_change_while_running() -> None:
    bench = Bench()
    bench.push("a", times=200)
    bench.push("b", times=200)
    bench.take(20)
    bench.caps = {"a": TenantCaps(weight=4.0), "b": TenantCaps(max_concurrency=30)}
    bench.scheduler.set_policy(
        classes={**CLASSES, "batch": 5.0}, tenants=bench.tenant, limits=bench.pool, now=bench.now
    )
    assert Counter(tenants_of(bench.take(50))) == {"a": 40, "b": 10}
    assert Counter(tenants_of(bench.take(100)))["b"] == 10


def test_a_head_knows_how_long_its_pool_needs_and_those_behind_it_do_not_pretend() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a", input_tokens=30_000)
    bench.push("b", input_tokens=30_000)
    bench.take()
    head = bench.scheduler.blocked(Lane("a", "standard"), now=bench.now)
    behind = bench.scheduler.blocked(Lane("b", "standard"), now=bench.now)
    assert head is not None
    assert head.reason == "quota"
    assert head.estimate_s == pytest.approx((31_000 - 14_700) / 980)
    assert behind == WaitReason("quota", None)
    assert bench.scheduler.blocked(Lane("c", "standard"), now=bench.now) is None


def test_the_wait_of_an_own_backlog_is_estimated_by_the_fair_rate() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a", times=16)
    bench.push("b", times=16)
    granted = bench.take()
    ticket = granted[0].ticket
    alone = bench.scheduler.wait_s(ticket, ahead=100, now=bench.now)
    assert alone == pytest.approx(2 * 100 * 1.25, rel=0.05)
    assert bench.scheduler.wait_s(ticket, ahead=0, now=bench.now) == 0.0


def test_pools_share_scarce_slots_by_the_weights_that_wait_for_them() -> None:
    bench = Bench(slots=10)
    for n in range(3):
        bench.push(f"x{n}", times=200, pools=("x",))
    bench.push("y", times=200, pools=("y",))
    counts: Counter[str] = Counter()
    for _ in range(40):
        granted = bench.take()
        counts.update(tenants_of(granted))
        for grant in granted:
            bench.settle(grant)
    assert counts["y"] == pytest.approx(100, rel=0.1)


def test_service_elsewhere_does_not_count_against_a_lane_in_a_contested_pool() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("busy", times=200, pools=("y",))
    for grant in bench.take():
        bench.settle(grant)
    bench.push("other", times=64)
    bench.push("busy", times=64)
    served: Counter[str] = Counter()
    for _ in range(40):
        bench.now += 2.0
        granted = bench.take()
        served.update(tenants_of(granted))
        for grant in granted:
            bench.settle(grant)
    assert served["busy"] == pytest.approx(served["other"], abs=2)


def restored(bench: Bench, *, age_s: float = 0.0) -> Bench:
    saved = bench.scheduler.snapshot(now=bench.now)
    successor = Bench(limits=bench.limits, caps=bench.caps)
    successor.now = 7.0
    successor.scheduler.epoch_offset = bench.now + 1_000_000.0 + age_s - successor.now
    successor.scheduler.restore(saved, now=successor.now)
    return successor


def test_a_successor_goes_on_from_a_snapshot() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=600_000)})
    bench.push("a", times=20)
    for grant in bench.take(10):
        bench.settle(grant, output=1_000)
    bench.push("b", times=20)
    successor = restored(bench)
    successor.push("a", times=16)
    successor.push("b", times=16)
    behind = tenants_of(successor.take(6))
    assert behind.count("b") > behind.count("a")
    flow = successor.scheduler.backlog.lanes[Lane("a", "standard")].flows["x"]
    assert flow.ratio == pytest.approx(0.92, abs=0.01)


def test_a_snapshot_is_plain_json_and_a_wrong_one_is_refused() -> None:
    import msgspec

    bench = Bench()
    bench.push("a", times=3)
    bench.take(1)
    saved = bench.scheduler.snapshot(now=bench.now)
    assert msgspec.json.decode(msgspec.json.encode(saved)) == saved
    refuse: list[Callable[[dict[str, object]], object]] = [
        lambda s: s.pop("version"),
        lambda s: s.pop("lanes"),
        lambda s: s.update(pools={"x": {}}),
        lambda s: s.update(markets=[1]),
    ]
    for spoil in refuse:
        broken = msgspec.json.decode(msgspec.json.encode(saved))
        spoil(broken)
        with pytest.raises(ValueError, match="checkpoint"):
            Bench().scheduler.restore(broken, now=0.0)


def test_an_adopted_call_holds_its_slot_and_settles_without_a_second_debit() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a")
    old = bench.take()[0]
    successor = restored(bench)
    level = successor.scheduler.ledger.pool("x").tokens.level
    grant = successor.scheduler.adopt(old.ticket, pool="x", now=successor.now)
    assert successor.scheduler.ledger.slots_used == 1
    assert successor.scheduler.ledger.pool("x").tokens.level == pytest.approx(level)
    flow = successor.scheduler.backlog.lanes[old.ticket.lane].flows["x"]
    assert flow.vt == pytest.approx(bench.scheduler.backlog.lanes[old.ticket.lane].flows["x"].vt)
    successor.settle(grant)
    assert successor.scheduler.ledger.slots_used == 0
    assert successor.scheduler.ledger.pool("x").in_flight == 0


def test_an_adopted_job_between_two_calls_holds_its_slot_alone() -> None:
    bench = Bench(limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a")
    old = bench.take()[0]
    successor = restored(bench)
    grant = successor.scheduler.adopt(old.ticket, pool="x", now=successor.now, is_open=False)
    ledger = successor.scheduler.ledger
    assert (ledger.slots_used, ledger.pool("x").in_flight, dict(ledger.open)) == (1, 0, {})
    successor.scheduler.next_turn(grant, pools=("x",), input_tokens=10, max_tokens=10, now=successor.now)
    assert successor.take()[0].turn == 2
    resting = successor.scheduler.adopt(old.ticket, pool="x", now=successor.now, is_open=False, holds_slot=False)
    assert not resting.holds_slot
    assert ledger.slots_used == 1


def test_a_job_whose_grant_has_ended_can_be_queued_again_at_the_head() -> None:
    bench = Bench()
    bench.push("a", times=2)
    grant = bench.take(1)[0]
    bench.scheduler.finish(grant, now=bench.now)
    bench.scheduler.push_back(grant.ticket, now=bench.now)
    assert [g.ticket.seq for g in bench.take()] == [1, 2]


def test_idle_lanes_are_forgotten_when_there_are_too_many() -> None:
    bench = Bench()
    for n in range(30):
        bench.push(f"t{n}")
    for grant in bench.take():
        bench.settle(grant)
    bench.push("last", times=3)
    bench.take()
    bench.scheduler.backlog.forget_idle(keep=5)
    assert Lane("last", "standard") in bench.scheduler.backlog.lanes
    assert len(bench.scheduler.backlog.lanes) < 31


def test_stats_are_json_and_name_what_operators_ask() -> None:
    import msgspec

    bench = Bench(slots=8, reserve=0.0, limits={"x": QuotaLimits(tokens_per_minute=60_000)})
    bench.push("a", times=16)
    bench.push("b", times=3)
    granted = bench.take()
    bench.settle(granted[0])
    stats = msgspec.json.decode(msgspec.json.encode(bench.scheduler.stats(now=bench.now, max_lanes=1)))
    assert stats["slots"] == {"total": 8, "used": len(granted) - 1, "kept": 0}
    assert stats["lanes"][0]["tenant"] == "a"
    assert stats["lanes_left_out"] == 1
    assert stats["pools"]["x"]["used_tokens"] == 1_250
    assert stats["pools"]["x"]["in_flight"] == len(granted) - 1
