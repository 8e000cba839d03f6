"""NATS servers that are killed and restarted over their store while jobs run."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from sidecar.adapters.nats.embedded import NatsCluster
from tests.support.audit import Findings
from tests.support.chaos import fleet, stream_leader
from tests.support.emulator import EmulatorProcess
from tests.support.load import Load, load
from tests.support.nats_server import Server, make_cluster

pytestmark = [pytest.mark.nats, pytest.mark.servers]

JOBS = 200
# Long enough that a server can die and come back under it.
LONG = "tokens=80 tps=16"
# Longer than a lease lives, and than silence is taken for death.
OUTAGE_S = 8.0


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def cluster() -> Iterator[NatsCluster]:
    servers = make_cluster()
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


async def _run_all(jobs: Load) -> None:
    await jobs.submit_many(JOBS, behave=LONG)
    await jobs.until_called(jobs.jobs)


def _check(found: Findings, logs: str) -> None:
    assert not found.problems, f"{found}\n{logs}"
    assert found.states == {"succeeded": JOBS}
    assert found.dead == 0


async def test_a_server_that_dies_and_comes_back_costs_no_call(
    own_nats_server: Server, bedrock: EmulatorProcess, tenant: str
) -> None:
    """All running jobs go on with the answers they are paying for: none is asked for twice."""
    url = own_nats_server.url
    async with fleet(url, bedrock, size=1) as replicas, load(url, bedrock, tenant=tenant) as jobs:
        await _run_all(jobs)
        await asyncio.to_thread(own_nats_server.restart, force=True)
        await jobs.until_ended()
        found = await jobs.settle()
        _check(found, replicas.logs())
        assert (found.calls, found.repeated) == (JOBS, 0)


async def test_an_outage_longer_than_a_lease_takes_no_job_from_its_owner(
    own_nats_server: Server, bedrock: EmulatorProcess, tenant: str
) -> None:
    """Replicas that were all cut off come back one by one: whoever is first does not take the others for dead."""
    url = own_nats_server.url
    async with fleet(url, bedrock) as replicas, load(url, bedrock, tenant=tenant) as jobs:
        await replicas.wait_acquainted()
        await jobs.submit_many(30, behave="tokens=150 tps=10")
        await jobs.until_called(jobs.jobs)
        await asyncio.to_thread(own_nats_server.kill)
        await asyncio.sleep(OUTAGE_S)
        await asyncio.to_thread(own_nats_server.restart)
        await jobs.until_ended()
        found = await jobs.settle()
        assert not found.problems, f"{found}\n{replicas.logs()}"
        assert (found.calls, found.repeated) == (30, 0), replicas.logs()


@pytest.mark.cluster
async def test_a_server_of_a_cluster_dies_and_comes_back(
    cluster: NatsCluster, bedrock: EmulatorProcess, tenant: str
) -> None:
    """Three servers, three copies of each stream; the leader of the jobs' stream is killed and started again."""
    url = cluster.url
    async with (
        fleet(url, bedrock, size=2, nats={"replicas": 3}) as replicas,
        load(url, bedrock, tenant=tenant) as jobs,
    ):
        await _run_all(jobs)
        name = await stream_leader(jobs.connection, "KV_LLM_JOB")
        server = next(server for server in cluster.servers if server.name == name)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(3.0)
        await asyncio.to_thread(server.restart)
        await jobs.until_ended()
        found = await jobs.settle()
        _check(found, replicas.logs())
