"""What one tenant can do on a real server that was configured by `sidecar nats-config`, and what it cannot.

acme is the attacked, globex the attacker. Every attempt that must fail is followed by a look at what it was aimed
at.
"""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar import tool
from sidecar.client import SidecarClient
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import ROOT, clean_environment, spawn_sidecar
from tests.support.stranger import Feed, Stranger, asks, check_story
from tests.support.tenancy import NOBODY, QUIET_S, Intruder, Tenancy, configured, connected

pytestmark = pytest.mark.nats

SLOW = "[[tokens=4000 tps=100]] take your time"
QUICK = "[[tokens=3]] quick"
CLIENT_WAIT_S = 60.0
MOST_QUEUED = 300


@pytest.fixture(scope="module", params=["accounts", "users"])
def tenancy(request: pytest.FixtureRequest, bedrock: EmulatorProcess) -> Iterator[Tenancy]:
    with running(make_server(config=configured(request.param))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        limits = {"max_queue": MOST_QUEUED, "max_concurrency": 20}
        with spawn_sidecar(url, bedrock.url, tenants={"default": limits}, jobs={"drain_s": 0}) as sidecar:
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
        data = bytes(1_500_000)
        await client.put_object("large", data)
        assert await client.get_object("large") == data
        huge = await client.ask("[[fault=huge_frame bytes=1500000]] go on", stream=True, wait_s=CLIENT_WAIT_S)
        assert len(huge.text) >= 1_500_000
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
        f"$KV.LLM_JOB.acme.{job}.journal",
        f"$KV.LLM_CANCEL.acme.{job}",
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
    for subject in ("jobs.acme", "models.acme", "tools.acme.list", "objects.acme.get", "objects.acme.put"):
        await globex.asks_in_vain(f"llm.v1.{subject}")
    assert job not in [item["job"] for item in (await globex.answer("jobs", "globex", payload={}))["jobs"]]
    await end(acme, feed, job)


async def test_operators_subjects_are_an_operators_alone(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    """What the generated user `operator` may do, and no tenant; each tenant its own."""
    for verb in ("pause", "resume", "jobs", "cancel", "retry", "spend"):
        await globex.asks_in_vain(f"llm.v1.admin.{verb}")
    for subject in (f"retry.acme.{job}", "spend.acme"):
        await globex.asks_in_vain(f"llm.v1.{subject}")
    missing = await globex.ask("retry", "globex", job)
    assert (missing.headers or {}).get("Nats-Service-Error-Code") == "404"
    feed = await running_job(acme, job)

    async def run(user: str, *arguments: str) -> Any:
        command = [sys.executable, "-m", "sidecar", "-s", tenancy.url(user), "-t", "acme", *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120
        )

    async def operate(*arguments: str) -> list[str]:
        ran = await run("operator", *arguments)
        assert ran.returncode == 0, ran.stderr
        return str(ran.stdout).splitlines()

    denied = await run("acme", "retry", "--where", "tenant=acme")
    assert denied.returncode == 3
    assert "make it anew (operators: with --operator)" in denied.stderr
    own = await run("acme", "spend", "--csv")
    assert (own.returncode, own.stdout.partition(",")[0]) == (0, "day"), own.stderr

    assert await operate("cancel", "--where", "tenant=acme", "--where", "state=running", "--dry-run") == [
        f"acme {job}"
    ]
    assert await operate("cancel", "--where", "tenant=acme") == [f"acme {job}"]
    assert (await feed.result())["data"]["state"] == "cancelled"
    assert "acme" in (await operate("pause", "--where", "tenant=acme", "--json"))[0]
    waiting = await acme.submit(asks(QUICK), job=f"{job}-held")
    assert "acme" in (await operate("pause", "--json"))[0]
    assert not any(event["type"] == "result" for event in waiting.events)
    assert await operate("resume", "--where", "tenant=*", "--json") == []
    assert (await waiting.result())["data"]["state"] == "succeeded"
    assert (await operate("spend", "--all", "--csv"))[0].startswith("day,model,calls")


async def test_objects_of_others_are_out_of_reach(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    async with await SidecarClient.connect(
        tenancy.url("acme"), tenant="acme", connect_timeout_s=CLIENT_WAIT_S, request_timeout_s=CLIENT_WAIT_S
    ) as client:
        await client.put_object(f"{job}.png", b"secret")
        for verb in ("get", "put"):
            await globex.asks_in_vain(f"llm.v1.objects.acme.{verb}", json.dumps({"name": f"{job}.png"}).encode())
        for subject in ("$O.LLM_BLOB_acme.C.x", "$O.LLM_BLOB_acme.M.eA==", "$JS.API.DIRECT.GET.OBJ_LLM_BLOB_acme"):
            await globex.asks_in_vain(subject, b'{"seq": 1}')
        image = {"type": "image", "format": "png", "source": {"object": f"{job}.png"}}
        asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}]}
        found = await globex.run({**asked, "model": "claude-sonnet-4-5"}, job=f"{job}-foreign")
        assert (found["state"], found["error"]["code"]) == ("failed", "invalid_request")
        assert await client.get_object(f"{job}.png") == b"secret"


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
        ("CONSUMER.CREATE.KV_LLM_JOB.mine.llm.v1.log.acme.>", sneaky),
        ("CONSUMER.DURABLE.CREATE.KV_LLM_JOB.mine", sneaky),
        ("CONSUMER.CREATE.LLM_REQ", sneaky | {"stream_name": "LLM_REQ"}),
        ("CONSUMER.MSG.NEXT.KV_LLM_JOB.mine", {}),
        (
            "STREAM.UPDATE.LLM_REQ",
            {"name": "LLM_REQ", "subjects": ["llm.v1.request.>"], "allow_rollup_hdrs": True},
        ),
        ("STREAM.SNAPSHOT.KV_LLM_JOB", {"deliver_subject": "_INBOX_globex.snapshot"}),
        ("STREAM.RESTORE.KV_LLM_JOB", {"config": {"name": "KV_LLM_JOB", "subjects": ["llm.v1.log.>"]}}),
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


async def test_tools_of_others_are_out_of_reach(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    calls: list[str] = []

    @tool
    def search(q: str) -> str:
        """Search."""
        calls.append(q)
        return f"found {q}"

    forged = {"name": "search", "version": "9.0.0", "description": "x", "input_schema": {"type": "object"}}
    async with (
        await SidecarClient.connect(
            tenancy.url("acme"), tenant="acme", connect_timeout_s=CLIENT_WAIT_S, request_timeout_s=CLIENT_WAIT_S
        ) as client,
        client.provide([search]),
    ):
        for scope in ("acme", "shared"):
            for verb in ("register", "deregister"):
                await globex.asks_in_vain(f"llm.v1.tools.{scope}.{verb}", json.dumps(forged).encode())
        await globex.asks_in_vain("llm.v1.call.acme.search.1_0_0", b'{"q": "stolen"}')
        foreign = await globex.run(asks(QUICK, tools=["search"]), job=f"{job}-foreign")
        assert (foreign["state"], foreign["error"]["code"]) == ("rejected", "unknown_tool")
        heard = await globex.hears_nothing("llm.v1.call.acme.>", "llm.v1.call.>", "_INBOX_acme.>")
        asked = asks('[[tool=search input={"q":"own"}]] look', tools=["search"])
        assert (await acme.run(asked, job=job))["state"] == "succeeded"
    assert calls == ["own"]
    await asyncio.sleep(QUIET_S)
    assert not heard


async def test_a_tool_of_ones_own_hides_nobody_elses(acme: Intruder, globex: Intruder, job: str) -> None:
    """Registered under the same name, aimed at another's subject: the subject is derived from the scope alone."""
    own = {
        "name": job,
        "version": "1.0.0",
        "description": "x",
        "input_schema": {"type": "object"},
        "subject": f"llm.v1.call.acme.{job}.1_0_0",
    }
    refused = await globex.ask("tools", "globex", "register", payload=own)
    assert (refused.headers or {}).get("Nats-Service-Error-Code") == "400"
    del own["subject"]
    made = await globex.answer("tools", "globex", "register", payload=own)
    assert made["subject"] == f"llm.v1.call.globex.{job}.1_0_0"
    known = await acme.answer("tools", "acme", "list", payload={})
    assert job not in json.dumps(known)


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


async def test_users_of_one_account_can_aim_acknowledgements_at_each_other_in_vain(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    """They arrive: NATS checks no reply subject. Nobody believes them."""
    if tenancy.mode == "accounts":
        pytest.skip("an account for each tenant: see the test before")
    heard = await acme.hears_nothing(f"llm.v1.job.acme.{job}.result")
    request = "llm.v1.request.globex.standard"
    async with (
        await SidecarClient.connect(
            tenancy.url("acme"), tenant="acme", connect_timeout_s=CLIENT_WAIT_S, request_timeout_s=CLIENT_WAIT_S
        ) as client,
        asyncio.timeout(CLIENT_WAIT_S),
    ):
        ours = await client.submit(SLOW, stream=True, job_id=job)
        deltas = ours.text()
        await anext(deltas)
        while not heard:
            for target in aimed_at(job):
                await globex.connection.publish(request, b"{}", reply=target)
            await globex.connection.flush()
            await asyncio.sleep(0.05)
        assert set(json.loads(heard[0].data)) >= {"stream", "seq"}
        await anext(deltas)
        assert (await client.get(job)).state == "running"
        await ours.cancel()
        assert (await ours.result(timeout_s=CLIENT_WAIT_S)).state == "cancelled"
        for target in aimed_at(job):
            await globex.connection.publish(request, b"{}", reply=target)
        await globex.connection.flush()
        assert (await client.get(job)).state == "cancelled"
    check_story(await acme.replay(job))


async def test_a_message_id_that_was_known_before_can_be_taken(acme: Intruder, globex: Intruder, job: str) -> None:
    """A known weakness of both modes: ids are the stream's, so a job id that others can guess is no good one."""
    taken = await globex.publish(asks(QUICK), headers={"Nats-Msg-Id": f"acme:{job}"})
    assert "duplicate" not in taken
    lost = await acme.publish(asks(QUICK), job=job)
    assert lost["duplicate"] is True
    again = await acme.publish(asks(QUICK), headers={"Llm-Job-Id": job})
    assert "duplicate" not in again
    assert (await finished(acme, job))["state"] == "succeeded"


async def test_the_client_library_gets_through_all_the_same(
    tenancy: Tenancy, acme: Intruder, globex: Intruder, job: str
) -> None:
    await globex.publish(asks(QUICK), headers={"Nats-Msg-Id": f"acme:{job}"})
    async with await SidecarClient.connect(
        tenancy.url("acme"), tenant="acme", connect_timeout_s=CLIENT_WAIT_S, request_timeout_s=CLIENT_WAIT_S
    ) as client:
        submitted = await client.submit(QUICK, job_id=job)
        assert (await submitted.result(timeout_s=CLIENT_WAIT_S)).state == "succeeded"


async def test_a_flood_is_cut_at_the_tenants_own_queue_and_stops_nobody_else(
    acme: Intruder, globex: Intruder, job: str
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=20)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    flood = [asks("[[tokens=2000 tps=20]] flood", deadline=soon, timeout_s=20) for _ in range(2 * MOST_QUEUED)]
    answers = await asyncio.gather(*(globex.publish(request, job_class="batch") for request in flood))
    codes = [answer["error"]["err_code"] for answer in answers if "error" in answer]
    assert set(codes) == {10077}
    assert len(codes) >= MOST_QUEUED // 2
    assert (await acme.run(asks(QUICK, stream=True), job=job))["state"] == "succeeded"
    assert (await acme.answer("ask", "acme", "batch", payload=asks(QUICK)))["state"] == "succeeded"
    assert (await acme.answer("jobs", "acme", payload={"limit": 1}))["jobs"]
