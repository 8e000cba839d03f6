"""SIGTERM with everything under way: one grace for all of it, exit code 0, and nobody left without a word."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from sidecar.adapters.nats.embedded import NatsServer
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import AccountPool, running
from tests.support.process import SidecarProcess, spawn_sidecar, wait_until
from tests.support.stranger import LIMIT_S, Stranger, asks, stranger

pytestmark = pytest.mark.nats

GRACE_S = 3.0
BEYOND_S = 2.0
LONG = "[[tokens=60000 tps=20]] a very long story"


@asynccontextmanager
async def slow_tool(client: Stranger) -> AsyncIterator[asyncio.Event]:
    """A tool that never answers; the event is set when it is called."""
    called = asyncio.Event()

    async def serve(_: Msg) -> None:
        called.set()

    registration = {"name": "slow", "version": "1.0.0", "description": "slow", "input_schema": {"type": "object"}}
    answer = await client.answer("tools", client.tenant, "register", payload={**registration, "ttl_s": 600})
    subscription = await client.connection.subscribe(answer["subject"], queue="tool", cb=serve)
    await client.connection.flush()
    yield called
    await subscription.unsubscribe()


async def ask(client: Client, tenant: str, text: str, **headers: str) -> Msg:
    return await client.request(
        f"llm.v1.ask.{tenant}.standard", json.dumps(asks(text)).encode(), timeout=LIMIT_S, headers=headers or None
    )


async def ended_s(sidecar: SidecarProcess) -> float:
    """How long it takes from now to its exit, which must be a good one."""
    began = time.monotonic()
    assert await asyncio.to_thread(sidecar.wait) == 0
    return time.monotonic() - began


async def busy(client: Stranger) -> asyncio.Task[Msg]:
    """An open ask, a streaming job, a job that waits for a tool, and a replay that nobody takes."""
    running = await client.submit(asks(LONG, stream=True), job="running")
    await running.first_delta()
    async with slow_tool(client) as called:
        await client.submit(asks("[[tool=slow turn=1]] go", tools=["slow"]), job="tools")
        await asyncio.wait_for(called.wait(), LIMIT_S)
    status = await client.follow("*", "status")
    asking = asyncio.create_task(ask(client.connection, client.tenant, LONG))
    await status.until(lambda events: any(e["job"].startswith("a") for e in events))
    await client.connection.publish(f"llm.v1.replay.{client.tenant}.running", reply=client.connection.new_inbox())
    return asking


@pytest.mark.parametrize("stops", [1, 2])
async def test_one_grace_for_all_that_is_under_way(
    nats_server: AccountPool, bedrock: EmulatorProcess, stops: int
) -> None:
    url = nats_server.take().url
    grace_s = GRACE_S if stops == 1 else 300.0
    async with stranger(url, "acme") as client:
        with spawn_sidecar(url, bedrock.url, jobs={"drain_s": grace_s}) as sidecar:
            asking = await busy(client)
            sidecar.signal(signal.SIGTERM)
            if stops == 2:
                await asyncio.to_thread(wait_until, lambda: sidecar.get("/readyz")[0] == 503, what="draining")
                sidecar.signal(signal.SIGTERM)
            took_s = await ended_s(sidecar)
            assert took_s < (GRACE_S if stops == 1 else 0) + BEYOND_S
            reply = await asyncio.wait_for(asking, LIMIT_S)
        assert (reply.headers or {})["Nats-Service-Error-Code"] == "503"
        error = json.loads(reply.data)["error"]
        job = error["details"]["job"]
        assert job in error["message"]
        with spawn_sidecar(url, bedrock.url, jobs={"drain_s": 0}):
            # What the answer said: the job goes on, and asking again under its name waits for the same one.
            assert (await client.answer("get", "acme", job))["state"] in ("queued", "running")
            again = asyncio.create_task(ask(client.connection, "acme", LONG, **{"Llm-Job-Id": job}))
            await client.answer("cancel", "acme", job)
            assert json.loads((await asyncio.wait_for(again, LIMIT_S)).data)["state"] == "cancelled"


async def test_an_ask_whose_job_ends_within_the_grace_is_answered(
    nats_server: AccountPool, bedrock: EmulatorProcess
) -> None:
    url = nats_server.take().url
    async with stranger(url, "acme") as client:
        with spawn_sidecar(url, bedrock.url, jobs={"drain_s": 30}) as sidecar:
            feed = await client.follow("*", "status")
            asking = asyncio.create_task(ask(client.connection, "acme", "[[tokens=40 tps=40]] go"))
            await feed.until(lambda events: any(e["data"]["state"] == "running" for e in events))
            sidecar.signal(signal.SIGTERM)
            assert json.loads((await asking).data)["state"] == "succeeded"
            assert await ended_s(sidecar) < BEYOND_S


async def test_an_ask_of_a_job_on_another_replica_is_answered_within_the_grace(
    nats_server: AccountPool, bedrock: EmulatorProcess
) -> None:
    url = nats_server.take().url
    async with stranger(url, "acme") as client:
        with spawn_sidecar(url, bedrock.url, jobs={"drain_s": 20}) as first:
            asking = [
                asyncio.create_task(ask(client.connection, "acme", "[[tokens=60 tps=20]] go")) for _ in range(4)
            ]
            with spawn_sidecar(url, bedrock.url, jobs={"drain_s": 20}):
                first.signal(signal.SIGTERM)
                assert await ended_s(first) < 20 + BEYOND_S
                for reply in await asyncio.gather(*asking):
                    assert json.loads(reply.data)["state"] == "succeeded"


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_the_grace_holds_also_where_the_server_is_away(bedrock: EmulatorProcess, trouble: str) -> None:
    """A frozen server keeps its connections: what is sent is taken, and nothing comes back."""
    server = NatsServer()
    with running(server):
        await _ends_without_a_server(server, bedrock, trouble)


async def _ends_without_a_server(server: NatsServer, bedrock: EmulatorProcess, trouble: str) -> None:
    async with stranger(server.url, "acme") as client:
        with spawn_sidecar(server.url, bedrock.url, jobs={"drain_s": GRACE_S}) as sidecar:
            asking = await busy(client)
            pid = server.pid
            assert pid is not None
            if trouble == "killed":
                server.kill()
            else:
                os.kill(pid, signal.SIGSTOP)
            try:
                sidecar.signal(signal.SIGTERM)
                assert await ended_s(sidecar) < GRACE_S + BEYOND_S
            finally:
                if trouble == "frozen":
                    os.kill(pid, signal.SIGCONT)
            asking.cancel()
            await asyncio.wait({asking})
