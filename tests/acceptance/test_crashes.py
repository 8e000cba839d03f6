"""Replicas that are killed, restarted and rolled over under load: nothing is lost, nothing is said twice."""

import asyncio
import random
import uuid

import pytest

from tests.support.chaos import fleet, havoc, load
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import AccountPool

PATIENT = {"max_attempts": 50}


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


async def test_random_kills_lose_nothing(nats_server: AccountPool, bedrock: EmulatorProcess, tenant: str) -> None:
    """Three replicas, one of them killed every second and started again, the scheduler as likely as the others."""
    url = nats_server.take().url
    async with fleet(url, bedrock, jobs=PATIENT) as replicas, load(url, bedrock, tenant=tenant) as jobs:
        publishing = asyncio.create_task(jobs.submit_many(200, behave="tokens=20 tps=40", over_s=6))
        await havoc(replicas, kills=5, every_s=1.0, chance=random.Random(7))
        await publishing
        await jobs.until_ended()
        found = await jobs.settle()
        assert not found.problems, f"{found}\n{replicas.logs()}"
        assert found.states == {"succeeded": 200}
        assert found.calls >= 200
        assert found.dead == 0
