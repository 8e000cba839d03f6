"""NATS and Bedrock that go away and come back, processes that are told to stop: nothing is lost or doubled."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest
from nats.errors import Error as NatsError

from sidecar.adapters.nats.embedded import free_port
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import Server
from tests.support.process import MODEL, EmulatorAt, SidecarProcess, spawn_sidecar, wait_until
from tests.support.stranger import Feed, Stranger, asks, check_story, stranger

JOBS = 30
AWAY_S = 10.0


async def start_jobs(client: Stranger, behaviour: str) -> Feed:
    """Publish jobs, half of them streaming; returns the feed of their results."""
    results = await client.follow("*", "result")
    for i in range(JOBS):
        await client.publish(asks(f"[[{behaviour}]] go {i}", stream=i % 2 == 0, timeout_s=120), job=f"j{i}")
    return results


def is_well(sidecar: SidecarProcess) -> bool:
    page: object = sidecar.get("/readyz")[1]
    return page == {"status": "ready", "reasons": {}}


async def check_all(client: Stranger) -> list[dict[str, object]]:
    """Every job has exactly one result, in its events and in its state. Returns the results' data."""
    found = []
    for i in range(JOBS):
        result = check_story(await client.replay(f"j{i}"))
        state = await client.answer("get", client.tenant, f"j{i}")
        assert state["state"] == result["state"] == "succeeded", result["error"]
        found.append(result)
    return found


async def until_all_ended(client: Stranger, *, limit_s: float = 90.0) -> None:
    """Look until no job is live; results that were said while nobody could hear are in the states."""
    async with asyncio.timeout(limit_s):
        while True:
            reply = await client.ask("jobs", client.tenant)
            page = json.loads(reply.data)
            # After an outage nobody schedules for a moment, and what is queued is not known before.
            if (
                "jobs" in page
                and len(page["jobs"]) == JOBS
                and all(job["state"] == "succeeded" for job in page["jobs"])
            ):
                return
            await asyncio.sleep(0.1)


async def test_a_start_without_nats_waits_and_then_works(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    await asyncio.to_thread(own_nats_server.kill)
    with SidecarProcess(own_nats_server.url, bedrock.url) as sidecar:
        await asyncio.to_thread(wait_until, lambda: sidecar.get("/startupz")[0] == 503, what="starting")
        assert (await asyncio.to_thread(sidecar.get, "/livez"))[0] == 200
        assert (await asyncio.to_thread(sidecar.get, "/readyz"))[0] == 503
        await asyncio.to_thread(own_nats_server.start)
        await asyncio.to_thread(sidecar.wait_ready)
        async with stranger(own_nats_server.url, "acme") as client:
            assert (await client.run(asks("[[tokens=2]] hi"), job="job1"))["state"] == "succeeded"


async def test_sigterm_during_the_start_ends_it_fast(own_nats_server: Server, bedrock: EmulatorProcess) -> None:
    await asyncio.to_thread(own_nats_server.kill)
    with SidecarProcess(own_nats_server.url, bedrock.url) as sidecar:
        await asyncio.to_thread(wait_until, lambda: sidecar.get("/livez")[0] == 200, what="alive")
        sidecar.signal(signal.SIGTERM)
        assert await asyncio.to_thread(sidecar.wait, 10) == 0


def test_sigterm_in_the_first_moments_is_an_orderly_end() -> None:
    child = subprocess.Popen([sys.executable, "-X", "importtime", "-m", "sidecar", "run"], stderr=subprocess.PIPE)
    assert child.stderr is not None
    for line in child.stderr:
        if b"sidecar.__main__" in line or b"sidecar.cli" in line:
            break
    child.terminate()
    child.stderr.close()
    assert child.wait(30) == 0


@pytest.mark.servers
async def test_nats_that_was_killed_and_restarted_loses_and_doubles_nothing(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    with spawn_sidecar(own_nats_server.url, bedrock.url, jobs={"drain_s": 5}) as sidecar:
        async with stranger(own_nats_server.url, f"t{sidecar.pid}") as client:
            # A third of the jobs ends before, the others while NATS is away or after it.
            await start_jobs(client, "tokens=300 tps=60 ttft_ms=200")
            await asyncio.sleep(1.0)
            await asyncio.to_thread(own_nats_server.kill)
            await asyncio.sleep(AWAY_S)
            assert sidecar.is_running, sidecar.log[-2000:]
            assert (await asyncio.to_thread(sidecar.get, "/livez"))[0] == 200
            _, health = await asyncio.to_thread(sidecar.get, "/readyz")
            assert health["status"] == "degraded"
            await asyncio.to_thread(own_nats_server.start)
            await asyncio.to_thread(
                wait_until, lambda: sidecar.get("/readyz")[1]["status"] == "ready", what="well"
            )
            await until_all_ended(client)
            results = await check_all(client)
            # What was under way went on: no answer was paid twice.
            assert [len(result["attempts"]) for result in results] == [1] * JOBS  # type: ignore[arg-type]
            assert {json.loads(json.dumps(r))["error"] is None for r in results} == {True}
            assert (await client.run(asks("[[tokens=2]] after"), job="after"))["state"] == "succeeded"


@pytest.mark.servers
async def test_an_asker_whose_nats_restarted_finds_the_result(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    with spawn_sidecar(own_nats_server.url, bedrock.url):
        async with stranger(own_nats_server.url, "acme") as client:
            feed = await client.submit(asks("[[tokens=60 tps=40]] go", stream=True), job="job1")
            await feed.first_delta()
            await asyncio.to_thread(own_nats_server.restart, force=True)
            reply = None
            async with asyncio.timeout(60):
                while reply is None:
                    try:
                        reply = await client.ask(
                            "ask", "acme", "standard", payload=asks("again"), headers={"Llm-Job-Id": "job1"}
                        )
                    except NatsError:
                        await asyncio.sleep(0.1)
            result = check_story(await client.replay("job1"))
            assert json.loads(reply.data) == result
            assert result["state"] == "succeeded"


async def test_bedrock_killed_mid_stream_is_waited_for(own_nats_server: Server) -> None:
    port = free_port()
    first = EmulatorAt(port)
    with first:
        await asyncio.to_thread(first.wait_ready)
        only = {MODEL: {"fallback": [], "tokens_per_minute": 10**9, "requests_per_minute": 10**7}}
        with spawn_sidecar(own_nats_server.url, first.url, models=only) as sidecar:
            async with stranger(own_nats_server.url, "acme") as client:
                results = await start_jobs(client, "tokens=200 tps=50")
                streamed = await client.follow("*", "delta")
                await streamed.first_delta()
                await asyncio.to_thread(first.kill)
                trouble = await client.follow("*", "status")
                await trouble.until(lambda events: any(e["data"]["state"] == "retrying" for e in events))
                await asyncio.to_thread(
                    wait_until, lambda: "bedrock" in sidecar.get("/readyz")[1]["reasons"], what="degraded"
                )
                with EmulatorAt(port) as second:
                    await asyncio.to_thread(second.wait_ready)
                    await results.until(lambda events: len(events) >= JOBS, limit_s=90)
                    found = await check_all(client)
                    assert any(len(result["attempts"]) > 1 for result in found)  # type: ignore[arg-type]
                    assert sidecar.is_running
                    assert is_well(sidecar)


async def test_sigterm_lets_running_jobs_end_within_the_grace(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    async with stranger(own_nats_server.url, "acme") as client:
        with spawn_sidecar(own_nats_server.url, bedrock.url, jobs={"drain_s": 30}) as sidecar:
            results = await start_jobs(client, "tokens=60 tps=40")
            running = await client.follow("*", "delta")
            await running.first_delta()
            sidecar.signal(signal.SIGTERM)
            assert await asyncio.to_thread(sidecar.wait, 40) == 0
        ended = {e["job"] for e in results.events}
        with spawn_sidecar(own_nats_server.url, bedrock.url):
            await results.until(lambda events: len({e["job"] for e in events}) == JOBS)
            await check_all(client)
        assert ended


async def test_what_outlives_the_grace_is_handed_to_the_next_process(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    async with stranger(own_nats_server.url, "acme") as client:
        with spawn_sidecar(own_nats_server.url, bedrock.url, jobs={"drain_s": 0.2}) as sidecar:
            feed = await client.submit(asks("[[tokens=400 tps=100]] go", stream=True), job="long")
            await feed.first_delta()
            sidecar.signal(signal.SIGTERM)
            assert await asyncio.to_thread(sidecar.wait, 30) == 0
        with spawn_sidecar(own_nats_server.url, bedrock.url):
            await feed.result()
            result = check_story(await client.replay("long"))
            state = await client.answer("get", "acme", "long")
        assert result["state"] == "succeeded"
        assert state["attempt"] == 2
        assert state["crashes"] == 0
        assert feed.text == result["output"]["text"]


async def test_the_drain_hook_takes_nothing_new_and_serves_until_sigterm(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    async with stranger(own_nats_server.url, "acme") as client:
        named = {"SIDECAR_NAME": "old"}
        with spawn_sidecar(own_nats_server.url, bedrock.url, environment=named, jobs={"linger_s": 600}) as old:
            feed = await client.submit(asks("[[tokens=60000 tps=50]] go", stream=True), job="running")
            await feed.first_delta()
            for _ in range(2):
                assert await asyncio.to_thread(old.drain) == 200
            assert (await asyncio.to_thread(old.get, "/readyz"))[0] == 503
            assert (await asyncio.to_thread(old.get, "/livez"))[0] == 200
            waits = await client.submit(asks("[[tokens=3]] go"), job="waits")
            state = await client.answer("get", "acme", "running")
            assert (state["state"], state["owner"]) == ("running", "old")
            await client.answer("cancel", "acme", "running")
            await feed.result()
            assert check_story(await client.replay("running"))["state"] == "cancelled"
            assert not any(e["type"] == "result" for e in waits.events)
            with spawn_sidecar(own_nats_server.url, bedrock.url):
                await waits.result()
                state = await client.answer("get", "acme", "waits")
                assert (state["state"], state["attempt"]) == ("succeeded", 1)
                assert state["owner"] != "old"
            assert old.is_running
            old.signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.wait, 60) == 0


async def test_a_drained_process_that_nobody_stops_ends_by_itself(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    settings = {"drain_s": 0.2, "linger_s": 0.2}
    async with stranger(own_nats_server.url, "acme") as client:
        with spawn_sidecar(own_nats_server.url, bedrock.url, jobs=settings) as sidecar:
            feed = await client.submit(asks("[[tokens=300 tps=100]] go", stream=True), job="long")
            await feed.first_delta()
            assert await asyncio.to_thread(sidecar.drain) == 200
            assert await asyncio.to_thread(sidecar.wait, 60) == 0
        with spawn_sidecar(own_nats_server.url, bedrock.url):
            await feed.result()
        assert {e["attempt"] for e in feed.events} == {1, 2}


@pytest.mark.parametrize("hurry", ["signal", "page"])
async def test_a_second_request_to_stop_does_not_wait_for_the_grace(
    own_nats_server: Server, bedrock: EmulatorProcess, hurry: str
) -> None:
    async with stranger(own_nats_server.url, "acme") as client:
        with spawn_sidecar(own_nats_server.url, bedrock.url, jobs={"drain_s": 300}) as sidecar:
            feed = await client.submit(asks("[[tokens=6000 tps=50]] go", stream=True), job="long")
            await feed.first_delta()
            sidecar.signal(signal.SIGTERM)
            await asyncio.to_thread(wait_until, lambda: sidecar.get("/readyz")[0] == 503, what="draining")
            if hurry == "signal":
                sidecar.signal(signal.SIGTERM)
            else:
                assert await asyncio.to_thread(sidecar.drain) == 200
            assert await asyncio.to_thread(sidecar.wait, 30) == 0
        state = json.loads(
            (
                await client.connection.request(
                    "$JS.API.DIRECT.GET.KV_LLM_JOB", json.dumps({"last_by_subj": "$KV.LLM_JOB.acme.long"}).encode()
                )
            ).data
        )
        assert (state["state"], state["owner"]) == ("queued", None)


async def test_a_process_that_was_killed_leaves_its_jobs_to_the_next(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    async with stranger(own_nats_server.url, "acme") as client:
        with spawn_sidecar(own_nats_server.url, bedrock.url) as sidecar:
            results = await start_jobs(client, "tokens=100 tps=50")
            streamed = await client.follow("*", "delta")
            await streamed.first_delta()
            sidecar.kill()
        with spawn_sidecar(own_nats_server.url, bedrock.url):
            await results.until(lambda events: len({e["job"] for e in events}) == JOBS)
            await check_all(client)
