"""Replicas that are killed, restarted and rolled over under load: nothing is lost, nothing is said twice."""

import asyncio
import random
import uuid

import pytest

from tests.support.chaos import fleet, havoc, wait_scheduler
from tests.support.emulator import EmulatorProcess
from tests.support.load import load
from tests.support.nats_server import AccountPool


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


async def test_random_kills_lose_nothing(nats_server: AccountPool, bedrock: EmulatorProcess, tenant: str) -> None:
    """Three replicas, one of them killed every second and started again, the scheduler as likely as the others."""
    url = nats_server.take().url
    async with fleet(url, bedrock) as replicas, load(url, bedrock, tenant=tenant) as jobs:
        publishing = asyncio.create_task(jobs.submit_many(200, behave="tokens=40 tps=20", over_s=6))
        await havoc(replicas, jobs.connection, kills=5, every_s=1.0, chance=random.Random(7))
        await publishing
        await jobs.until_ended()
        found = await jobs.settle()
        assert not found.problems, f"{found}\n{replicas.logs()}"
        assert found.states == {"succeeded": 200}
        assert found.calls >= 200
        assert found.dead == 0


async def test_a_rolling_restart_under_load_loses_nothing(
    nats_server: AccountPool, bedrock: EmulatorProcess, tenant: str
) -> None:
    """Each replica in turn ends by SIGTERM and is followed by another, while jobs keep coming."""
    url = nats_server.take().url
    async with fleet(url, bedrock) as replicas, load(url, bedrock, tenant=tenant) as jobs:
        publishing = asyncio.create_task(jobs.submit_many(150, behave="tokens=30 tps=30", over_s=10))
        for place in range(3):
            assert await replicas.terminate(place) == 0, replicas.logs()
            await asyncio.to_thread(replicas.respawn(place).wait_ready)
        await publishing
        await jobs.until_ended()
        found = await jobs.settle()
        assert not found.problems, f"{found}\n{replicas.logs()}"
        assert found.states == {"succeeded": 150}
        assert found.dead == 0


async def test_jobs_that_outlive_the_grace_period_are_handed_over(
    nats_server: AccountPool, bedrock: EmulatorProcess, tenant: str
) -> None:
    """A replica whose jobs take longer than it may wait hands them back; the other runs them again at once."""
    url = nats_server.take().url
    async with (
        fleet(url, bedrock, size=2, jobs={"drain_s": 0.5}) as replicas,
        load(url, bedrock, tenant=tenant) as jobs,
    ):
        await jobs.submit_many(20, behave="tokens=60 tps=15")
        await jobs.until_called(jobs.jobs)
        assert await replicas.terminate(0) == 0, replicas.logs()
        await jobs.until_ended()
        found = await jobs.settle()
        assert not found.problems, f"{found}\n{replicas.logs()}"
        assert found.states == {"succeeded": 20}
        assert max(found.attempts) == 2
        assert found.repeated == found.attempts[2]


async def test_dispatch_goes_on_after_the_death_of_the_scheduler(
    nats_server: AccountPool, bedrock: EmulatorProcess, tenant: str
) -> None:
    """By SIGKILL and then by SIGTERM: another replica takes the lease, and what is published then runs."""
    url = nats_server.take().url
    async with fleet(url, bedrock, size=2) as replicas, load(url, bedrock, tenant=tenant) as jobs:
        first = await wait_scheduler(jobs.connection)
        await asyncio.to_thread(replicas.kill, replicas.place_of(first))
        await jobs.submit("after-the-kill", behave="tokens=2")
        await jobs.until_ended()
        second = await wait_scheduler(jobs.connection, other_than=[first])
        assert replicas.place_of(second) != replicas.place_of(first)
        await asyncio.to_thread(replicas.respawn(replicas.place_of(first)).wait_ready)
        assert await replicas.terminate(replicas.place_of(second)) == 0, replicas.logs()
        await jobs.submit("after-the-term", behave="tokens=2")
        await jobs.until_ended()
        found = await jobs.settle()
        assert not found.problems, str(found)
