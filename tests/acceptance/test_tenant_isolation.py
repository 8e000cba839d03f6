"""What one tenant can do on a real server that was configured by `sidecar nats-config`, and what it cannot.

acme is the attacked, globex the attacker. Every attempt that must fail is followed by a look at what it was aimed
at. The last tests show what users of one account can do to each other all the same, as docs/deploy.md says.
"""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sidecar.cli.nats_config import password_variable
from sidecar.client import SidecarClient
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import SidecarProcess, spawn_sidecar
from tests.support.stranger import Feed, Stranger, asks, check_story

pytestmark = pytest.mark.nats

SLOW = "[[tokens=4000 tps=100]] take your time"
QUICK = "[[tokens=3]] quick"
QUIET_S = 0.5
NOBODY = 0
CLIENT_WAIT_S = 60.0


class Tenancy(NamedTuple):
    mode: str
    server_url: str
    sidecar: SidecarProcess

    def url(self, user: str) -> str:
        return self.server_url.replace("nats://", f"nats://{user}:p@")


class Intruder(Stranger):
    """A tenant's connection, and what the server refused it."""

    def __init__(self, connection: Client, tenant: str, refused: list[str]) -> None:
        super().__init__(connection, tenant)
        self.refused = refused

    async def asks_in_vain(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Fail unless the server refuses a request, or says that nobody is there to answer it."""
        known = len(self.refused)
        try:
            reply = await self.connection.request(subject, payload, timeout=QUIET_S, headers=headers)
        except NoRespondersError:
            return
        except NatsTimeoutError:
            await self.connection.flush()
            assert any(f'"{subject.lower()}"' in text for text in self.refused[known:]), (subject, self.refused)
            return
        raise AssertionError(f"{subject} was answered: {reply.data!r}")

    async def error_of(self, subject: str, payload: bytes) -> int:
        """JetStream's error code, or `NOBODY`. Fails for an answer without error."""
        try:
            reply = await self.connection.request(subject, payload, timeout=QUIET_S)
        except (NatsTimeoutError, NoRespondersError):
            return NOBODY
        code: int = json.loads(reply.data)["error"]["err_code"]
        return code

    async def hears_nothing(self, *subjects: str) -> list[Msg]:
        """What comes on these subjects, to be looked at later; empty if all is well."""
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        for subject in subjects:
            await self.connection.subscribe(subject, cb=hear)
        await self.connection.flush()
        return heard


@asynccontextmanager
async def connected(tenancy: Tenancy, tenant: str) -> AsyncIterator[Intruder]:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    connection = await nats.connect(
        tenancy.url(tenant), inbox_prefix=f"_INBOX_{tenant}".encode(), error_cb=note, max_reconnect_attempts=-1
    )
    try:
        yield Intruder(connection, tenant, refused)
    finally:
        await connection.close()


def configured(mode: str) -> str:
    command = (sys.executable, "-m", "sidecar", "nats-config", "--tenants", "acme,globex", "--mode", mode)
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for user in ("sidecar", "acme", "globex"):
        text = text.replace(f"${password_variable(user)}", '"p"')
    assert "$LLM" not in text
    # Somebody of the same account who is no tenant.
    return text.replace("  users: [\n", '  users: [\n    { user: other, password: "p" }\n', 1)


@pytest.fixture(scope="module", params=["accounts", "users"])
def tenancy(request: pytest.FixtureRequest, bedrock: EmulatorProcess) -> Iterator[Tenancy]:
    with running(make_server(config=configured(request.param))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        with spawn_sidecar(url, bedrock.url) as sidecar:
            yield Tenancy(request.param, server.url, sidecar)


@pytest.fixture
async def acme(tenancy: Tenancy) -> AsyncIterator[Intruder]:
    async with connected(tenancy, "acme") as found:
        yield found


@pytest.fixture
async def globex(tenancy: Tenancy) -> AsyncIterator[Intruder]:
    async with connected(tenancy, "globex") as found:
        yield found
    assert tenancy.sidecar.is_running, tenancy.sidecar.log[-2000:]


@pytest.fixture
def job() -> str:
    return uuid.uuid4().hex[:12]


async def running_job(acme: Intruder, job: str) -> Feed:
    feed = await acme.submit(asks(SLOW, stream=True), job=job)
    await feed.first_delta()
    return feed


async def end(acme: Intruder, feed: Feed, job: str) -> None:
    """The attacked job goes on as if nothing had been, and ends as its owner says."""
    await acme.answer("cancel", "acme", job)
    assert (await feed.result())["data"]["state"] == "cancelled"
    events = await acme.replay(job)
    check_story(events)
    assert {e["job"] for e in events} == {job}


@pytest.mark.parametrize("tenant", ["acme", "globex"])
async def test_a_tenant_does_its_own_work(tenancy: Tenancy, tenant: str) -> None:
    async with await SidecarClient.connect(
        tenancy.url(tenant), tenant=tenant, connect_timeout_s=CLIENT_WAIT_S, request_timeout_s=CLIENT_WAIT_S
    ) as client:
        job = await client.submit(QUICK, stream=True)
        text = "".join([piece async for piece in job.text()])
        result = await job.result(timeout_s=CLIENT_WAIT_S)
        assert text == result.text
        assert (await client.get(job.id)).state == "succeeded"
        assert [e.type async for e in client.replay(job.id)][-1] == "result"
        assert (await client.ask(QUICK, wait_s=CLIENT_WAIT_S)).state == "succeeded"
        slow = await client.submit(SLOW, stream=True)
        assert (await slow.cancel()).cancelled
        assert (await slow.result(timeout_s=CLIENT_WAIT_S)).state == "cancelled"
        assert job.id in [item.job async for item in client.jobs()]
        assert await client.models()
    async with connected(tenancy, tenant) as own:
        reply = await own.answer("ask", tenant, "standard", payload=asks(QUICK))
        assert reply["state"] == "succeeded"
        assert not own.refused


async def test_others_events_are_not_heard(acme: Intruder, globex: Intruder, job: str) -> None:
    heard = await globex.hears_nothing(
        "llm.v1.job.acme.>", f"llm.v1.job.*.{job}.*", "llm.v1.>", ">", "llm.v1.log.>", "_INBOX_acme.>", "$KV.>"
    )
    await acme.run(asks(QUICK, stream=True), job=job)
    await asyncio.sleep(QUIET_S)
    assert not [m for m in heard if b"acme" in m.data or "acme" in m.subject]


async def test_nothing_is_published_in_anothers_name(acme: Intruder, globex: Intruder, job: str) -> None:
    heard = await acme.hears_nothing("llm.v1.job.acme.>", "llm.v1.call.acme.>", "_INBOX_acme.>")
    forged = json.dumps(asks(QUICK)).encode()
    headers = {"Llm-Job-Id": job, "Nats-Msg-Id": f"acme:{job}"}
    for subject in (
        "llm.v1.request.acme.standard",
        "llm.v1.ask.acme.standard",
        f"llm.v1.log.acme.{job}.result",
        "llm.v1.sys.doorbell.acme.standard",
        f"$KV.LLM_JOB.acme.{job}",
    ):
        await globex.asks_in_vain(subject, forged, headers)
    for subject in (f"llm.v1.job.acme.{job}.result", "llm.v1.call.acme.search.1_0_0", f"_INBOX_acme.{job}"):
        await globex.connection.publish(subject, forged)
    await globex.connection.flush()
    missing = await acme.ask("get", "acme", job)
    assert (missing.headers or {}).get("Nats-Service-Error-Code") == "404"
    assert not [m for m in heard if m.data == forged]


async def test_others_jobs_are_out_of_reach(acme: Intruder, globex: Intruder, job: str) -> None:
    feed = await running_job(acme, job)
    for verb in ("get", "replay", "cancel"):
        await globex.asks_in_vain(f"llm.v1.{verb}.acme.{job}")
    missing = await globex.ask("get", "globex", job)
    assert (missing.headers or {}).get("Nats-Service-Error-Code") == "404"
    assert await globex.replay(job) == []
    for subject in ("llm.v1.jobs.acme", "llm.v1.models.acme", "llm.v1.tools.acme.list"):
        await globex.asks_in_vain(subject)
    assert job not in [item["job"] for item in (await globex.answer("jobs", "globex", payload={}))["jobs"]]
    await end(acme, feed, job)


async def test_jetstream_is_out_of_reach(acme: Intruder, globex: Intruder, job: str) -> None:
    feed = await running_job(acme, job)
    sneaky = {"stream_name": "KV_LLM_JOB", "config": {"deliver_subject": "_INBOX_globex.x", "ack_policy": "none"}}
    for subject, body in (
        ("INFO", {}),
        ("STREAM.NAMES", {}),
        ("STREAM.INFO.LLM_REQ", {}),
        ("STREAM.PURGE.LLM_REQ", {}),
        ("STREAM.DELETE.LLM_REQ", {}),
        ("STREAM.CREATE.MINE", {"name": "MINE", "subjects": ["llm.v1.job.>"]}),
        ("STREAM.MSG.GET.KV_LLM_JOB", {"last_by_subj": f"$KV.LLM_JOB.acme.{job}"}),
        ("STREAM.MSG.DELETE.KV_LLM_JOB", {"seq": 1}),
        ("DIRECT.GET.KV_LLM_JOB", {"last_by_subj": f"$KV.LLM_JOB.acme.{job}"}),
        (f"DIRECT.GET.KV_LLM_JOB.$KV.LLM_JOB.acme.{job}", {}),
        ("CONSUMER.CREATE.KV_LLM_JOB", sneaky),
    ):
        # An account without JetStream is told so by the server.
        assert await globex.error_of(f"$JS.API.{subject}", json.dumps(body).encode()) in (NOBODY, 10039)
    assert (await acme.answer("get", "acme", job))["state"] == "running"
    await end(acme, feed, job)


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1"},
        {"Nats-Schedule": "@at 2026-01-01T00:00:00Z", "Nats-Schedule-Target": "llm.v1.request.acme.standard"},
        {"Nats-Incr": "1"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    ],
)
async def test_headers_that_reach_further_are_refused(
    acme: Intruder, globex: Intruder, job: str, headers: dict[str, str]
) -> None:
    await acme.submit(asks(QUICK), job=job)
    acknowledgement = await globex.publish(asks(QUICK), headers=headers)
    assert acknowledgement.get("error"), acknowledgement
    await acme.publish(asks(QUICK), job=f"{job}-2")
    await finished(acme, job)
    await finished(acme, f"{job}-2")


async def finished(tenant: Stranger, job: str) -> dict[str, Any]:
    """The state document of a job that has ended."""
    async with asyncio.timeout(60):
        while True:
            reply = await tenant.ask("get", tenant.tenant, job)
            state: dict[str, Any] = json.loads(reply.data)
            if state.get("result"):
                return state
            await asyncio.sleep(0.05)


def aimed_at(job: str) -> tuple[str, ...]:
    return (
        f"llm.v1.job.acme.{job}.result",
        f"llm.v1.log.acme.{job}.result",
        f"llm.v1.cancel.acme.{job}",
        "llm.v1.request.acme.standard",
        f"llm.v1.call.acme.{job}.1_0_0",
        f"$KV.LLM_JOB.acme.{job}",
        "$JS.API.STREAM.PURGE.LLM_REQ",
        "$JS.API.STREAM.PURGE.KV_LLM_JOB",
        f"_INBOX_acme.{job}",
    )


async def test_the_sidecar_answers_to_no_foreign_subject(acme: Intruder, globex: Intruder, job: str) -> None:
    feed = await running_job(acme, job)
    own = f"{job}-own"
    await globex.run(asks(QUICK), job=own)
    heard = await acme.hears_nothing(f"llm.v1.job.acme.{job}.result", "llm.v1.call.acme.>", f"_INBOX_acme.{job}")
    for reply in aimed_at(job):
        for verb, rest in (("get", own), ("replay", own), ("cancel", own), ("ask", "standard")):
            await globex.connection.publish(f"llm.v1.{verb}.globex.{rest}", b"[[tokens=1]] x", reply=reply)
    await globex.connection.flush()
    await asyncio.sleep(QUIET_S)
    assert not heard
    assert (await acme.answer("get", "acme", job))["state"] == "running"
    await end(acme, feed, job)
    assert [e["job"] for e in feed.events if e["job"] != job] == []


async def test_the_sidecars_user_may_publish_only_where_it_must(
    tenancy: Tenancy, globex: Intruder, job: str
) -> None:
    if tenancy.mode == "accounts":
        pytest.skip("an account for each tenant: there is nobody else in it")
    await globex.run(asks(QUICK), job=job)
    async with connected(tenancy, "other") as other:
        heard = await other.hears_nothing("orders.>")
        async with asyncio.timeout(30):
            # That it hears its own proves that it would hear the sidecar's.
            while not heard:
                await other.connection.publish("orders.created", b"")
                await other.connection.flush()
                await asyncio.sleep(0.05)
        await asyncio.sleep(QUIET_S)
        heard.clear()
        await globex.connection.publish(f"llm.v1.get.globex.{job}", b"", reply="orders.created")
        await globex.connection.flush()
        assert (await globex.answer("get", "globex", job))["state"] == "succeeded"
        await asyncio.sleep(QUIET_S)
        assert not heard


async def test_jetstreams_acknowledgements_reach_no_foreign_subject(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    if tenancy.mode == "users":
        pytest.skip("users of one account: see the next test")
    feed = await running_job(acme, job)
    heard = await acme.hears_nothing(f"llm.v1.job.acme.{job}.result", "llm.v1.call.acme.>", f"_INBOX_acme.{job}")
    listed = len((await acme.answer("jobs", "acme", payload={"limit": 1000}))["jobs"])
    for reply in aimed_at(job):
        await globex.connection.publish("llm.v1.request.globex.standard", b"{}", reply=reply)
    await globex.connection.flush()
    await asyncio.sleep(QUIET_S)
    assert not heard
    assert len((await acme.answer("jobs", "acme", payload={"limit": 1000}))["jobs"]) == listed
    await end(acme, feed, job)


async def test_users_of_one_account_can_aim_acknowledgements_at_each_other(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    """A known weakness of mode users, held here so that the documentation stays true."""
    if tenancy.mode == "accounts":
        pytest.skip("an account for each tenant: see the test before")
    heard = await acme.hears_nothing(f"llm.v1.job.acme.{job}.result")
    request = "llm.v1.request.globex.standard"
    # Each try succeeds nearly always: what counts is that one does.
    for _ in range(20):
        await globex.connection.publish(request, b"{}", reply=f"llm.v1.job.acme.{job}.result")
        await globex.connection.flush()
        await asyncio.sleep(QUIET_S)
        if heard:
            break
    assert set(json.loads(heard[0].data)) >= {"stream", "seq"}
    job = f"{job}-2"
    feed = await running_job(acme, job)
    ended = asyncio.create_task(feed.result())
    for _ in range(20):
        await globex.connection.publish(request, b"{}", reply=f"$KV.LLM_CANCEL.acme.{job}")
        await asyncio.wait({ended}, timeout=2)
        if ended.done():
            break
    assert (await ended)["data"]["state"] == "cancelled"


async def test_a_message_id_that_was_known_before_can_be_taken(acme: Intruder, globex: Intruder, job: str) -> None:
    """A known weakness of both modes: ids are the stream's, so a job id that others can guess is no good one."""
    taken = await globex.publish(asks(QUICK), headers={"Nats-Msg-Id": f"acme:{job}"})
    assert "duplicate" not in taken
    lost = await acme.publish(asks(QUICK), job=job)
    assert lost["duplicate"] is True
    again = await acme.publish(asks(QUICK), headers={"Llm-Job-Id": job})
    assert "duplicate" not in again
    assert (await finished(acme, job))["state"] == "succeeded"
