"""A replica's second connection to NATS is not there: jobs are done, and it says what is missing."""

import asyncio
import json
import uuid
from typing import Any
from urllib.request import urlopen

import nats
import nats.errors
import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import SidecarProcess, spawn_sidecar, wait_until
from tests.support.stranger import Stranger, asks, stranger

pytestmark = pytest.mark.nats

# The sidecar's account has room for one connection only; the tester's, which shares its subjects, for many.
LIMITED = """
accounts {
  SIDECAR {
    jetstream: enabled
    limits { max_connections: 1 }
    users: [ { user: sidecar, password: p } ]
    exports: [ { service: "llm.v1.>", response: stream }, { stream: "llm.v1.job.>" } ]
  }
  A {
    users: [ { user: acme, password: p } ]
    imports: [
      { service: { account: SIDECAR, subject: "llm.v1.request.acme.*" } }
      { service: { account: SIDECAR, subject: "llm.v1.get.acme.*" } }
      { stream: { account: SIDECAR, subject: "llm.v1.job.acme.>" } }
    ]
  }
}
"""

WITH_SYSTEM = """
accounts {
  A { jetstream: enabled, users: [ { user: a, password: p } ] }
  $SYS { users: [ { user: sys, password: p } ] }
}
"""


async def kick(url: str, name_ends: str) -> None:
    """Let the server throw one connection out, by the end of its name."""
    system = await nats.connect(url.replace("nats://", "nats://sys:p@"))
    try:
        answer = await system.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}", timeout=20)
        found = json.loads(answer.data)
        (cid,) = [one["cid"] for one in found["data"]["connections"] if one.get("name", "").endswith(name_ends)]
        await system.request(
            f"$SYS.REQ.SERVER.{found['server']['id']}.KICK", json.dumps({"cid": cid}).encode(), timeout=20
        )
    finally:
        await system.close()


def connected(sidecar: SidecarProcess) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{sidecar.admin_port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith("sidecar_nats_connected{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in found}


def readiness(sidecar: SidecarProcess) -> tuple[int, Any]:
    return sidecar.get("/readyz")


async def test_without_it_a_replica_is_degraded_and_does_jobs(bedrock: EmulatorProcess) -> None:
    with (
        running(make_server(config=LIMITED)) as server,
        spawn_sidecar(
            server.url.replace("nats://", "nats://sidecar:p@"),
            bedrock.url,
            nats={"request_timeout_s": 1},
            jobs={"drain_s": 0},
        ) as sidecar,
    ):
        status, body = readiness(sidecar)
        assert (status, body["status"]) == (200, "degraded")
        assert "requests" in body["reasons"]
        assert connected(sidecar) == {"jobs": 1.0, "requests": 0.0}
        async with stranger(server.url.replace("nats://", "nats://acme:p@"), "acme") as acme:
            result = await acme.run(asks("[[tokens=3]] quick"), job=uuid.uuid4().hex)
            assert result["state"] == "succeeded"
            with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)):
                await acme.connection.request("llm.v1.get.acme.j", timeout=0.5)


async def answered(client: Stranger, job: str) -> Any:
    """`get`, as soon as the server knows of the subscriptions: it says of none that they are there."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await client.answer("get", client.tenant, job)
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.05)


async def test_it_comes_back_by_itself_and_jobs_notice_nothing(bedrock: EmulatorProcess) -> None:
    with running(make_server(config=WITH_SYSTEM)) as server:
        url = server.url.replace("nats://", "nats://a:p@")
        with spawn_sidecar(url, bedrock.url, jobs={"drain_s": 0}, short_leases=False) as sidecar:
            async with stranger(url, "acme") as acme:
                job = uuid.uuid4().hex
                feed = await acme.submit(asks("[[tokens=200 tps=100]] slow", stream=True), job=job)
                await feed.first_delta()
                await kick(server.url, " requests")
                await asyncio.to_thread(
                    wait_until,
                    lambda: sidecar.log.count("connected for requests to NATS") == 2,
                    what="connected again",
                )
                assert (await answered(acme, job))["job"] == job
                assert (await feed.result())["data"]["state"] == "succeeded"
            assert sidecar.log.count('"connected to NATS') == 1
            assert readiness(sidecar)[1]["status"] == "ready"
