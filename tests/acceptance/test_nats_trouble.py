"""A real NATS server in trouble under working replicas: nothing is lost, and nobody has to restart a replica."""

import asyncio
import json
import os
import signal
import uuid
from typing import Any

import pytest

from sidecar.adapters.nats.embedded import NatsServer
from tests.support.audit import Findings
from tests.support.chaos import fleet
from tests.support.emulator import EmulatorProcess
from tests.support.load import Load, load
from tests.support.nats_server import Server
from tests.support.process import SidecarProcess, wait_until
from tests.support.wire_trouble import wire_to

pytestmark = [pytest.mark.nats, pytest.mark.servers]

STALL_S = 1.5
BREATH_S = 0.3
STALLS = 3


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def server(own_nats_server: Server) -> NatsServer:
    if not isinstance(own_nats_server, NatsServer):
        pytest.skip("needs the server as a process of this machine")
    return own_nats_server


async def api(jobs: Load, below: str, body: Any = None) -> Any:
    payload = b"" if body is None else json.dumps(body).encode()
    answer = json.loads((await jobs.connection.request(f"$JS.API.{below}", payload, timeout=30)).data)
    assert "error" not in answer, answer
    return answer


async def until_there(jobs: Load, stream: str) -> None:
    async with asyncio.timeout(60):
        while True:
            info = await jobs.connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=30)
            if b'"error"' not in info.data:
                return
            await asyncio.sleep(0.1)


async def until_reason(sidecar: SidecarProcess, subject: str, *, is_there: bool) -> None:
    """Wait until the replica's readiness gives `subject` as a reason for being degraded, or no longer does."""

    def look() -> bool:
        page = sidecar.get("/readyz")[1]
        return page is not None and (subject in page.get("reasons", {})) is is_there

    await asyncio.to_thread(wait_until, look, what=f"{subject} {'degraded' if is_there else 'well'}")


def check(found: Findings, logs: str, *, calls: int | None = None) -> None:
    assert not found.problems, f"{found}\n{logs}"
    assert set(found.states) == {"succeeded"}
    assert found.dead == 0
    if calls is not None:
        assert (found.calls, found.repeated) == (calls, 0)


async def test_a_replica_that_is_cut_off_loses_its_jobs_to_the_others_and_comes_back(
    server: NatsServer, bedrock: EmulatorProcess, tenant: str
) -> None:
    async with wire_to(server.port) as wire, load(server.url, bedrock, tenant=tenant) as jobs:
        settings: dict[str, Any] = {"scheduler": {"slots": 8}}
        with (
            SidecarProcess(server.url, bedrock.url, **settings) as stays,
            SidecarProcess(f"nats://127.0.0.1:{wire.port}", bedrock.url, **settings) as cut_off,
        ):
            for process in (stays, cut_off):
                await asyncio.to_thread(process.wait_ready)
            await asyncio.to_thread(
                wait_until, lambda: stays.get("/info")[1]["replicas"] == 2, what="two replicas"
            )
            await jobs.submit_many(12, behave="tokens=160 tps=20")
            await jobs.until_called(jobs.jobs)
            wire.cut()
            await jobs.until(lambda: any(event["attempt"] > 1 for event in jobs.events))
            wire.heal()
            await jobs.until_ended()
            found = await jobs.settle()
            logs = stays.log[-1500:] + cut_off.log[-1500:]
            check(found, logs)
            assert 0 < found.attempts[2] < 12, "the others stayed where they were"
            assert cut_off.is_running
            await until_reason(cut_off, "nats", is_there=False)
            await jobs.submit("later", behave="tokens=2")
            await jobs.until_ended()


async def test_a_server_that_stalls_again_and_again_costs_no_call(
    server: NatsServer, bedrock: EmulatorProcess, tenant: str
) -> None:
    """As on a disk that holds every write up: the server stands still for longer than any answer may take."""
    async with fleet(server.url, bedrock, size=2) as replicas, load(server.url, bedrock, tenant=tenant) as jobs:
        await jobs.submit_many(30, behave="tokens=80 tps=16")
        await jobs.until_called(jobs.jobs)
        assert server.pid is not None
        for _ in range(STALLS):
            os.kill(server.pid, signal.SIGSTOP)
            await asyncio.sleep(STALL_S)
            os.kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(BREATH_S)
        await jobs.until_ended()
        check(await jobs.settle(), replicas.logs(), calls=30)


async def test_jobs_wait_for_room_in_a_full_store(
    server: NatsServer, bedrock: EmulatorProcess, tenant: str
) -> None:
    async with fleet(server.url, bedrock, size=1) as replicas, load(server.url, bedrock, tenant=tenant) as jobs:
        await jobs.submit_many(10, behave="tokens=60 tps=20")
        await jobs.until_called(jobs.jobs)
        before = await api(jobs, "STREAM.INFO.KV_LLM_JOB")
        full = {**before["config"], "max_bytes": before["state"]["bytes"] + 1}
        await api(jobs, "STREAM.UPDATE.KV_LLM_JOB", full)
        await until_reason(replicas.processes[0], "streams", is_there=True)
        await jobs.submit("newcomer", behave="tokens=2")
        await asyncio.sleep(1.0)
        await api(jobs, "STREAM.UPDATE.KV_LLM_JOB", before["config"])
        await jobs.until_ended()
        check(await jobs.settle(), replicas.logs(), calls=11)
        await until_reason(replicas.processes[0], "streams", is_there=False)


async def test_streams_that_are_deleted_under_way_are_made_anew(
    server: NatsServer, bedrock: EmulatorProcess, tenant: str
) -> None:
    """Running jobs come to their end, and what is published once the streams are there again runs."""
    async with fleet(server.url, bedrock, size=2) as replicas, load(server.url, bedrock, tenant=tenant) as jobs:
        for i, streams in enumerate((("KV_LLM_JOB",), ("LLM_REQ", "KV_LLM_CTL", "KV_LLM_CANCEL"))):
            await jobs.submit_many(10, behave="tokens=40 tps=20", prefix=f"running{i}-")
            await jobs.until_called(jobs.jobs)
            sequences = {name: (await api(jobs, f"STREAM.INFO.{name}"))["state"]["last_seq"] for name in streams}
            for name in streams:
                await api(jobs, f"STREAM.DELETE.{name}")
            for name in streams:
                await until_there(jobs, name)
            await jobs.submit_many(10, behave="tokens=2", prefix=f"later{i}-")
            await jobs.until_ended()
            for name in streams:
                now = await api(jobs, f"STREAM.INFO.{name}")
                assert now["config"]["first_seq"] > sequences[name], "old places and revisions fit nothing new"
        found = await jobs.settle()
        # Jobs whose documents went with the stream go on, or were begun anew as if never seen; what they had said
        # before went with it.
        found.unexplained.clear()
        found.gaps = [gap for gap in found.gaps if not gap.startswith("running0-")]
        found.garbled = [one for one in found.garbled if not (one.startswith("running0-") and "deltas" in one)]
        check(found, replicas.logs())
        assert all(process.is_running for process in replicas.processes)
