"""One tenant floods an endpoint; another's questions and jobs are answered as if it were not there."""

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.endpoint_flood import Flood, flooding
from tests.support.nats_server import make_server, running
from tests.support.process import SidecarProcess, spawn_sidecar
from tests.support.raw_flood import flooding as flooding_raw
from tests.support.stranger import Stranger, asks, stranger
from tests.support.tenancy import Tenancy, configured, connected

pytestmark = pytest.mark.nats

MOST_S = 4.0
MOST_S_RAW = 5.0
QUIET_S = 1.5
SILENT_S = 10.0
MOST_GROWTH_BYTES = 100 * 1024**2
LARGE = 270_000
KEPT_JOBS = 300


class Attack(NamedTuple):
    subject: str
    count: int
    payload: bytes = b""


ATTACKS = {
    "models": Attack("llm.v1.models.globex", 20_000),
    "large-get": Attack("llm.v1.get.globex.large", 4_000),
    "service-info": Attack("$SRV.INFO", 20_000),
    "service-stats": Attack("$SRV.STATS.llm-sidecar", 20_000),
    "many-names": Attack("llm.v1.models.t{i}", 10_000),
    "jobs": Attack("llm.v1.jobs.globex", 2_000, b'{"limit": 1000}'),
    "replay": Attack("llm.v1.replay.globex.large", 1_000),
    "tools-list": Attack("llm.v1.tools.globex.list", 20_000),
    "tools-register": Attack("llm.v1.tools.globex.register", 20_000, json.dumps(
        {"name": "add", "version": "1.0.0", "description": "Adds.", "input_schema": {"type": "object"}}
    ).encode()),
    "cancel": Attack("llm.v1.cancel.globex.none{i}", 20_000),
    "objects": Attack("llm.v1.objects.globex.get", 5_000, b'{"name": "none"}'),
    "ask": Attack("llm.v1.ask.globex.batch", 5_000, b"[[tokens=2000 tps=20]] a long story"),
    "garbage": Attack("llm.v1.replay.globex.large", 3_000, b"[" * 20_000),
}  # fmt: skip


class Place(NamedTuple):
    url: str
    sidecar: SidecarProcess


@pytest.fixture(scope="module")
def place(bedrock: EmulatorProcess) -> Iterator[Place]:
    """A server and a sidecar that nobody else's tests share, with a large answer and many jobs of globex."""
    limits = {"globex": {"max_queue": 500, "max_concurrency": 2}}
    with (
        running(make_server()) as server,
        spawn_sidecar(server.url, bedrock.url, tenants=limits, jobs={"drain_s": 0}, short_leases=False) as sidecar,
    ):
        asyncio.run(_prepare(server.url))
        yield Place(server.url, sidecar)


async def _prepare(url: str) -> None:
    async with stranger(url, "globex") as globex:
        request = asks(f"[[fault=huge_frame bytes={LARGE}]] write", stream=True, params={"max_tokens": 64_000})
        result = await globex.run(request, job="large")
        assert len(result["output"]["text"]) >= LARGE
        for i in range(KEPT_JOBS):
            await globex.publish(asks("[[tokens=1]] hi"), job=f"kept-{i}")


async def worst_s(other: Stranger, flood: Flood) -> float:
    """The longest that a question or a plain job took, until the flood is over."""
    worst = 0.0
    job = uuid.uuid4().hex
    await other.run(asks("[[tokens=3]] quick"), job=job)
    while True:
        began = time.monotonic()
        state = await other.answer("get", other.tenant, job)
        assert state["state"] == "succeeded"
        worst = max(worst, time.monotonic() - began)
        began = time.monotonic()
        result = await other.run(asks("[[tokens=3]] quick"), job=uuid.uuid4().hex)
        assert result["state"] == "succeeded"
        worst = max(worst, time.monotonic() - began)
        # Its first reply may be long in coming, where everything is read before anything is answered.
        if began - flood.last_at > (QUIET_S if flood.heard.total() else SILENT_S):
            return worst


@pytest.mark.parametrize("name", ATTACKS)
async def test_another_tenant_notices_nothing(place: Place, name: str) -> None:
    attack = ATTACKS[name]
    async with stranger(place.url, "acme") as acme, flooding(place.url) as flood:
        await acme.run(asks("[[tokens=3]] warm"), job=uuid.uuid4().hex)
        before = place.sidecar.rss_bytes
        flood.last_at = time.monotonic()
        sending = asyncio.create_task(flood.send(attack.subject, attack.count, payload=attack.payload))
        most = before
        began = time.monotonic()
        watched = asyncio.create_task(worst_s(acme, flood))
        while not watched.done():
            most = max(most, place.sidecar.rss_bytes)
            await asyncio.wait({watched}, timeout=0.05)
        await sending
        # Who waits behind a flood waits for its end; a slow machine takes longer for both.
        assert watched.result() < max(MOST_S, 0.75 * (flood.last_at - began))
        assert most - before < MOST_GROWTH_BYTES
        assert flood.heard.total()
        # The server cuts off who is slow to take what it asked for: jobs of all tenants would have to wait.
        assert place.sidecar.log.count('"connected to NATS') == 1


FLOOD_S = 2.5
LEAST_SENT = 10_000
ONE = ["llm.v1.get.globex.x"]
EACH = [
    "llm.v1.get.globex.x",
    "llm.v1.jobs.globex",
    "llm.v1.models.globex",
    "llm.v1.replay.globex.x",
    "llm.v1.ask.globex.standard",
    "llm.v1.cancel.globex.x",
    "llm.v1.tools.globex.list",
    "llm.v1.objects.globex.get",
    # Answers that may not go there, and requests that want none.
    "llm.v1.get.globex.x=llm.v1.get.acme.x",
    "llm.v1.cancel.globex.x=_INBOX_acme.1",
]


@pytest.mark.parametrize(
    ("mode", "replicas", "aims"),
    [
        pytest.param("users", 1, ONE, id="users-one-replica-get"),
        pytest.param("users", 2, EACH, id="users-two-replicas-each"),
        pytest.param("accounts", 1, EACH, id="accounts-one-replica-each"),
        pytest.param("accounts", 2, ONE, id="accounts-two-replicas-get"),
    ],
)
async def test_jobs_of_another_tenant_do_not_notice_a_raw_flood(
    bedrock: EmulatorProcess, mode: str, replicas: int, aims: list[str]
) -> None:
    """Bytes as fast as a socket takes them, hundreds of thousands of requests a second."""
    with ExitStack() as stack:
        server = stack.enter_context(running(make_server(config=configured(mode))))
        url = server.url.replace("nats://", "nats://sidecar:p@")
        sidecars = [
            stack.enter_context(spawn_sidecar(url, bedrock.url, jobs={"drain_s": 0}, short_leases=False))
            for _ in range(replicas)
        ]
        tenancy = Tenancy(mode, server.url, sidecars[0])
        async with connected(tenancy, "acme") as acme:
            await acme.run(asks("[[tokens=3]] warm"), job=uuid.uuid4().hex)
            terms = [sidecar.log.count('"this replica schedules"') for sidecar in sidecars]
            flood = asyncio.create_task(flooding_raw(tenancy.url("globex"), FLOOD_S, aims))
            worst = 0.0
            while not flood.done():
                began = time.monotonic()
                result = await acme.run(asks("[[tokens=3]] quick"), job=uuid.uuid4().hex)
                assert result["state"] == "succeeded"
                worst = max(worst, time.monotonic() - began)
            assert await flood > LEAST_SENT
            assert worst < MOST_S_RAW
            # Questions come by the connection that was flooded, and are answered again.
            job = uuid.uuid4().hex
            await acme.run(asks("[[tokens=3]] quick"), job=job)
            assert (await acme.answer("get", "acme", job))["state"] == "succeeded"
        assert [sidecar.log.count('"this replica schedules"') for sidecar in sidecars] == terms
        assert sum(terms) == 1
        for sidecar in sidecars:
            assert sidecar.log.count('"connected to NATS') == 1
            assert "fallen silent" not in sidecar.log
            assert sidecar.is_running
