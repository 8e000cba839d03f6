"""What is in the way of calls, by scope and replica, and when one may be tried."""

import itertools

from sidecar.models.replica import Trouble
from sidecar.scheduler.holds import FIRST_S, LONGEST_S, MOST_AN_HOUR, Holds, scopes_of
from sidecar.scheduler.tickets import TenantCaps
from tests.unit.scheduler.test_schedule_rules import Bench

EAST, WEST = "a@us-east-1", "b@us-west-2"
EXPIRED = Trouble(cause="credentials_expired")
AWAY = Trouble(cause="unreachable", scope="@us-east-1")
SHUT = Trouble(cause="model_unavailable", scope=EAST)


def holds_of(*workers: str) -> Holds:
    holds = Holds()
    holds.set_workers(workers, now=0.0)
    return holds


def test_a_pool_is_in_the_scope_of_its_account_its_region_and_itself() -> None:
    assert scopes_of(EAST) == ("", "@us-east-1", EAST)
    for trouble, shut in ((EXPIRED, {EAST, WEST}), (AWAY, {EAST}), (SHUT, {EAST})):
        holds = holds_of("one")
        holds.heard("one", [trouble], now=0.0)
        assert {pool for pool in (EAST, WEST) if holds.hold_on(pool)} == shut


def test_what_one_replica_has_alone_keeps_it_out_and_holds_nothing() -> None:
    holds = holds_of("one", "two")
    holds.heard("one", [EXPIRED], now=0.0)
    assert holds.hold_on(EAST) is None
    assert holds.avoided(EAST) == {"one"}
    holds.heard("two", [EXPIRED], now=1.0)
    hold = holds.hold_on(EAST)
    assert hold is not None
    assert hold.cause == "credentials_expired"
    holds.answered("two", EAST, now=2.0)
    assert (holds.hold_on(EAST), holds.avoided(EAST)) == (None, {"one"})


def test_probes_go_one_at_a_time_and_seldom_for_an_hour() -> None:
    holds, now, probes = holds_of("one", "two"), 0.0, []
    for worker in ("one", "two"):
        holds.heard(worker, [EXPIRED], now=now)
    while now < 3600:
        if (pool := holds.pool_to_probe((EAST,), now)) is not None:
            holds.begin_probe(pool, len(probes), now)
            assert holds.pool_to_probe((EAST, WEST), now) is None, "another one is under way"
            probes.append((now, holds.worker_for(len(probes), pool, now=now)))
            holds.probe_over(len(probes) - 1, is_held=True, now=now)
        now += 0.5
    assert len(probes) <= MOST_AN_HOUR
    pauses = [later - at for (at, _), (later, _) in itertools.pairwise(probes)]
    assert pauses[:5] == [2.0, 4.0, 8.0, 16.0, 30.0]
    assert (probes[0][0], max(pauses)) == (FIRST_S, LONGEST_S)
    assert {worker for _, worker in probes} == {"one", "two"}


def test_a_look_and_a_retry_after_end_an_interval_but_not_for_ever() -> None:
    holds, now = holds_of("one"), 0.0
    holds.heard("one", [EXPIRED], now=now)
    probes = 0
    while now < 3600:
        now += 1.0
        holds.heard("one", [Trouble(cause="credentials_expired", is_mended=True)], now=now)
        if (pool := holds.pool_to_probe((EAST,), now)) is not None:
            probes += 1
            holds.begin_probe(pool, probes, now)
            holds.heard("one", [EXPIRED], now=now)
            holds.probe_over(probes, is_held=True, now=now, retry_after_s=0.0)
    assert probes <= MOST_AN_HOUR


def test_a_breaker_is_asked_when_it_says_so() -> None:
    holds = holds_of("one")
    holds.heard("one", [SHUT], now=0.0)
    assert holds.pool_to_probe((EAST,), 20.0) is None
    holds.heard("one", [Trouble(cause="model_unavailable", scope=EAST, is_mended=True)], now=21.0)
    assert holds.pool_to_probe((EAST,), 21.0) == EAST


def test_what_a_predecessor_knew_holds_until_a_call_says_otherwise() -> None:
    before = holds_of("one")
    before.heard("one", [EXPIRED], now=0.0)
    holds = Holds()
    holds.restore(before.snapshot(now=5.0), now=100.0, age_s=1.0)
    holds.set_workers({"new"}, now=100.0)
    holds.heard("new", [], now=100.0)
    assert holds.hold_on(EAST) is not None
    assert holds.pool_to_probe((EAST,), 100.0) == EAST
    holds.answered("new", EAST, now=101.0)
    assert holds.hold_on(EAST) is None


def test_what_was_released_comes_back_a_few_at_a_time() -> None:
    holds = holds_of("one")
    holds.heard("one", [EXPIRED], now=0.0)
    holds.heard("one", [], now=10.0)
    begun, now = [], 10.0
    while now < 16.0:
        n = 0
        while n < 1000 and holds.admits(EAST, now):
            holds.started(EAST)
            n += 1
        begun.append(n)
        now += 1.0
    assert begun[0] <= 1
    assert sum(begun[:4]) <= 128
    assert begun[4] == 1000, "after four seconds nothing is held back"
    assert holds.is_quiet


def test_lanes_come_back_from_a_hold_as_if_they_had_been_idle() -> None:
    """One tenant worked on while another's jobs were on hold: it owes nothing for that."""
    bench = Bench(slots=1)
    bench.scheduler.holds.set_workers({"one"}, now=bench.now)
    bench.push("held", times=20, pools=("x@r",))
    bench.push("other", times=60, pools=("x@r", "y@r"))
    bench.scheduler.holds.heard("one", [Trouble(cause="model_unavailable", scope="x@r")], now=bench.now)
    assert bench.scheduler.rehold(now=bench.now)
    served = [bench.grant() for _ in range(1)]
    assert [grant.ticket.lane.tenant for grant in served if grant] == ["other"]
    for grant in served:
        assert grant is not None
        bench.scheduler.finish(grant, now=bench.now)
    assert bench.scheduler.holding.count == 20
    assert bench.scheduler.blocked(served[0].ticket.lane, now=bench.now) is None  # type: ignore[union-attr]
    bench.scheduler.holds.heard("one", [], now=bench.now)
    bench.scheduler.rehold(now=bench.now)
    assert bench.scheduler.holding.count == 0
    bench.now += 10
    tenants = []
    for _ in range(20):
        grant = bench.grant()
        assert grant is not None
        tenants.append(grant.ticket.lane.tenant)
        bench.scheduler.finish(grant, now=bench.now)
        bench.now += 1
    assert 4 <= tenants.count("held") <= 16


def test_no_cap_of_a_tenant_is_passed_by_a_probe() -> None:
    bench = Bench(caps={"held": TenantCaps(max_concurrency=1)})
    bench.scheduler.holds.set_workers({"one"}, now=bench.now)
    bench.push("held", times=3, pools=("x@r",))
    assert bench.grant() is not None
    bench.scheduler.holds.heard("one", [Trouble(cause="unreachable", scope="@r")], now=bench.now)
    bench.scheduler.rehold(now=bench.now)
    bench.now += 60
    assert bench.grant() is None
