"""Real sidecars whose buckets and streams hold what strangers and slips of the hand left there."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from typing import Any

import pytest

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.policies import NatsPolicyStore
from sidecar.config.settings import NatsSettings
from sidecar.models.objects import meta_subject
from tests.support.emulator import EmulatorProcess
from tests.support.garbage import ACKNOWLEDGEMENTS, GARBAGE
from tests.support.nats_server import Access, make_server, no_environment, running
from tests.support.process import SidecarProcess, spawn_sidecar, wait_until
from tests.support.queueing import Queue, queue
from tests.support.stranger import Stranger, asks, stranger
from tests.support.tenancy import configured

pytestmark = pytest.mark.nats

QUICK = "[[tokens=3]] quick"
ACK = ACKNOWLEDGEMENTS["acknowledgement"]
BOUND_S = 3.0
KEYS = (
    "$KV.LLM_CTL.lease.scheduler",
    "$KV.LLM_CTL.lease.other",
    "$KV.LLM_CTL.checkpoint.scheduler",
    "$KV.LLM_CTL.checkpoint.starts",
    "$KV.LLM_CTL.x.y.z",
    "$KV.LLM_CONFIG.other",
    "$KV.LLM_PROMPT.shared.greet.999",
    "$KV.LLM_PROMPT.acme.greet.1_0_0",
    "$KV.LLM_PROMPT.x",
    "$KV.LLM_TOOL.shared.search.9_0_0",
    "$KV.LLM_TOOL.acme.search.1_0_0",
    "$KV.LLM_TOOL.x",
    "$KV.LLM_CANCEL.acme.unknown",
    "$KV.LLM_CANCEL.x",
    "$KV.LLM_JOB.acme.unknown",
    "$KV.LLM_JOB.acme.unknown.journal",
    "$KV.LLM_JOB.x",
    "llm.v1.log.acme.unknown.result",
    "llm.v1.log.acme.unknown.x",
    "llm.v1.dead.acme.unknown",
    "llm.v1.request.acme.batch",
)
POLICY = "$KV.LLM_CONFIG.policy"


async def plant(mux: Mux, *subjects: str) -> None:
    """Every kind of garbage under each of these, the last one being an acknowledgement."""
    for payload in (*GARBAGE.values(), ACK):
        await asyncio.gather(*(mux.store(subject, payload) for subject in subjects))


async def answered(client: Stranger, **more: Any) -> float:
    """How long a plain job takes, in seconds."""
    began = time.monotonic()
    reply = await client.answer("ask", client.tenant, "interactive", payload=asks(QUICK, **more))
    assert reply["state"] == "succeeded"
    return time.monotonic() - began


def metric(sidecar: SidecarProcess, name: str) -> float:
    """The sum of a metric over its labels."""
    connection = HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def test_a_sidecar_starts_and_works_whatever_its_buckets_hold(
    nats_access: Access, bedrock: EmulatorProcess
) -> None:
    async with queue(nats_access) as jobs, stranger(nats_access.url, "acme") as acme:
        await plant(jobs.mux, *KEYS)
        with spawn_sidecar(nats_access.url, bedrock.url) as sidecar:
            assert metric(sidecar, "sidecar_foreign_writes_total{") > 0
            await answered(acme)
            await plant(jobs.mux, *KEYS, POLICY)
            await answered(acme)
            assert sidecar.is_running
            assert "Traceback" not in sidecar.log
            assert await stored(jobs.mux, "LLM_PROMPT", "shared.greet.999") != [ACK]
            sidecar.signal(signal.SIGTERM)
            assert sidecar.wait() == 0


async def stored(mux: Mux, bucket: str, key: str) -> list[bytes]:
    reader = StreamReader(mux, f"KV_{bucket}", is_replicated=True)
    return [item.payload async for item in reader.scan(f"$KV.{bucket}.{key}", seq=1)]


def why(sidecar: SidecarProcess) -> tuple[int, str]:
    status, body = sidecar.get("/readyz")
    return status, (body or {}).get("reasons", {}).get("config", "")


async def test_a_start_with_a_refused_policy_goes_by_the_last_good_one(
    nats_access: Access, bedrock: EmulatorProcess
) -> None:
    async with queue(nats_access) as jobs:
        store = NatsPolicyStore(jobs.mux)
        await store.save(b"[tenants.acme]\ndeny = true\n")
        with spawn_sidecar(nats_access.url, bedrock.url) as first:
            await jobs.publish("acme", 1, prompt=QUICK)
            await store.save(GARBAGE["nested object"])
            wait_until(lambda: "nested too deep" in why(first)[1], what="told of the bad policy")
            assert why(first)[0] == 200
            first.kill()
        with spawn_sidecar(nats_access.url, bedrock.url) as second:
            status, reason = why(second)
            assert status == 200
            assert "LLM_CONFIG, key policy" in reason
            assert "the one accepted last holds" in reason
            assert metric(second, "sidecar_config_reload_success") == 0
            await jobs.publish("acme", 1, prompt=QUICK, job_class="batch")
            assert [job.state for job in await jobs.first(2)] == ["rejected", "rejected"]
            second.kill()
        await forget_good(jobs)
        with SidecarProcess(nats_access.url, bedrock.url) as third:
            wait_until(lambda: "waits for a policy" in why(third)[1], what="told what it waits for")
            assert why(third)[0] == 503
            assert metric(third, "sidecar_config_reload_success") == 0
            await jobs.publish("acme", 1, prompt=QUICK, job_class="interactive")
            assert "policy refused" in third.log
            await store.save(None)
            third.wait_ready()
            assert [job.state for job in await jobs.first(3)][-1] == "succeeded"


async def forget_good(jobs: Queue) -> None:
    reader = StreamReader(jobs.mux, "KV_LLM_CONFIG", is_replicated=True)
    async for item in reader.scan("$KV.LLM_CONFIG.policy.good.>", seq=1):
        await reader.delete(item.seq)


@pytest.mark.parametrize("is_running", [True, False])
async def test_strangers_do_not_take_a_policy_away(
    nats_access: Access, bedrock: EmulatorProcess, is_running: bool
) -> None:
    async with queue(nats_access) as jobs:
        await NatsPolicyStore(jobs.mux).save(b"[tenants.acme]\ndeny = true\n")
        with spawn_sidecar(nats_access.url, bedrock.url) as first:
            if not is_running:
                first.kill()
            for _ in range(25):
                await jobs.mux.store(POLICY, ACK)
                await jobs.mux.store(f"{POLICY}.good", ACK)
            if is_running:
                await jobs.publish("acme", 1, prompt=QUICK)
                assert [job.state for job in await jobs.first(1)] == ["rejected"]
                first.kill()
        with spawn_sidecar(nats_access.url, bedrock.url) as second:
            assert why(second) == (200, "")
            await jobs.publish("acme", 1, prompt=QUICK, job_class="batch")
            assert [job.state for job in await jobs.first(1 + is_running)][-1] == "rejected"
            async with asyncio.timeout(60):
                while await stored(jobs.mux, "LLM_CONFIG", "policy") != [  # noqa: ASYNC110 - it has no event
                    b"[tenants.acme]\ndeny = true\n"
                ]:
                    # It rules before it is written back.
                    await asyncio.sleep(0.05)


@pytest.fixture(scope="module", params=["accounts", "users"])
def aimed(
    request: pytest.FixtureRequest, bedrock: EmulatorProcess
) -> Iterator[tuple[str, str, list[SidecarProcess]]]:
    """The mode, the server's URL, and two replicas on it."""
    with running(make_server(config=configured(request.param))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        with spawn_sidecar(url, bedrock.url) as one, spawn_sidecar(url, bedrock.url) as two:
            yield request.param, server.url, [one, two]


@asynccontextmanager
async def operator(server_url: str) -> AsyncIterator[Mux]:
    settings = NatsSettings(url=server_url.replace("nats://", "nats://sidecar:p@"))
    connection = Connection(settings, environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=20.0)
    await mux.start()
    try:
        yield mux
    finally:
        await mux.close()
        await connection.close()


async def test_acknowledgements_aimed_at_every_key_cost_nobody_anything(
    aimed: tuple[str, str, list[SidecarProcess]],
) -> None:
    mode, url, sidecars = aimed
    targets = (*KEYS, POLICY, meta_subject("acme", "x"), "$JS.API.STREAM.PURGE.LLM_REQ")
    targets += ("$JS.API.STREAM.MSG.DELETE.KV_LLM_CTL", "$JS.API.STREAM.DELETE.LLM_REQ")
    async with (
        operator(url) as mux,
        stranger(url.replace("nats://", "nats://acme:p@"), "acme", inbox="_INBOX_acme") as acme,
        stranger(url.replace("nats://", "nats://globex:p@"), "globex", inbox="_INBOX_globex") as globex,
    ):
        await answered(acme)
        scheduler = [sidecar.get("/info")[1]["is_scheduler"] for sidecar in sidecars]
        before = [metric(sidecar, "sidecar_foreign_writes_total{") for sidecar in sidecars]
        for _ in range(4):
            for target in targets:
                await globex.connection.publish("llm.v1.request.globex.batch", b"{}", reply=target)
            await globex.connection.flush()
            assert await answered(acme) < BOUND_S
        assert [sidecar.get("/info")[1]["is_scheduler"] for sidecar in sidecars] == scheduler
        met = [metric(sidecar, "sidecar_foreign_writes_total{") for sidecar in sidecars]
        assert (sum(met) > sum(before)) is (mode == "users")
        async with asyncio.timeout(30):
            # The second replica may still be taking away what the first has met.
            while await stored(mux, "LLM_PROMPT", ">") or await stored(mux, "LLM_TOOL", ">"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await stored(mux, "LLM_CONFIG", "policy") == []
        assert (await acme.answer("jobs", "acme", payload={"state": "rejected"}))["jobs"] == []
