"""Three replicas as processes on one NATS server: killed at random, restarted in turn, and nothing is lost.

`SIDECAR_TEST_JOBS` makes the load larger (default 150; the figures in the documentation are for 1,000).
"""

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.fleet_processes import Fleet, Observer, observer
from tests.support.nats_server import AccountPool

JOBS = int(os.environ.get("SIDECAR_TEST_JOBS", "150"))
PROMPT = "[[tokens=40 ttft_ms=200 tps=40]] go on"
CALLS = {"jobs": {"max_attempts": 20, "drain_s": 0.2}}

pytestmark = [pytest.mark.nats, pytest.mark.servers]


@pytest.fixture
def nats_url(nats_server: AccountPool) -> str:
    return nats_server.take().url


@pytest.fixture
def fleet(nats_url: str, bedrock: EmulatorProcess) -> Iterator[Fleet]:
    with Fleet(nats_url, bedrock.url, **CALLS) as made:
        yield made


def calls_of(bedrock: EmulatorProcess) -> int:
    return int(bedrock.control("GET", "counters")["calls"])


async def submit_all(seen: Observer, count: int, *, every_s: float = 0.0, name: str = "job") -> list[str]:
    jobs = []
    for i in range(count):
        jobs.append(await seen.submit(f"{name}{i}", PROMPT, stream=bool(i % 2), params={"max_tokens": 100}))
        await asyncio.sleep(every_s)
    return jobs


async def test_a_random_replica_killed_again_and_again_loses_nothing(fleet: Fleet, nats_url: str) -> None:
    await fleet.start(3)
    async with observer(nats_url) as seen:
        submitting = asyncio.create_task(submit_all(seen, JOBS, every_s=0.02))
        for _ in range(max(5, JOBS // 40)):
            await asyncio.sleep(1.0)
            fleet.kill()
            fleet.spawn()
        jobs = await submitting
        await seen.until_done()
        ends = await seen.check(jobs)
        assert ends["succeeded"] == len(jobs), ends
        assert ends["repeated"] > 0, "the kills hit nobody"
        print(dict(ends))


async def test_dispatch_resumes_after_the_schedulers_death_and_after_its_end(fleet: Fleet, nats_url: str) -> None:
    await fleet.start(3)
    async with observer(nats_url) as seen:
        jobs = await submit_all(seen, 10)
        fleet.kill(await fleet.scheduler())
        began = time.monotonic()
        jobs += await submit_all(seen, 5, name="late")
        killed_s = await first_event_s(seen, "late0", began)
        process = await fleet.scheduler()
        stopping = asyncio.create_task(fleet.stop(process))
        began = time.monotonic()
        jobs += await submit_all(seen, 5, name="later")
        stopped_s = await first_event_s(seen, "later0", began)
        assert await stopping == 0
        await seen.until_done()
        await seen.check(jobs)
        print({"after SIGKILL": round(killed_s, 2), "after SIGTERM": round(stopped_s, 2)})
        # Generous: the machine may be busy. The figures themselves are printed.
        assert killed_s < 30
        assert stopped_s < 15


async def first_event_s(seen: Observer, job: str, began: float) -> float:
    async with asyncio.timeout(60):
        while not any(event.attempt for event in await seen.events(job)):  # noqa: ASYNC110 - stored, not heard
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_rolling_restart_under_load_loses_nothing_and_buries_nothing(fleet: Fleet, nats_url: str) -> None:
    await fleet.start(3)
    async with observer(nats_url) as seen:
        submitting = asyncio.create_task(submit_all(seen, JOBS, every_s=0.04))
        for process in list(fleet.running):
            fresh = fleet.spawn()
            await asyncio.to_thread(fresh.wait_ready)
            assert await fleet.stop(process) == 0, process.log[-2000:]
        jobs = await submitting
        await seen.until_done()
        ends = await seen.check(jobs)
        assert ends["succeeded"] == len(jobs)
        assert ends["crashes"] == 0
        assert await seen.dead.list() == []
        print(dict(ends))
