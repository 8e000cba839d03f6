"""Virtual time of a loop: it passes only while nothing else can happen, and takes all that waits with it."""

import asyncio

import pytest

from tests.support.virtual_time import VirtualClock


async def test_sleepers_wake_in_the_order_of_their_time() -> None:
    clock = VirtualClock()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [asyncio.ensure_future(sleep(*each)) for each in (("a", 3), ("b", 1), ("c", 4), ("d", 2))]
    await clock.advance(2.5)
    assert woken == [("b", 1.0), ("d", 2.0)]
    assert clock.monotonic() == 2.5
    await clock.advance(10)
    assert woken[2:] == [("a", 3.0), ("c", 4.0)]
    await asyncio.gather(*tasks)


async def test_what_wakes_may_sleep_again_within_the_same_advance() -> None:
    clock = VirtualClock(epoch_s=1000)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.now())

    task = asyncio.ensure_future(tick())
    await clock.advance(4.2)
    assert ticks == [1001, 1002, 1003, 1004]
    task.cancel()


async def test_timeouts_of_asyncio_move_with_it() -> None:
    clock = VirtualClock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.sleep(5000)
    assert clock.monotonic() == 3600


async def test_settling_takes_no_time() -> None:
    clock = VirtualClock()
    steps: list[int] = []

    async def work() -> None:
        for step in range(200):
            await asyncio.sleep(0)
            steps.append(step)

    task = asyncio.ensure_future(work())
    late = clock.call_later(0.001, lambda: steps.append(-1))
    await clock.settle()
    assert steps == list(range(200))
    assert clock.monotonic() == 0
    late.cancel()
    await task


async def test_a_stepped_clock_shows_another_day_and_the_same_seconds() -> None:
    clock = VirtualClock(epoch_s=1000)
    clock.skew_s = -500
    await clock.advance(1)
    assert (clock.now(), clock.monotonic()) == (501, 1)


async def test_run_passes_as_much_time_as_the_work_takes() -> None:
    clock = VirtualClock()

    async def work() -> str:
        await clock.sleep(3000)
        await asyncio.sleep(0)
        return "done"

    assert await clock.run(work()) == "done"
    assert clock.monotonic() == 3000


async def test_run_gives_up_at_its_limit() -> None:
    clock = VirtualClock()
    never = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await never

    with pytest.raises(TimeoutError):
        await clock.run(work(), limit_s=100)
    assert never.cancelled()


async def test_run_raises_what_the_work_raises() -> None:
    clock = VirtualClock()

    async def work() -> None:
        await clock.sleep(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await clock.run(work())
