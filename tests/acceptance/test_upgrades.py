"""From the last release to this one and back: its store is taken up, both run side by side, nothing is lost."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.doctor_nats import findings
from sidecar.config.settings import Settings
from tests.support.emulator import EmulatorProcess
from tests.support.fleet_processes import Fleet, Observer, observer
from tests.support.nats_server import AccountPool
from tests.support.process import ROOT
from tests.support.release import release_root

JOBS = 60
PROMPT = "[[tokens=40 ttft_ms=200 tps=40]] go on"
TO_THIS_ONE = "to this one"
BOTH_WAYS = pytest.mark.parametrize("way", [TO_THIS_ONE, "back to the release"])

pytestmark = [pytest.mark.nats]


@pytest.fixture
def nats_url(nats_server: AccountPool) -> str:
    return nats_server.take().url


@pytest.fixture
def fleet(nats_url: str, bedrock: EmulatorProcess) -> Iterator[Fleet]:
    with Fleet(nats_url, bedrock.url, short_leases=False, jobs={"max_attempts": 20, "drain_s": 0.5}) as made:
        yield made


@pytest.fixture(scope="session")
def release() -> Path:
    return release_root()


async def submit_all(
    seen: Observer, count: int, *, every_s: float = 0.0, name: str = "job", **fields: Any
) -> list[str]:
    jobs = []
    for i in range(count):
        job = f"{name}{i}"
        jobs.append(await seen.submit(job, PROMPT, stream=bool(i % 2), params={"max_tokens": 100}, **fields))
        await asyncio.sleep(every_s)
    return jobs


async def check_all_succeeded(seen: Observer, jobs: list[str]) -> None:
    ends = await seen.check(jobs)
    assert ends["succeeded"] == len(jobs), ends
    assert await seen.dead.list() == []


def versions(fleet: Fleet) -> list[str]:
    return [process.get("/info")[1]["version"] for process in fleet.running]


async def test_the_release_runs_its_own_code(fleet: Fleet, release: Path) -> None:
    await fleet.start(1, root=release)
    await fleet.start(1)
    assert len(set(await asyncio.to_thread(versions, fleet))) == 2


def in_order(release: Path, way: str) -> tuple[Path, Path]:
    """Whose code runs before, and whose after."""
    return (release, ROOT) if way == TO_THIS_ONE else (ROOT, release)


@BOTH_WAYS
async def test_a_store_that_the_other_left_is_taken_up_without_loss(
    fleet: Fleet, release: Path, nats_url: str, way: str
) -> None:
    """Running and queued jobs, finished and cancelled ones: killed with the first, ended by the second."""
    before, after = in_order(release, way)
    await fleet.start(1, root=before)
    async with observer(nats_url) as seen:
        done = await submit_all(seen, 4, name="done")
        await seen.until_done()
        open_jobs = await submit_all(seen, JOBS, name="open")
        await seen.until_event(open_jobs[0])
        fleet.kill()
        cancelled = {open_jobs[0], open_jobs[-1]}
        for job in cancelled:
            await seen.store.mark_cancelled("acme", job)
        await fleet.start(1, root=after)
        await seen.until_done()
        ends = await seen.check(done + open_jobs)
        assert ends["cancelled"] == len(cancelled), ends
        assert ends["succeeded"] == len(done) + len(open_jobs) - len(cancelled), ends
        assert await seen.dead.list() == []


@BOTH_WAYS
async def test_a_rolling_change_of_three_replicas_under_load_loses_and_doubles_nothing(
    fleet: Fleet, release: Path, nats_url: str, way: str
) -> None:
    before, after = in_order(release, way)
    await fleet.start(3, root=before)
    async with observer(nats_url) as seen:
        submitting = asyncio.create_task(submit_all(seen, JOBS, every_s=0.1))
        for process in list(fleet.running):
            fresh = fleet.spawn(root=after)
            await asyncio.to_thread(fresh.wait_ready)
            assert await fleet.stop(process) == 0, process.log[-2000:]
        jobs = await submitting
        await seen.until_done()
        await check_all_succeeded(seen, jobs)


@pytest.mark.parametrize("scheduler", ["the release", "this one"])
async def test_either_schedules_for_the_other_and_takes_its_jobs_over(
    fleet: Fleet, release: Path, nats_url: str, scheduler: str
) -> None:
    first, second = (release, ROOT) if scheduler == "the release" else (ROOT, release)
    await fleet.start(1, root=first)
    leader = await fleet.scheduler()
    await fleet.start(1, root=second)
    assert await fleet.scheduler() is leader
    async with observer(nats_url) as seen:
        jobs = await submit_all(seen, JOBS)
        await seen.until_event(jobs[-1])
        owners = {await seen.owner(job) for job in jobs}
        assert len(owners - {None}) == 2, owners
        fleet.kill(leader)
        await seen.until_done()
        await check_all_succeeded(seen, jobs)


async def test_doctor_says_what_an_upgrade_will_change_before_it_does(
    fleet: Fleet, release: Path, nats_url: str
) -> None:
    await fleet.start(1, root=release)
    await fleet.stop(fleet.running[0])
    settings = Settings.model_validate({"nats": {"url": nats_url}, "retention": {"requests_bytes": 1 << 27}})
    before = {found.check: found async for found in findings(settings) if found.check.startswith("stream ")}
    assert "fail" not in {found.level for found in before.values()}, before
    await fleet.start(1)
    async for found in findings(settings):
        if found.check.startswith("stream "):
            assert found.level == "ok" or before[found.check].text == "is not there yet", (found, before)
    log = fleet.running[0].log
    for name, found in before.items():
        changes = found.level == "warn" and found.text != "is not there yet"
        assert not changes or name.removeprefix("stream ") in log, f"{name} was changed without a word: {found}"
