"""The clock of tests: time passes only when it is told to, and always in the same order."""

import asyncio

import pytest

from sidecar.adapters.memory.clock import MemoryClock


async def test_sleepers_wake_in_the_order_of_their_time_then_of_their_call() -> None:
    clock = MemoryClock()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [asyncio.ensure_future(sleep(*each)) for each in (("a", 3), ("b", 1), ("c", 3), ("d", 2))]
    await clock.advance(2.5)
    assert woken == [("b", 1.0), ("d", 2.0)]
    assert clock.monotonic() == 2.5
    await clock.advance(10)
    assert woken[2:] == [("a", 3.0), ("c", 3.0)]
    await asyncio.gather(*tasks)


async def test_what_wakes_may_sleep_again_within_the_same_advance() -> None:
    clock = MemoryClock(epoch_s=1000)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.now())

    task = asyncio.ensure_future(tick())
    await clock.advance(4.2)
    assert ticks == [1001, 1002, 1003, 1004]
    task.cancel()


async def test_run_passes_as_much_time_as_the_work_takes() -> None:
    clock = MemoryClock()

    async def work() -> str:
        await clock.sleep(3000)
        await asyncio.sleep(0)
        return "done"

    assert await clock.run(work()) == "done"
    assert clock.monotonic() == 3000


async def test_run_gives_up_on_work_that_waits_for_nothing() -> None:
    clock = MemoryClock()
    never = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await never

    with pytest.raises(TimeoutError, match="still waiting"):
        await clock.run(work())
    assert never.cancelled()


async def test_run_gives_up_at_its_limit() -> None:
    clock = MemoryClock()

    async def work() -> None:
        while True:
            await clock.sleep(10)

    with pytest.raises(TimeoutError):
        await clock.run(work(), limit_s=100)


async def test_run_raises_what_the_work_raises() -> None:
    clock = MemoryClock()

    async def work() -> None:
        await clock.sleep(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await clock.run(work())
