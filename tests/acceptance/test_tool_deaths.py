"""Processes that die in the middle of jobs with tools, on a real server: what was kept is not fetched twice."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.chaos import fault_environment, fleet, keep_up
from tests.support.emulator import EmulatorProcess
from tests.support.fault_points import TOOL_STEPS
from tests.support.nats_server import AccountPool
from tests.support.stranger import Stranger, asks, check_story, stranger

TENANT = "mortal"
# Three turns, five tools; those of the second turn are where owners die.
TURNS = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}
SAFE = ("a", "d")
LIMIT_S = 150.0


class Provider:
    """A provider that knows the protocol alone. `calls` counts what reached it, by idempotency key."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        self.calls: Counter[str] = Counter()

    async def start(self, client: Stranger) -> None:
        for name in TURNS:
            registration = {
                "name": name,
                "version": "1.0.0",
                "description": name,
                "input_schema": {"type": "object"},
                "idempotent": name in SAFE,
                "ttl_s": 600,
            }
            answer = await client.answer("tools", TENANT, "register", payload=registration)
            await self._connection.subscribe(answer["subject"], queue="tool", cb=self._serve)
        await self._connection.flush()

    async def _serve(self, message: Msg) -> None:
        assert message.headers is not None
        self.calls[message.headers["Idempotency-Key"]] += 1
        # Long enough that an owner can die meanwhile.
        await asyncio.sleep(0.3)
        await message.respond(json.dumps({"said": message.subject.split(".")[4]}).encode())


@pytest.fixture(scope="module")
def deaths(
    nats_server: AccountPool, bedrock: EmulatorProcess, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """One job for each step, all at once, on two replicas; each kills its owner once."""

    async def run() -> dict[str, Any]:
        url, latches = nats_server.take().url, tmp_path_factory.mktemp("latches")
        settings = {"jobs": {"max_attempts": 20}, "module": "tests.support.fault_points"}
        async with (
            fleet(url, bedrock, size=2, environment=fault_environment(latches), **settings) as replicas,
            stranger(url, TENANT) as client,
        ):
            provider = Provider(client.connection)
            await provider.start(client)
            keeping = asyncio.create_task(keep_up(replicas))
            try:
                return {"calls": provider.calls, "latches": latches, "stories": await _stories(client)}
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})

    return asyncio.run(run())


async def _stories(client: Stranger) -> dict[str, list[dict[str, Any]]]:
    calls = " ".join(f"[[tool={name} turn={turn}]]" for name, turn in TURNS.items())
    feeds = {}
    for step in TOOL_STEPS:
        request = asks(f"{calls} go", tools=list(TURNS), timeout_s=LIMIT_S)
        feeds[step] = await client.submit(request, job=f"at-{step}")
    for feed in feeds.values():
        await feed.result(limit_s=LIMIT_S)
    return {step: await client.replay(f"at-{step}") for step in TOOL_STEPS}


@pytest.mark.parametrize("step", TOOL_STEPS)
def test_a_death_at_this_step_calls_nothing_twice_that_was_kept(deaths: dict[str, Any], step: str) -> None:
    latches: Path = deaths["latches"]
    assert (latches / step).exists(), "the step was never reached"
    events = deaths["stories"][step]
    result = check_story(events)
    assert result["state"] == "succeeded", result["error"]
    assert max(event["attempt"] for event in events) >= 2
    calls: Counter[str] = deaths["calls"]
    said = [event["data"] for event in events if event["type"] == "tool"]
    for place, name in enumerate(TURNS):
        turn = TURNS[name]
        key = f"{TENANT}.at-{step}.{turn}.{place - list(TURNS.values()).index(turn)}"
        if name not in SAFE:
            assert calls[key] <= 1, f"{name} may not be repeated"
        returned = [i for i, one in enumerate(said) if one["tool"] == name and one["phase"] == "returned"]
        assert len(returned) <= 1, f"{name} was called again though its result was kept"
        if returned:
            later = said[returned[0] + 1 :]
            assert not [one for one in later if one["tool"] == name]
