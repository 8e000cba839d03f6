"""A running job that waits for its next call: one wait over all its pools, without a slot."""

import gc

import pytest

from sidecar.models.profile import QuotaLimits
from sidecar.scheduler.tickets import Grant, TenantCaps
from sidecar.scheduler.turns import LaterRoom, NextCall
from tests.unit.scheduler.test_schedule_rules import Bench

SMALL = QuotaLimits(tokens_per_minute=60_000)


def moved(bench: Bench, *pools: str, later: tuple[tuple[str, float, int], ...] = ()) -> Grant:
    """A job that was refused by its first pool and waits for others, each at its time and place."""
    bench.push("moved", input_tokens=14_000, pools=("x", "y"))
    grant = bench.grant()
    assert grant is not None
    assert bench.scheduler.undo(grant, now=bench.now, keeps_slot=True)
    rooms = [LaterRoom(bench.now + after_s, pool, rank) for pool, after_s, rank in later]
    bench.scheduler.next_turn(
        grant, pools=pools, later=rooms, input_tokens=14_000, max_tokens=1_000, now=bench.now
    )
    return grant


def calls_kept() -> int:
    """How many there are in this process, those of other tests included."""
    gc.collect()
    return sum(isinstance(kept, NextCall) for kept in gc.get_objects())


def full(bench: Bench, pool: str) -> None:
    """Use a pool's burst up, so that nothing more fits for a while."""
    bench.push("filler", input_tokens=13_500, pools=(pool,))
    grant = bench.grant()
    assert grant is not None
    assert grant.pool == pool


def test_what_waits_for_quota_gives_its_slot_to_others() -> None:
    bench = Bench(slots=2, limits={"y": SMALL})
    full(bench, "y")
    first = moved(bench, "y")
    bench.push("other", times=2)
    found = bench.take()
    assert [grant.ticket.lane.tenant for grant in found] == ["other"]
    assert not first.holds_slot
    assert bench.scheduler.ledger.slots_used == 2


def test_a_tenant_at_its_cap_goes_on_while_a_job_of_it_waits() -> None:
    bench = Bench(limits={"y": SMALL}, caps={"moved": TenantCaps(max_concurrency=1)})
    full(bench, "y")
    moved(bench, "y")
    bench.push("moved")
    assert [grant.pool for grant in bench.take()] == ["x"]


@pytest.mark.parametrize(("rank", "pool"), [(0, "x"), (1, "x")])
def test_the_pool_it_came_from_is_looked_at_again_from_its_time_on(rank: int, pool: str) -> None:
    bench = Bench(limits={"y": SMALL})
    full(bench, "y")
    moved(bench, "y", later=(("x", 1.0, rank),))
    assert bench.grant() is None
    assert bench.scheduler.next_wake(now=bench.now) == bench.now + 1.0
    bench.now += 1.0
    found = bench.grant()
    assert found is not None
    assert (found.pool, found.turn, found.holds_slot) == (pool, 2, True)
    assert set(found.ticket.pools) == {"x", "y"}


def test_where_both_have_room_the_preferred_one_takes_it() -> None:
    for rank, pool in ((0, "x"), (1, "y")):
        bench = Bench()
        moved(bench, "y", later=(("x", 0.0, rank),))
        found = bench.grant()
        assert found is not None
        assert found.pool == pool


def test_it_stays_in_the_market_of_the_pool_that_it_prefers() -> None:
    bench = Bench()
    first = moved(bench, "y", later=(("x", 5.0, 0),))
    found = bench.grant()
    assert found is not None
    assert found.pool == "y"
    assert found.flow is first.flow


def test_asking_anew_replaces_what_was_asked_for() -> None:
    bench = Bench(limits={"y": SMALL})
    full(bench, "y")
    first = moved(bench, "y")
    bench.scheduler.next_turn(first, pools=("x",), input_tokens=10, max_tokens=10, now=bench.now)
    assert [grant.pool for grant in bench.take()] == ["x"]
    assert not bench.scheduler.turns.waiting


def test_what_waits_is_told_once_what_for_and_how_long_still() -> None:
    bench = Bench(limits={"y": SMALL})
    full(bench, "y")
    first = moved(bench, "y")
    assert bench.grant() is None
    ((grant, waits),) = bench.scheduler.blocked_turns(now=bench.now, most=8)
    assert grant is first
    assert waits.reason == "quota"
    assert waits.estimate_s is not None
    assert bench.scheduler.blocked_turns(now=bench.now, most=8) == []
    bench.now += waits.estimate_s + 0.001
    found = bench.grant()
    assert found is not None
    assert found.pool == "y"


@pytest.mark.parametrize("later", [(), (("x", 1.0, 0),)])
def test_nothing_is_kept_of_a_call_that_was_begun(later: tuple[tuple[str, float, int], ...]) -> None:
    """Of none that goes on at once, its slot in hand: with each refusal one was kept for good."""
    bench, before = Bench(), calls_kept()
    for _ in range(20):
        moved(bench, "y", later=later)
        grant = bench.grant()
        assert grant is not None
        bench.settle(grant)
        bench.now += 2.0
        bench.push("other")
        found = bench.grant()
        assert found is not None
        bench.settle(found)
    del grant, found
    assert calls_kept() <= before
