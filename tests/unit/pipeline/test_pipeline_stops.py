"""Stopping jobs in virtual time: cancellation in every state, time limits, deadlines."""

from typing import Any

import msgspec
import pytest

from sidecar.errors import ModelUnavailable, StreamInterrupted, Throttled
from sidecar.models.api import CancelReply
from sidecar.models.base import rfc3339
from sidecar.models.event import Delta
from sidecar.models.result import Result
from tests.support.jetstream.faults import NO_FAULT, Fault, Operation, no_faults
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, fails, says
from tests.support.virtual_time import VirtualClock

TEXT = "".join(f"w{i:03d}" for i in range(100))
ONE_SLOT: dict[str, Any] = {"scheduler": {"slots": 1, "interactive_reserve": 0.0}}


async def cancel(b: Bench, job: str) -> CancelReply:
    reply = await b.ask("cancel", "acme", job)
    assert "Nats-Service-Error-Code" not in reply.headers
    return msgspec.json.decode(reply.payload, type=CancelReply)


async def assert_cancelled(b: Bench, job: str) -> Result:
    result = await b.result(job, limit_s=30)
    assert result.state == "cancelled"
    assert result.error is None
    stored = await b.stored(job)
    assert stored is not None
    assert stored.state.state == "cancelled"
    await b.clock.settle()
    assert list(b.bus.requests.find("llm.v1.request.>")) == []
    assert b.model.open_calls == 0
    return result


async def test_a_running_job_is_cancelled_at_once_and_gives_its_slot_back() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("late", first_s=100.0)])) as b:
        await b.replica(**ONE_SLOT)
        job = await b.submit()
        await clock.advance(1.0)
        before = clock.monotonic()
        reply = await cancel(b, job)
        assert (reply.state, reply.cancelled, reply.requested) == ("cancelled", True, False)
        result = await assert_cancelled(b, job)
        assert clock.monotonic() - before <= 0.1
        assert b.model.broken_off == 1
        assert [a.outcome for a in result.attempts] == ["cancelled"]
        assert result.usage_basis == "estimated"
        assert result.usage.input_tokens > 0
        assert (await b.result(await b.submit(), limit_s=5)).state == "succeeded"


async def test_a_streaming_job_keeps_what_was_streamed() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says(TEXT, pieces=100, delta_s=0.1)])) as b:
        await b.replica()
        job = await b.submit(stream=True)
        await clock.advance(2.05)
        await cancel(b, job)
        result = await assert_cancelled(b, job)
        deltas = [e.data.text or "" for e in await b.events(job) if isinstance(e.data, Delta)]
        assert result.partial is True
        assert "".join(deltas) == result.output.text == TEXT[: len(result.output.text)]
        assert 60 <= len(result.output.text) <= 90
        assert result.usage_basis == "estimated"
        assert result.usage.output_tokens > 0
        assert result.cost_usd


async def test_a_queued_job_is_cancelled_without_a_call() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("one", first_s=50.0)])) as b:
        await b.replica(**ONE_SLOT)
        running, queued = await b.submit(), await b.submit()
        await clock.advance(1.0)
        reply = await cancel(b, queued)
        assert (reply.state, reply.cancelled, reply.requested) == ("cancelled", True, False)
        result = await b.result(queued, limit_s=5)
        assert (result.state, result.attempts, result.usage.input_tokens) == ("cancelled", (), 0)
        assert (await b.result(running)).state == "succeeded"
        assert len(b.model.calls) == 1


async def test_a_job_beyond_the_window_is_cancelled_at_once() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("x", first_s=1.0))) as b:
        await b.replica(scheduler={"slots": 1, "interactive_reserve": 0.0, "window": 2})
        jobs = [await b.submit(job=f"j{i}") for i in range(8)]
        await clock.advance(0.2)
        assert await cancel(b, "j7") == CancelReply(
            job="j7", tenant="acme", state="cancelled", cancelled=True, requested=False
        )
        assert (await b.result("j7")).state == "cancelled"
        assert [(await b.result(job)).state for job in jobs[:7]] == ["succeeded"] * 7
        assert len(b.model.calls) == 7


async def test_a_job_is_cancelled_before_anybody_has_seen_it() -> None:
    async with bench() as b:
        await b.replica()
        reply = await cancel(b, "early")
        assert (reply.state, reply.cancelled, reply.requested) == ("unknown", False, True)
        await cancel(b, "early")
        await b.submit(job="early")
        await assert_cancelled(b, "early")
        assert b.model.calls == []


async def test_a_finished_job_stays_as_it_is() -> None:
    async with bench() as b:
        await b.replica()
        job = await b.submit()
        before = await b.result(job)
        reply = await cancel(b, job)
        assert (reply.state, reply.cancelled, reply.requested) == ("succeeded", False, False)
        await b.clock.advance(20)
        assert await b.result(job) == before
        cancelled = await b.submit(job="later")
        first = await cancel(b, cancelled)
        assert first.cancelled == ((await b.result(cancelled)).state == "cancelled")
        assert await cancel(b, cancelled) == first


async def test_a_job_between_retries_is_cancelled_without_another_call() -> None:
    clock = VirtualClock()
    error = ModelUnavailable("away", retry_after=30.0)
    async with bench(ScriptedModel(clock, default=Turn(error=error))) as b:
        await b.replica()
        job = await b.submit()
        await clock.advance(15)
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "queued"
        calls = len(b.model.calls)
        await cancel(b, job)
        result = await assert_cancelled(b, job)
        assert len(b.model.calls) == calls
        assert all(a.outcome == "error" for a in result.attempts)


async def test_a_cancellation_whose_hint_was_lost_is_found_all_the_same() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("late", first_s=300.0)])) as b:
        await b.replica()
        job = await b.submit()
        await clock.advance(1.0)
        b.bus.deliveries = lambda delivery: () if "CANCEL" in delivery.subject else (0.0,)
        await cancel(b, job)
        result = await b.result(job, limit_s=60)
        assert result.state == "cancelled"


async def test_a_cancellation_that_passed_while_the_bus_was_away_is_found_when_it_is_back() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("late", first_s=300.0)])) as b:
        await b.fleet("one", "two")
        job = await b.submit()
        await clock.advance(1.0)
        (owner,) = [replica for replica in b.replicas if replica.requests.running]
        b.bus.deliveries = lambda delivery: () if "CANCEL" in delivery.subject else (0.0,)
        await cancel(b, job)
        b.bus.drop(owner.name)
        result = await b.result(job, limit_s=5)
        assert result.state == "cancelled"


@pytest.mark.parametrize("at_s", [0.0, 0.01, 0.02, 0.05, 0.5, 1.0, 1.5, 1.7])
async def test_a_cancellation_during_fallback_always_ends_the_job_once(at_s: float) -> None:
    clock = VirtualClock()
    script = [fails(StreamInterrupted("cut"), after="some text"), says(TEXT, pieces=10, delta_s=0.2)]
    async with bench(ScriptedModel(clock, script)) as b:
        await b.replica()
        job = await b.submit(stream=True)
        await clock.advance(at_s)
        await cancel(b, job)
        result = await b.result(job, limit_s=60)
        assert result.state == "cancelled"
        await clock.advance(40)
        assert [e.type for e in await b.events(job)].count("result") == 1
        assert len(b.model.calls) <= 2


HELD_UP = [
    ("jobs.create", "", 0.5, "cancelled", 0),  # the claim is on its way
    ("events.publish", ".status", 0.5, "cancelled", 1),  # its running event is, and the model has been asked
    ("jobs.update", "", 1.5, "succeeded", 1),  # the answer is there: its commit is on its way
    ("events.publish", ".result", 1.5, "succeeded", 1),  # committed, not said
    ("intake.delete", "", 1.5, "succeeded", 1),  # said, its request still stands
]


@pytest.mark.parametrize(("operation", "end", "at_s", "state", "calls"), HELD_UP)
async def test_a_cancellation_while_the_bus_holds_a_write_up_ends_the_job_once(
    operation: str, end: str, at_s: float, state: str, calls: int
) -> None:
    """What is committed stands, what is not is cancelled; slot and quota come back either way."""
    async with bench(ScriptedModel(clock := VirtualClock(), default=says("ok", first_s=0.9))) as b:
        await b.fleet("one")

        def faults(op: Operation) -> Fault:
            is_it = op.replica == "one" and op.name == operation and op.subject.endswith(end)
            return Fault(delay_s=2.0) if is_it else NO_FAULT

        b.bus.faults = faults
        began = clock.monotonic()
        job = await b.submit(job="j1")
        await clock.advance(at_s)
        await cancel(b, job)
        b.bus.faults = no_faults
        await b.until(lambda: b.requests() == 0, limit_s=30)
        await clock.advance(3)
        assert (await b.result(job)).state == state
        assert len(b.model.calls) == calls
        assert clock.monotonic() - began < 20
        events = await b.events(job)
        assert sum(event.type == "result" for event in events) == 1
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open), b.model.open_calls) == (0, 0, 0)


async def test_a_job_that_waits_for_quota_is_cancelled_and_takes_none() -> None:
    one_a_minute: dict[str, Any] = {"models": {MODEL: {"requests_per_minute": 1, "fallback": []}}}
    async with bench() as b:
        await b.replica(**one_a_minute)
        first = await b.submit(job="first", model=MODEL)
        assert (await b.result(first)).state == "succeeded"
        waits = await b.submit(job="waits", model=MODEL)
        later = await b.submit(job="later", model=MODEL)
        await b.clock.advance(2)
        assert (await b.stored(waits)).state.state == "queued"  # type: ignore[union-attr]
        await cancel(b, waits)
        await b.clock.advance(1)
        assert (await b.result(waits, limit_s=5)).state == "cancelled"
        assert (await b.result(later, limit_s=120)).state == "succeeded", "the room was not used up"
        assert len(b.model.calls) == 2


async def test_the_total_timeout_keeps_the_partial_text() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says(TEXT, pieces=100, delta_s=0.1)])) as b:
        await b.replica()
        job = await b.submit(stream=True, timeout_s=3)
        result = await b.result(job, limit_s=10)
        assert result.state == "failed"
        assert result.error is not None
        assert (result.error.code, result.error.details) == ("timeout", {"limit": "total"})
        assert result.partial is True
        assert TEXT.startswith(result.output.text)
        assert len(result.output.text) > 80
        assert b.model.open_calls == 0


async def test_the_timeout_runs_from_the_first_attempt_through_all_waiting() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=Turn(error=Throttled("later")))) as b:
        await b.replica()
        job = await b.submit(timeout_s=30)
        started = clock.monotonic()
        result = await b.result(job, limit_s=100)
        assert result.state == "failed"
        assert 15 < clock.monotonic() - started <= 31


async def test_a_deadline_ends_a_running_job_as_expired() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says(TEXT, pieces=100, delta_s=0.1)])) as b:
        await b.replica()
        job = await b.submit(stream=True, deadline=rfc3339(clock.now() + 5), timeout_s=60)
        result = await b.result(job, limit_s=10)
        assert result.state == "expired"
        assert result.error is not None
        assert result.error.code == "deadline_exceeded"
        assert result.partial is True


async def test_a_deadline_ends_a_queued_job_as_expired() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=50.0))) as b:
        await b.replica(**ONE_SLOT)
        await b.submit()
        job = await b.submit(deadline=rfc3339(clock.now() + 5))
        started = clock.monotonic()
        result = await b.result(job, limit_s=100)
        assert result.state == "expired"
        assert result.error is not None
        assert result.error.code == "deadline_exceeded"
        assert clock.monotonic() - started < 8
        assert len(b.model.calls) == 1


async def test_a_deadline_in_the_past_expires_at_once() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock)) as b:
        await b.replica()
        result = await b.result(await b.submit(deadline="2020-01-01T00:00:00Z"), limit_s=5)
        assert result.state in ("expired", "rejected")
        assert result.error is not None
        assert result.error.code == "deadline_exceeded"
        assert b.model.calls == []


async def test_a_temporary_error_moves_on_to_the_next_model() -> None:
    clock = VirtualClock()

    def script(call: Any) -> Turn:
        if "sonnet" in call.candidate.profile.alias:
            return Turn(error=ModelUnavailable("away", details={"http_status": 503}))
        return says("from the other")

    async with bench(ScriptedModel(clock, script)) as b:
        await b.replica()
        chain = {
            "messages": [{"role": "user", "content": "hi"}],
            "model": ["claude-sonnet-4-5", "claude-haiku-4-5"],
        }
        job = await b.submit(chain, job="chain")
        result = await b.result(job, limit_s=700)
        assert result.state == "succeeded"
        assert result.output.text == "from the other"
        assert result.model == "claude-haiku-4-5"
        assert result.attempts[-1].outcome == "ok"


async def test_text_that_broke_off_starts_again_under_a_new_attempt() -> None:
    clock = VirtualClock()
    script = [fails(StreamInterrupted("cut"), after="forget me"), says("whole answer", pieces=3, delta_s=0.1)]
    async with bench(ScriptedModel(clock, script)) as b:
        await b.replica()
        job = await b.submit(stream=True)
        result = await b.result(job)
        assert (result.state, result.output.text) == ("succeeded", "whole answer")
        events = await b.events(job)
        texts: dict[int, str] = {}
        for event in events:
            if isinstance(event.data, Delta):
                texts[event.attempt] = texts.get(event.attempt, "") + (event.data.text or "")
        assert texts == {1: "forget me", 2: "whole answer"}
        for attempt in (1, 2):
            numbers = [e.n for e in events if e.attempt == attempt]
            assert numbers == list(range(1, len(numbers) + 1))
        assert events[-1].attempt == 2
        assert [a.outcome for a in result.attempts] == ["error", "ok"]
        assert result.usage_basis == "estimated"


async def test_an_interrupted_answer_fails_where_the_client_asked_for_that() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [fails(StreamInterrupted("cut"), after="half")])) as b:
        await b.replica()
        job = await b.submit(stream=True, on_interrupt="fail")
        result = await b.result(job)
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "stream_interrupted"
        assert (result.partial, result.output.text) == (True, "half")
        assert len(b.model.calls) == 1


async def test_an_outage_of_minutes_fails_no_job_that_has_time_left() -> None:
    clock = VirtualClock()

    def script(_: Any) -> Turn:
        away = clock.monotonic() < 300
        return Turn(error=ModelUnavailable("away")) if away else says("back again")

    async with bench(ScriptedModel(clock, script)) as b:
        await b.fleet("one", "two", slots=3)
        jobs = [await b.submit(job=f"j{i}", timeout_s=900) for i in range(12)]
        brief = await b.submit(job="brief", deadline=rfc3339(clock.now() + 60))
        for _ in range(28):
            await clock.advance(10)
            assert any(replica.outage() for replica in b.replicas), "an outage shows for as long as it lasts"
        assert (await b.result(brief)).state == "expired", "its deadline passed"
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"
        assert clock.monotonic() < 400, "work is resumed soon after the outage"
        assert len(b.model.calls) < 300, "while it lasts, few calls are tried"
        await clock.advance(30)
        assert [replica.outage() for replica in b.replicas] == [None, None]


async def test_while_nothing_can_be_called_the_job_waits_and_then_succeeds() -> None:
    clock = VirtualClock()

    def script(_: Any) -> Turn:
        away = clock.monotonic() < 120
        return Turn(error=ModelUnavailable("away")) if away else says("back again")

    async with bench(ScriptedModel(clock, script)) as b:
        await b.replica()
        job = await b.submit(timeout_s=600)
        await clock.advance(60)
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "queued"
        assert "has failed lately" in (b.replicas[0].outage() or "")
        result = await b.result(job)
        assert (result.state, result.output.text) == ("succeeded", "back again")
        assert b.replicas[0].outage() is None
        events = await b.events(job)
        for attempt in range(1, events[-1].attempt + 1):
            numbers = [e.n for e in events if e.attempt == attempt]
            assert numbers == list(range(1, len(numbers) + 1))
        named = [getattr(e.data, "state", None) for e in events]
        assert "waiting" in named
        assert "retrying" in named
