"""Running failed jobs again and cancelling many at once: which, in which parts, and each once."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sidecar.endpoints.parts import in_parts
from sidecar.endpoints.retry import retry_id, timely
from sidecar.errors import Permanent
from sidecar.models.base import rfc3339
from sidecar.models.bulk import BulkCancelled, BulkRetried, RetriedJob
from sidecar.models.codec import decode
from sidecar.ports.bus import Lane, Reply, StoredRequest
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, fails, says
from tests.support.virtual_time import VirtualClock

DENIED = fails(Permanent("no access to the model", code="access_denied"))


def asks(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], "model": MODEL, **more}


async def ask_many(b: Bench, what: str, kind: Any, **asked: Any) -> list[Any]:
    """The parts of an operator's answer."""
    client = await b.client()

    async def read() -> list[Any]:
        parts = []
        async for reply in client.request_many(b.bus.subjects.endpoint("admin", what), msgspec.json.encode(asked)):
            if reply.headers.get("Nats-Service-Error-Code"):
                raise AssertionError(reply.payload)
            if reply.headers.get("Llm-End"):
                assert reply.payload == b""
                break
            parts.append(decode(reply.payload, kind))
        return parts

    return await b.clock.run(read())


async def refused(b: Bench, what: str, **asked: Any) -> str:
    reply: Reply = await b.ask("admin", what, payload=msgspec.json.encode(asked))
    assert reply.headers["Nats-Service-Error-Code"] == "400"
    return reply.payload.decode()


async def failing(b: Bench, *jobs: str, **more: Any) -> None:
    tenant = more.pop("tenant", "acme")
    for job in jobs:
        await b.submit(asks(**more), job=job, tenant=tenant)
        assert (await b.result(job, tenant=tenant)).state == "failed"
    await b.until(lambda: b.requests() == 0)


async def test_a_failed_job_runs_again_once_under_an_id_that_never_changes() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [DENIED], default=says("ok"))) as b:
        await b.replica()
        await failing(b, "j1", metadata={"ticket": 42})
        tried = decode((await b.ask("retry", "acme", "j1", payload=b'{"dry_run": true}')).payload, RetriedJob)
        first = decode((await b.ask("retry", "acme", "j1")).payload, RetriedJob)
        assert first.retried_as is not None
        assert (first, first.before) == (tried, False)
        assert (await b.result(first.retried_as)).state == "succeeded"
        assert (await b.events(first.retried_as))[-1].metadata == {"ticket": 42}
        again = decode((await b.ask("retry", "acme", "j1")).payload, RetriedJob)
        assert (again.retried_as, again.before) == (first.retried_as, True)
        await b.clock.advance(2)
        assert len(b.model.calls) == 2
        unknown = await b.ask("retry", "acme", "nobody")
        assert unknown.headers["Nats-Service-Error-Code"] == "404"
        assert (await ask_many(b, "retry", BulkRetried, tenant="acme")) == [BulkRetried(jobs=(), count=0)]


async def test_a_repeated_retry_whose_word_was_lost_makes_the_same_job() -> None:
    """The process dies after it has handed the request in and before it has said so."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [DENIED], default=says("ok"))) as b:
        await b.replica()
        await failing(b, "j1")
        dead = (await b.outside()).dead
        (letter,) = await b.clock.run(dead.list("acme"))
        first = await b.ask("retry", "acme", "j1", payload=b'{"keep": true}')
        second = await b.ask("retry", "acme", "j1")
        assert first.payload == second.payload
        job = decode(first.payload, RetriedJob).retried_as
        assert job == retry_id("j1", letter.seq)
        assert (await b.result(job)).state == "succeeded"
        await b.clock.advance(2)
        assert len(b.model.calls) == 2


async def test_what_matches_is_run_again_and_what_cannot_be_is_told() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [DENIED] * 5, default=says("ok"))) as b:
        await b.replica()
        await failing(b, "a", "b", metadata={"run": "nightly"})
        await failing(b, "other")
        await failing(b, "c", tenant="beta", metadata={"run": "nightly"})
        image = {"type": "image", "format": "png", "source": {"object": "gone.png"}}
        gone = asks(messages=[{"role": "user", "content": [image]}], metadata={"run": "nightly"})
        dead = (await b.outside()).dead
        stored = StoredRequest(10_000, Lane("acme", "batch"), msgspec.json.encode(gone), {}, clock.now())
        await b.clock.run(dead.put("d", stored, reason="denied", error="access_denied", keep_s=600))

        async def run(**asked: Any) -> BulkRetried:
            (part,) = await ask_many(b, "retry", BulkRetried, **asked)
            return part

        assert (await run(error="model_error")).jobs == ()
        assert [job.job for job in (await run(metadata={"run": "nightly"}, limit=1, dry_run=True)).jobs] == ["a"]
        assert [job.job for job in (await run(**{"class": "batch"}, dry_run=True)).jobs] == ["d"]
        done = await run(metadata={"run": "nightly"}, error="access_denied")
        assert (done.count, [job.job for job in done.jobs]) == (3, ["a", "b", "c", "d"])
        error = done.jobs[3].error
        assert error is not None
        assert (error.code, error.details) == ("not_found", {"objects": ["gone.png"]})
        results = [await b.result(job.retried_as or "", tenant=job.tenant) for job in done.jobs[:3]]
        assert [result.state for result in results] == ["failed", "succeeded", "succeeded"]
        await b.until(lambda: b.requests() == 0)
        left = await run(tenant="acme", dry_run=True)
        assert (left.count, [job.job for job in left.jobs]) == (2, ["other", "d", "a-r1"])
        assert "empty filter" in await refused(b, "retry")
        assert "empty filter" in await refused(b, "retry", limit=5)
        assert "state" in await refused(b, "retry", state="succeeded")


async def test_many_are_cancelled_wherever_they_lie_in_the_queue_in_parts_of_500() -> None:
    """One runs, some wait in the window, most were never read."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", pieces=1, first_s=900.0))) as b:
        await b.replica(scheduler={"slots": 1, "interactive_reserve": 0.0}, jobs={"timeout_s": 3_600})
        intake = (await b.outside()).intake
        for number in range(620):
            await intake.submit(Lane("acme", "batch"), msgspec.json.encode(asks()), {"Llm-Job-Id": f"j{number}"})
        await b.submit(job="kept")
        await b.until(lambda: b.model.open_calls == 1)
        tried = await ask_many(b, "cancel", BulkCancelled, tenant="acme", dry_run=True, **{"class": "batch"})
        assert [len(part.jobs) for part in tried] == [500, 120]
        waiting = await ask_many(b, "cancel", BulkCancelled, state="queued", limit=3, dry_run=True)
        assert [job.job for part in waiting for job in part.jobs] == ["j1", "j2", "j3"]
        assert not await b.clock.run((await b.outside()).store.is_cancelled("acme", "j1"))
        done = await ask_many(b, "cancel", BulkCancelled, reason="a mistake", **{"class": "batch"})
        assert done[-1].count == 620
        await b.until(lambda: b.requests() == 1)
        assert {(await b.result(f"j{n}")).state for n in (0, 1, 300, 619)} == {"cancelled"}
        assert "empty filter" in await refused(b, "cancel", dry_run=True)
        assert "have ended" in await refused(b, "cancel", state="failed")


async def test_who_waits_for_a_long_search_hears_that_it_goes_on() -> None:
    clock = VirtualClock()

    async def search() -> AsyncIterator[int | None]:
        for number in range(8):
            await clock.sleep(1.0)
            yield number if number == 3 else None

    async def read() -> list[list[int]]:
        parts = in_parts(search(), list, clock=clock)
        return [msgspec.json.decode(part.payload) async for part in parts if not part.headers]

    assert await clock.run(read()) == [[], [3]]


def test_ids_are_within_64_characters_and_tell_letters_apart() -> None:
    assert retry_id("j1", 7) == "j1-r7"
    ids = {retry_id("x" * 64, 7), retry_id("x" * 64, 8), retry_id("x" * 63, 70)}
    assert {len(found) for found in ids} == {64}
    assert len(ids) == 3


@pytest.mark.parametrize(("ahead_s", "stays"), [(-1.0, False), (60.0, True)])
def test_a_deadline_that_has_passed_is_left_out(ahead_s: float, stays: bool) -> None:
    now = 1_800_000_000.0
    deadline = rfc3339(now + ahead_s)
    payload, headers = timely(
        msgspec.json.encode(asks(deadline=deadline)), {"Llm-Deadline": deadline, "traceparent": "00"}, now=now
    )
    assert ("deadline" in msgspec.json.decode(payload)) is stays
    assert ("Llm-Deadline" in headers) is stays
    assert headers["traceparent"] == "00"
    assert timely(b"no JSON", {}, now=now) == (b"no JSON", {})
