"""One time for all parts of an orderly end."""

import asyncio

import pytest

from sidecar.errors import BusUnavailable
from sidecar.runtime.grace import FAREWELL_S, Grace
from tests.support.virtual_time import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


async def test_parts_share_one_grace(clock: VirtualClock) -> None:
    grace = Grace(clock, 10.0)
    began = clock.monotonic()
    assert await clock.run(grace.finish(clock.sleep(4.0)))
    assert not await clock.run(grace.finish(clock.sleep(60.0)))
    assert not await clock.run(grace.finish(clock.sleep(60.0)))
    assert clock.monotonic() - began == pytest.approx(10.0)
    assert not await clock.run(grace.farewell(clock.sleep(60.0), what="a part"))
    assert clock.monotonic() - began == pytest.approx(10.0 + FAREWELL_S)


async def test_what_is_short_is_done_even_where_all_is_over(clock: VirtualClock) -> None:
    grace = Grace(clock, 0.0)
    await clock.advance(FAREWELL_S + 1.0)
    assert not await clock.run(grace.finish(asyncio.sleep(0)))
    assert await clock.run(grace.farewell(asyncio.sleep(0), what="a part"))


async def test_hurry_ends_the_grace_at_once_and_leaves_time_for_a_farewell(clock: VirtualClock) -> None:
    grace = Grace(clock, 300.0)
    finishing = asyncio.create_task(grace.finish(clock.sleep(200.0)))
    await clock.advance(5.0)
    grace.hurry()
    grace.hurry()
    await clock.settle()
    assert await finishing is False
    assert grace.left_s == 0.0
    assert grace.farewell_left_s == pytest.approx(FAREWELL_S)


async def test_a_part_that_fails_by_the_bus_does_not_keep_the_others_from_ending(clock: VirtualClock) -> None:
    async def away() -> None:
        raise BusUnavailable("away")

    async def broken() -> None:
        raise ZeroDivisionError

    grace = Grace(clock, 1.0)
    assert not await clock.run(grace.farewell(away(), what="a part"))
    with pytest.raises(ZeroDivisionError):
        await clock.run(grace.farewell(broken(), what="a part"))


async def test_a_part_that_does_not_heed_its_cancellation_holds_nothing_up(clock: VirtualClock) -> None:
    release = asyncio.Event()

    async def deaf() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    grace = Grace(clock, 0.0)
    farewell = asyncio.create_task(grace.farewell(deaf(), what="a part"))
    await clock.advance(FAREWELL_S)
    assert await asyncio.wait_for(farewell, 20) is False
    release.set()
