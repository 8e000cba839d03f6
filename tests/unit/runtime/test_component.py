"""Lifecycle of a process: phases, health, tasks that are watched."""

import asyncio
import itertools
import logging

import pytest

from sidecar.errors import BusUnavailable, SidecarError
from sidecar.runtime.lifecycle import Beat, Health, Lifecycle, Phase, Tasks, logged
from tests.support.virtual_time import VirtualClock


async def test_a_process_goes_through_its_phases_in_order() -> None:
    lifecycle = Lifecycle()
    readiness = []
    for phase in (Phase.STARTING, Phase.RUNNING, Phase.DRAINING, Phase.STOPPED):
        lifecycle.enter(phase)
        lifecycle.enter(phase)
        readiness.append(lifecycle.is_ready)
    assert readiness == [False, True, False, False]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pair
        for pair in itertools.permutations(Phase, 2)
        if pair[0] in (Phase.STOPPED, Phase.DRAINING) and pair[1] in (Phase.CREATED, Phase.STARTING, Phase.RUNNING)
    ],
)
async def test_nothing_begins_again(before: Phase, after: Phase) -> None:
    lifecycle = Lifecycle()
    lifecycle.phase = before
    with pytest.raises(SidecarError):
        lifecycle.enter(after)


async def test_a_second_request_to_drain_hurries() -> None:
    lifecycle = Lifecycle()
    hurry = asyncio.ensure_future(lifecycle.wait_for_hurry())
    lifecycle.request_drain()
    await lifecycle.wait_for_drain()
    await asyncio.sleep(0)
    assert not hurry.done()
    lifecycle.request_drain()
    await hurry


async def test_the_first_fatal_error_counts_and_ends_all_waiting() -> None:
    lifecycle = Lifecycle()
    first, second = ValueError("first"), ValueError("second")
    lifecycle.fail(first)
    lifecycle.fail(second)
    assert lifecycle.failure is first
    await lifecycle.wait_for_drain()
    await lifecycle.wait_for_hurry()


def test_health_has_a_reason_for_each_trouble(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = Health()
    health.set("nats", "away")
    health.set("nats", "away")
    health.set("bedrock", "throttled")
    assert health.reasons == {"nats": "away", "bedrock": "throttled"}
    health.set("nats", None)
    health.set("bedrock", None)
    health.set("bedrock", None)
    assert not health.is_degraded
    assert [r.message for r in caplog.records].count("degraded") == 2
    assert [r.message for r in caplog.records].count("recovered") == 2


async def test_a_task_that_breaks_is_told_about_and_one_that_is_cancelled_is_not() -> None:
    crashes: list[BaseException] = []
    tasks = Tasks(crashes.append)

    async def breaks() -> None:
        raise ZeroDivisionError

    tasks.spawn(breaks())
    tasks.spawn(asyncio.Event().wait())
    assert len(tasks) == 2
    assert not await tasks.wait(0.01)
    assert len(tasks) == 1
    await tasks.cancel()
    assert len(tasks) == 0
    assert [type(crash) for crash in crashes] == [ZeroDivisionError]
    assert await tasks.wait()


async def test_a_duty_that_fails_is_logged_and_one_that_is_broken_is_not_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def duty(error: Exception) -> None:
        with logged("the duty", lane="a"):
            raise error

    duty(BusUnavailable("away"))
    assert "the duty failed" in caplog.text
    with pytest.raises(ZeroDivisionError):
        duty(ZeroDivisionError())


async def test_all_who_wait_for_a_beat_go_on_in_the_same_moment() -> None:
    clock = VirtualClock(epoch_s=1000.05)
    beat = Beat(clock, every_s=0.2)
    moments: list[float] = []

    async def wait() -> None:
        await beat.wait()
        moments.append(round(clock.now(), 6))

    first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await clock.advance(0.1)
    first.cancel()
    third = asyncio.ensure_future(wait())
    await clock.advance(0.1)
    late = asyncio.ensure_future(wait())
    await clock.advance(0.2)
    await asyncio.wait([first, second, third, late])
    assert moments == [1000.2, 1000.2, 1000.4]
