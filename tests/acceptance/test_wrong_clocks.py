"""Sidecars on machines whose clocks are an hour wrong: jobs, tools and records go by the NATS server's time."""

import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import Access
from tests.support.process import SidecarProcess, wait_until
from tests.support.stranger import Stranger, asks, stranger

pytestmark = [pytest.mark.nats, pytest.mark.servers]

HOUR = 3600.0
SETTINGS = {"scheduler": {"slots": 4, "interactive_reserve": 0.0}}


def in_seconds(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat(timespec="milliseconds")


def seconds_from_now(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp() - time.time()


@contextmanager
def sidecar(access: Access, bedrock: EmulatorProcess, *, ahead_s: float, then_s: float = 0.0) -> Iterator[Any]:
    """A sidecar on a machine whose clock is `ahead_s` ahead of this one's, and `then_s` after a SIGUSR1."""
    environment = {"WRONG_CLOCK_S": str(ahead_s), "WRONG_CLOCK_THEN_S": str(then_s)}
    with SidecarProcess(
        access.url, bedrock.url, module="tests.support.wrong_clock", environment=environment, **SETTINGS
    ) as process:
        yield process.wait_ready()


@pytest.fixture
async def client(nats_access: Access) -> AsyncIterator[Stranger]:
    async with stranger(nats_access.url, f"t{uuid.uuid4().hex[:12]}") as found:
        yield found


def reasons(process: SidecarProcess) -> dict[str, str]:
    page = process.get("/readyz")[1]
    return dict(page["reasons"]) if page else {}


def offset_metric(process: SidecarProcess) -> float:
    connection = HTTPConnection("127.0.0.1", process.admin_port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    (line,) = [line for line in text.splitlines() if line.startswith("sidecar_clock_offset_seconds ")]
    return float(line.split()[1])


async def results_of(client: Stranger, jobs: list[str], request: dict[str, Any]) -> list[dict[str, Any]]:
    return await asyncio.gather(*(client.run(request, job=job) for job in jobs))


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
async def test_alone_it_expires_nothing_early_and_runs_nothing_late(
    nats_access: Access, bedrock: EmulatorProcess, client: Stranger, ahead_s: float
) -> None:
    with sidecar(nats_access, bedrock, ahead_s=ahead_s) as process:
        request = asks("[[tokens=5]] hi", deadline=in_seconds(60))
        good = await results_of(client, [f"good{i}" for i in range(8)], request)
        assert [result["state"] for result in good] == ["succeeded"] * 8
        assert all(result["timings"]["queued_ms"] < 30_000 for result in good)
        late = await client.run(asks("[[tokens=5]] hi", deadline=in_seconds(-5)), job="late")
        assert (late["error"]["code"], late["attempts"]) == ("deadline_exceeded", [])
        running = asks("[[tokens=4000 tps=100]] go on", stream=True, deadline=in_seconds(2))
        began = time.monotonic()
        result = await client.run(running, job="running")
        assert (result["state"], result["error"]["code"]) == ("expired", "deadline_exceeded")
        assert time.monotonic() - began < 30
        document = await client.answer("get", client.tenant, "good0")
        for name in ("created", "updated"):
            assert abs(seconds_from_now(document[name])) < 60
        wait_until(lambda: "clock" in reasons(process), what="told of the wrong clock")
        side = "ahead of" if ahead_s > 0 else "behind"
        assert f"3600 s {side} the NATS server's clock" in reasons(process)["clock"]
        assert abs(offset_metric(process) - ahead_s) < 2
        assert process.log.count("this machine's clock is") == 1, "said once a change"


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
async def test_a_tool_lives_as_long_as_it_was_registered_for(
    nats_access: Access, bedrock: EmulatorProcess, client: Stranger, ahead_s: float
) -> None:
    left: list[float] = []

    async def provide(message: Any) -> None:
        left.append(seconds_from_now(message.headers["Llm-Deadline"]))
        await message.respond(b"3")

    tool = {
        "name": "add",
        "version": "1.0.0",
        "description": "Adds.",
        "input_schema": {"type": "object"},
        "ttl_s": 10,
    }
    with sidecar(nats_access, bedrock, ahead_s=ahead_s):
        registered = await client.answer("tools", client.tenant, "register", payload=tool)
        assert 0 < seconds_from_now(registered["expires"]) <= 11
        await client.connection.subscribe(registered["subject"], cb=provide)
        request = asks('[[tool=add input={"left":2}]] How many?', tools=["add"], timeout_s=60)
        result = await client.run(request, job="job1")
        assert result["state"] == "succeeded"
        assert 0 < left[0] <= 61

        async def is_listed() -> bool:
            listed = await client.answer("tools", client.tenant, "list", payload={})
            return bool(listed["tools"])

        async with asyncio.timeout(60):
            while await is_listed():  # noqa: ASYNC110 - a listing has no event
                await asyncio.sleep(0.2)
        assert seconds_from_now(registered["expires"]) < 1


async def test_setting_the_clock_under_way_ends_no_job_and_takes_the_warning_back(
    nats_access: Access, bedrock: EmulatorProcess, client: Stranger
) -> None:
    with sidecar(nats_access, bedrock, ahead_s=0.0, then_s=HOUR) as process:
        assert "clock" not in reasons(process)
        request = asks("[[tokens=60 tps=20]] go on", stream=True, deadline=in_seconds(60))
        feeds = [await client.submit(request, job=f"job{i}") for i in range(6)]
        await feeds[0].first_delta()
        process.signal(signal.SIGUSR1)
        wait_until(lambda: "clock" in reasons(process), what="told of the clock that was set")
        for feed in feeds:
            assert (await feed.result())["data"]["state"] == "succeeded"
        late = await client.run(asks("[[tokens=5]] hi", deadline=in_seconds(-5)), job="late")
        assert late["error"]["code"] == "deadline_exceeded"


async def test_beside_a_good_one_it_works_and_leaves_the_scheduling(
    nats_access: Access, bedrock: EmulatorProcess, client: Stranger
) -> None:
    with ExitStack() as stack:
        wrong = stack.enter_context(sidecar(nats_access, bedrock, ahead_s=HOUR))
        wait_until(lambda: wrong.get("/info")[1]["is_scheduler"], what="scheduling alone")
        request = asks("[[tokens=40 tps=20]] go on", deadline=in_seconds(120))
        running = asyncio.create_task(results_of(client, [f"a{i}" for i in range(12)], request))
        good = stack.enter_context(sidecar(nats_access, bedrock, ahead_s=0.0))
        await asyncio.to_thread(wait_until, lambda: good.get("/info")[1]["is_scheduler"], what="taken over")
        second = await results_of(client, [f"b{i}" for i in range(12)], request)
        states = [result["state"] for result in (*await running, *second)]
        assert states == ["succeeded"] * 24
        good.kill()
        last = await client.run(asks("[[tokens=5]] hi", deadline=in_seconds(60)), job="last")
        assert last["state"] == "succeeded"
        assert json.dumps(reasons(wrong)).count("3600 s ahead") == 1
