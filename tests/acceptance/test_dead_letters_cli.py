"""`sidecar jobs dead | replay | purge` as processes, on a real server."""

import json
import subprocess
import sys

import pytest

from sidecar.ports.bus import Lane, StoredRequest
from tests.acceptance.conftest import World
from tests.support.fleet_processes import observer
from tests.support.process import ROOT, clean_environment

pytestmark = pytest.mark.nats


def jobs(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", "--server", world.nats_url, "--tenant", "dora", "jobs", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )


async def test_what_was_given_up_is_listed_replayed_and_forgotten(world: World) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    async with observer(world.nats_url) as seen:
        for number, job in enumerate(("one", "two")):
            request = StoredRequest(10_000 + number, Lane("dora", "standard"), body, {"Llm-Job-Id": job}, 1.8e9)
            await seen.dead.put(job, request, reason="3 replicas fell silent", history=[{"attempt": 1}])
        listed = jobs(world, "dead", "--json")
        assert listed.returncode == 0, listed.stderr
        letters = [json.loads(line) for line in listed.stdout.splitlines()]
        assert [letter["job"] for letter in letters] == ["one", "two"]
        assert letters[0]["history"] == [{"attempt": 1}]
        assert "3 replicas fell silent" in jobs(world, "dead").stdout
        replayed = jobs(world, "replay", "one")
        assert replayed.returncode == 0, replayed.stderr
        fresh = replayed.stdout.strip()
        await seen.until_done()
        stored = await seen.store.get("dora", fresh)
        assert stored is not None
        assert stored.state.state == "succeeded"
        letter = await seen.dead.get("dora", "one")
        assert letter is not None
        assert letter.retried_as == fresh
        assert [letter.job for letter in await seen.dead.list("dora")] == ["two"]
        assert jobs(world, "purge", "two").returncode == 0
        assert await seen.dead.list("dora") == []
        missing = jobs(world, "replay", "two")
        assert missing.returncode == 1
        assert "is kept" in missing.stderr
