"""What operators hold back is not begun, keeps nobody else up, and goes on as if it had been idle."""

from typing import Any

import msgspec
import pytest

from sidecar.models.codec import decode
from sidecar.models.event import Status
from sidecar.models.pauses import Pause, Pauses, ResumeRequest
from sidecar.models.subjects import CONTROL_BUCKET
from sidecar.telemetry import metrics
from tests.support.replica import MODEL, PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

OTHER = "nova-lite"
BOTH = {**PLENTY, OTHER: PLENTY[MODEL]}


async def say(b: Bench, verb: str, **asked: Any) -> Pauses:
    reply = await b.ask("admin", verb, payload=msgspec.json.encode(asked))
    assert "Nats-Service-Error-Code" not in reply.headers, reply.payload
    return decode(reply.payload, Pauses)


async def refused(b: Bench, verb: str, **asked: Any) -> str:
    reply = await b.ask("admin", verb, payload=msgspec.json.encode(asked))
    return f"{reply.headers['Nats-Service-Error-Code']} {reply.payload.decode()}"


def asks(model: str = MODEL, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], "model": model, **more}


async def state_of(b: Bench, job: str, tenant: str = "acme") -> str:
    stored = await b.stored(job, tenant=tenant)
    return stored.state.state if stored is not None else "unknown"


@pytest.mark.parametrize(
    ("pause", "held", "passes"),
    [
        ({"tenant": "acme"}, {"tenant": "acme"}, {"tenant": "beta"}),
        ({"class": "batch"}, {"job_class": "batch"}, {"job_class": "standard"}),
        ({"model": MODEL}, {"request": asks()}, {"request": asks(OTHER)}),
        ({"tenant": "acme", "class": "batch"}, {"job_class": "batch"}, {"job_class": "batch", "tenant": "beta"}),
        ({"tenant": "*", "model": MODEL}, {"request": asks()}, {"request": asks(OTHER)}),
    ],
    ids=["tenant", "class", "model", "tenant and class", "any tenant's model"],
)
async def test_what_matches_is_held_and_what_does_not_passes(
    pause: dict[str, str], held: dict[str, Any], passes: dict[str, Any]
) -> None:
    async with bench() as b:
        await b.fleet("one", models=BOTH)
        await b.submit(job="before", **held)
        assert (await b.result("before", tenant=held.get("tenant", "acme"))).state == "succeeded"
        (made,) = (await say(b, "pause", reason="maintenance", **pause)).pauses
        assert made.reason == "maintenance"
        for number in range(40):
            await b.submit(job=f"held{number}", **held)
        await b.submit(job="free", **passes)
        assert (await b.result("free", tenant=passes.get("tenant", "acme"), limit_s=2)).state == "succeeded"
        await b.clock.advance(4)
        tenant = held.get("tenant", "acme")
        assert await state_of(b, "held0", tenant) == "queued"
        told = [e.data for e in await b.events("held0", tenant=tenant) if isinstance(e.data, Status)]
        assert [(status.state, status.waiting_for, status.reason) for status in told] == [
            ("queued", None, None),
            ("waiting", "pause", "maintenance"),
        ]
        stats = b.leader.stats()
        assert [each.reason for each in stats.pauses] == ["maintenance"]
        assert stats.paused >= 16
        page = metrics.render(
            metrics.Scrape(stats, b.leader.tally, lag_s=0.0, is_degraded=False, is_policy_current=True)
        ).decode()
        assert f"sidecar_paused_jobs {float(stats.paused)}" in page
        assert (await say(b, "resume", **pause)).pauses == ()
        assert {(await b.result(f"held{n}", tenant=tenant)).state for n in range(40)} == {"succeeded"}


async def test_jobs_for_other_models_pass_any_number_of_held_ones_of_their_lane() -> None:
    async with bench() as b:
        await b.fleet("one", models=BOTH)
        await say(b, "pause", model=MODEL)
        for _ in range(400):
            await b.submit(asks())
        await b.submit(asks(OTHER), job="last")
        assert (await b.result("last", limit_s=2)).state == "succeeded"
        assert b.requests() == 400
        await say(b, "resume", model="*")
        await b.until(lambda: b.requests() == 0)


async def test_a_pause_outlives_whoever_schedules_and_ends_nothing_that_runs() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=2.0))) as b:
        await b.fleet("one", "two")
        await b.submit(job="runs")
        await b.until(lambda: b.model.open_calls == 1)
        await say(b, "pause", tenant="acme", reason="a mistake")
        await b.submit(job="waits")
        assert (await b.result("runs")).state == "succeeded"
        await b.stop(b.leader)
        await b.clock.advance(8)
        assert b.leader.pauses.known
        assert await state_of(b, "waits") == "queued"
        await say(b, "resume", tenant="acme")
        assert (await b.result("waits")).state == "succeeded"


async def test_a_held_job_can_be_cancelled_and_its_deadline_holds() -> None:
    async with bench() as b:
        await b.fleet("one")
        await say(b, "pause", **{"class": "*"})
        await b.submit(job="cancelled")
        await b.submit(job="late", deadline=_in(b, 10))
        await b.clock.advance(2)
        await b.ask("cancel", "acme", "cancelled")
        assert (await b.result("cancelled", limit_s=2)).state == "cancelled"
        assert (await b.result("late", limit_s=20)).state == "expired"
        assert b.leader.scheduler.paused.count == 0


def _in(b: Bench, seconds: float) -> str:
    from sidecar.models.base import rfc3339

    return rfc3339(b.clock.now() + seconds)


async def test_a_pause_earns_nobody_a_claim_on_others() -> None:
    """Two tenants share a slot; one is held for a while, and then gets no more than its half."""
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=1.0))) as b:
        await b.fleet("one", slots=1)
        await say(b, "pause", tenant="acme")
        for number in range(40):
            await b.submit(job=f"a{number}")
            await b.submit(job=f"b{number}", tenant="beta")
        await b.clock.advance(15)
        before = await _done(b, "beta", "b")
        assert before >= 13
        await say(b, "resume", tenant="acme")
        await b.clock.advance(20)
        mine, theirs = await _done(b, "acme", "a"), await _done(b, "beta", "b") - before
        assert mine + theirs >= 18
        assert abs(mine - theirs) <= 3


async def _done(b: Bench, tenant: str, prefix: str) -> int:
    return sum([await state_of(b, f"{prefix}{n}", tenant) == "succeeded" for n in range(40)])


async def test_words_that_hold_nothing_or_nobody_knows_are_refused() -> None:
    async with bench() as b:
        await b.fleet("one")
        assert (await refused(b, "pause")).startswith("400")
        assert (await refused(b, "resume", dry_run=True)).startswith("400")
        assert "unknown_model" in await refused(b, "pause", model="no-such-model")
        assert "tenant" in await refused(b, "pause", tenant="a b")
        tried = await say(b, "pause", tenant="acme", dry_run=True)
        assert [pause.tenant for pause in tried.pauses] == ["acme"]
        await b.submit(job="j1")
        assert (await b.result("j1")).state == "succeeded"


async def test_what_a_stranger_lays_over_the_pauses_is_taken_away() -> None:
    async with bench() as b:
        await b.fleet("one")
        await say(b, "pause", tenant="acme")
        await b.clock.advance(3)
        b.bus.publish(f"$KV.{CONTROL_BUCKET}.pauses", b'{"stream":"LLM_REQ","seq":7}')
        await b.clock.advance(3)
        assert [pause.tenant for pause in (await say(b, "resume", tenant="nobody")).pauses] == ["acme"]
        await b.submit(job="j1")
        await b.clock.advance(3)
        assert await state_of(b, "j1") == "queued"


def test_a_pause_ends_by_whatever_it_says() -> None:
    pause = Pause(tenant="acme", job_class="batch", since="2026-12-01T00:00:00.000Z")
    ends = [{"tenant": "acme"}, {"job_class": "batch"}, {"tenant": "*"}, {"model": "*"}]
    assert all(pause.is_meant(ResumeRequest(**given)) for given in ends)
    others = [{"tenant": "beta"}, {"tenant": "acme", "job_class": "standard"}, {"model": MODEL}]
    assert not any(pause.is_meant(ResumeRequest(**given)) for given in others)
