"""Replicas whose machines' clocks are wrong: jobs go by the server's time, scheduling by the best clock."""

from datetime import UTC, datetime

import pytest

from sidecar.cluster.deference import AGAIN_S, CALM_S, LEFT_FREE_S, Deference, is_better
from sidecar.runtime.server_clock import ServerClock
from tests.support.fleet import check_all_ended, slow
from tests.support.replica import PLENTY, Bench, bench
from tests.support.virtual_time import VirtualClock

HOUR = 3600.0
SETTINGS = {"models": PLENTY, "scheduler": {"slots": 2, "interactive_reserve": 0.0}}


def in_seconds(clock: VirtualClock, seconds: float) -> str:
    return datetime.fromtimestamp(clock.now() + seconds, UTC).isoformat(timespec="milliseconds")


async def wrong(b: Bench, name: str, ahead_s: float) -> ServerClock:
    """Start a replica whose machine's clock is wrong. Returns its clock."""
    clock = b.wrong_clock(ahead_s)
    await b.replica(name, clock=clock, **SETTINGS)
    return clock


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
async def test_alone_it_runs_jobs_with_deadlines_and_expires_only_those_that_are_over(ahead_s: float) -> None:
    async with bench(slow(2.0)) as b:
        await wrong(b, "one", ahead_s)
        good = [await b.submit(deadline=in_seconds(b.clock, 60)) for _ in range(8)]
        await check_all_ended(b, good)
        running = await b.submit(job="running", deadline=in_seconds(b.clock, 1))
        over = await b.submit(job="over", deadline=in_seconds(b.clock, -5))
        assert (await b.result(running)).state == "expired"
        assert (await b.result(over)).error.code == "deadline_exceeded"  # type: ignore[union-attr]
        fillers = [await b.submit() for _ in range(4)]
        began = b.clock.monotonic()
        queued = await b.submit(job="queued", deadline=in_seconds(b.clock, 3))
        assert (await b.result(queued)).state == "expired"
        assert b.clock.monotonic() - began == pytest.approx(3, abs=0.5)
        await check_all_ended(b, fillers)


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
async def test_what_it_writes_are_the_servers_times(ahead_s: float) -> None:
    async with bench(slow(2.0)) as b:
        await wrong(b, "one", ahead_s)
        job = await b.submit()
        began = b.clock.now()
        result = await b.result(job)
        assert result.timings is not None
        assert result.timings.queued_ms < 1000
        stored = await b.stored(job)
        assert stored is not None
        times = [stored.state.created, stored.state.updated, *(e.time for e in await b.events(job))]
        for time in times:
            assert datetime.fromisoformat(time).timestamp() == pytest.approx(began, abs=10)


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
async def test_setting_its_clock_under_way_harms_no_job(ahead_s: float) -> None:
    async with bench(slow(4.0)) as b:
        clock = await wrong(b, "one", 0.0)
        jobs = [await b.submit(deadline=in_seconds(b.clock, 60)) for _ in range(6)]
        await b.clock.advance(1)
        clock._local.ahead_s = ahead_s  # type: ignore[attr-defined]
        late = await b.submit(deadline=in_seconds(b.clock, -1))
        await check_all_ended(b, jobs)
        assert (await b.result(late)).error.code == "deadline_exceeded"  # type: ignore[union-attr]


async def test_the_scheduling_goes_to_the_replica_with_the_good_clock_and_jobs_go_on() -> None:
    async with bench(slow(5.0)) as b:
        await wrong(b, "wrong", HOUR)
        assert b.leader.name == "wrong"
        jobs = [await b.submit(deadline=in_seconds(b.clock, 120)) for _ in range(8)]
        await b.clock.advance(1)
        await wrong(b, "good", 0.0)
        await b.until(lambda: any(r.name == "good" and r.cluster.term for r in b.replicas), limit_s=15)
        await check_all_ended(b, jobs)
        assert b.leader.name == "good"


async def test_when_the_good_one_dies_the_wrong_one_schedules_again() -> None:
    async with bench(slow(1.0)) as b:
        await wrong(b, "wrong", HOUR)
        await wrong(b, "good", 0.0)
        await b.until(lambda: any(r.name == "good" and r.cluster.term for r in b.replicas), limit_s=15)
        b.kill(b.leader)
        job = await b.submit(deadline=in_seconds(b.clock, 60))
        await check_all_ended(b, [job])
        assert b.leader.name == "wrong"


async def test_of_wrong_clocks_the_nearest_schedules() -> None:
    async with bench(slow(1.0)) as b:
        for name, ahead_s in (("far", -2 * HOUR), ("farther", 5 * HOUR), ("near", 60.0)):
            await wrong(b, name, ahead_s)
        await b.until(lambda: any(r.name == "near" and r.cluster.term for r in b.replicas), limit_s=30)
        await b.clock.advance(2 * AGAIN_S)
        assert b.leader.name == "near"
        await check_all_ended(b, [await b.submit(deadline=in_seconds(b.clock, 30))])


async def test_a_replica_that_does_not_tell_its_offset_is_left_alone() -> None:
    """As those of the last release: nothing is known of their clocks, so nobody makes room for them."""
    async with bench(slow(1.0)) as b:
        await wrong(b, "wrong", HOUR)
        await b.replica("old", **SETTINGS)
        await b.clock.advance(30)
        assert b.leader.name == "wrong"


async def test_a_better_one_that_never_takes_the_lease_is_not_waited_for() -> None:
    async with bench(slow(1.0)) as b:
        await wrong(b, "wrong", HOUR)
        await wrong(b, "good", 0.0)
        good = next(r for r in b.replicas if r.name == "good")

        async def nobody(*_: object, **__: object) -> None:
            return None

        good.cluster._office._leases.acquire = nobody  # type: ignore[method-assign, assignment]
        await b.clock.advance(40)
        assert b.leader.name == "wrong"
        await check_all_ended(b, [await b.submit(deadline=in_seconds(b.clock, 30))])


@pytest.mark.parametrize(
    ("other", "own", "expected"),
    [
        (0.0, 3600.0, True),
        (-1.5, -3.0, True),
        (0.0, 1.9, False),
        (2.5, 3.0, False),
        (None, 3600.0, False),
        (0.0, None, False),
        (60.0, -7200.0, True),
        (3600.0, 60.0, False),
    ],
)
def test_whose_clock_is_better(other: float | None, own: float | None, expected: bool) -> None:
    assert is_better(other, than=own) is expected


def test_nobody_holds_back_for_ever_or_gives_up_again_and_again() -> None:
    deference = Deference()
    assert not deference.holds_back(0, is_better_there=False)
    assert deference.holds_back(0, is_better_there=True)
    deference.looked(1, is_free=True)
    deference.looked(2, is_free=True)
    assert deference.holds_back(1 + LEFT_FREE_S - 0.1, is_better_there=True)
    assert not deference.holds_back(1 + LEFT_FREE_S, is_better_there=True)
    deference.looked(5, is_free=False)
    assert deference.holds_back(5, is_better_there=True)
    assert not deference.gives_up(10, is_better_there=True)
    assert deference.gives_up(10 + CALM_S, is_better_there=True)
    assert not deference.gives_up(10 + CALM_S + AGAIN_S - 1, is_better_there=True)
    assert deference.gives_up(10 + CALM_S + AGAIN_S, is_better_there=True)
    assert not deference.gives_up(500, is_better_there=False)
    assert not deference.gives_up(500, is_better_there=True)
