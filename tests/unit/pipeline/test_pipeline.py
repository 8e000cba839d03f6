"""The way of a job in virtual time: answers, deltas, records, refusals."""

from hashlib import sha256
from typing import Any

import msgspec
import pytest

from sidecar.errors import ModelFailed
from sidecar.models.call import ModelDelta
from sidecar.models.content import ReasoningBlock, TextBlock, ToolUseBlock
from sidecar.models.event import Delta, Event, Status
from sidecar.models.result import Usage
from tests.support.garbage import ACKNOWLEDGEMENTS
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, reply_of, says
from tests.support.virtual_time import VirtualClock

HELLO = [{"role": "user", "content": "hello"}]


def texts(events: list[Event]) -> list[str]:
    return [e.data.text for e in events if isinstance(e.data, Delta) and e.data.text is not None]


def states(events: list[Event]) -> list[str]:
    return [e.data.state for e in events if isinstance(e.data, Status)]


async def left_over(b: Bench) -> int:
    """How many requests still stand in the queue."""
    await b.clock.settle()
    return len(list(b.bus.requests.find("llm.v1.request.>")))


async def test_a_job_goes_the_whole_way() -> None:
    async with bench() as b:
        await b.replica()
        job = await b.submit(job="job1", metadata={"ticket": "42"})
        result = await b.result(job)
        assert result.state == "succeeded"
        assert result.output.text == "ok"
        assert result.usage == Usage(input_tokens=10, output_tokens=5)
        assert result.usage_basis == "observed"
        assert result.cost_usd is not None
        assert result.cost_usd > 0
        assert result.partial is False
        assert result.error is None
        assert [a.outcome for a in result.attempts] == ["ok"]
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "succeeded"
        assert stored.state.result == result
        events = await b.events(job)
        assert [e.n for e in events] == [1, 2]
        assert [e.type for e in events] == ["status", "result"]
        assert all(e.attempt == 1 for e in events)
        assert all(e.metadata == {"ticket": "42"} for e in events)
        assert await left_over(b) == 0


async def test_the_running_status_says_which_model_runs_and_why() -> None:
    async with bench() as b:
        await b.replica()
        job = await b.submit()
        result = await b.result(job)
        status = (await b.events(job))[0].data
        assert isinstance(status, Status)
        assert (status.state, status.model) == ("running", MODEL)
        assert status.region == "us-east-1"
        assert status.reason
        assert (result.model, result.model_id) == (status.model, status.model_id)


async def test_a_job_without_an_id_is_called_by_its_sequence() -> None:
    async with bench() as b:
        await b.replica()
        assert await b.submit() == "s1"
        assert (await b.result("s1")).state == "succeeded"


async def test_a_streamed_answer_comes_in_deltas_that_join_to_its_text() -> None:
    clock = VirtualClock()
    text = "".join(f"word{i} " for i in range(40))
    async with bench(ScriptedModel(clock, [says(text, pieces=40, delta_s=0.1)])) as b:
        await b.replica()
        job = await b.submit(stream=True)
        result = await b.result(job)
        events = await b.events(job)
        assert "".join(texts(events)) == result.output.text == text
        assert result.text_sha256 == sha256(text.encode()).hexdigest()
        assert [e.n for e in events] == list(range(1, len(events) + 1))
        assert events[-1].type == "result"
        assert len(texts(events)) >= 39
        assert result.timings.first_token_ms is not None


async def test_a_unary_job_has_no_deltas() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("some text", pieces=5)])) as b:
        await b.replica()
        job = await b.submit()
        assert (await b.result(job)).output.text == "some text"
        assert texts(await b.events(job)) == []


async def test_fast_tokens_are_gathered_and_none_is_later_than_50_ms() -> None:
    clock = VirtualClock()
    text = "".join(f"{i:03d}," for i in range(500))
    sent: dict[int, float] = {}
    heard: list[tuple[float, str]] = []
    async with bench(ScriptedModel(clock, [says(text, pieces=500, first_s=0.5, delta_s=0.002)])) as b:
        replica = await b.replica()
        say = replica.jobs._publisher.publish

        async def publish(event: Event, *, fence: int) -> None:
            await say(event, fence=fence)
            if isinstance(event.data, Delta):
                heard.append((clock.monotonic(), event.data.text or ""))

        replica.jobs._publisher.publish = publish  # type: ignore[method-assign]
        start = clock.monotonic()
        job = await b.submit(stream=True)
        await b.result(job)
        sent = {i: start + 0.5 + i * 0.002 for i in range(500)}
        position = 0
        for at, piece in heard:
            first = position // 4
            assert at - sent[first] <= 0.05
            position += len(piece)
        assert position == len(text)
        assert len(heard) < 500 / 8


async def test_reasoning_is_streamed_apart_from_text() -> None:
    clock = VirtualClock()
    turn = Turn(
        reply=reply_of((ReasoningBlock(text="hm. so"), TextBlock(text="yes")), "end_turn"),
        deltas=(
            ModelDelta(index=0, reasoning="hm."),
            ModelDelta(index=0, reasoning=" so"),
            ModelDelta(index=1, text="yes"),
        ),
    )
    async with bench(ScriptedModel(clock, [turn])) as b:
        await b.replica()
        job = await b.submit(stream=True)
        result = await b.result(job)
        deltas = [e.data for e in await b.events(job) if isinstance(e.data, Delta)]
        assert "".join(d.reasoning or "" for d in deltas) == "hm. so"
        assert [d.text for d in deltas if d.text] == ["yes"]
        assert result.output.text == "yes"
        assert [block["type"] for block in result.output.content] == ["reasoning", "text"]


async def test_a_job_that_has_to_wait_is_recorded_and_says_so() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=5.0))) as b:
        await b.replica(scheduler={"slots": 1, "interactive_reserve": 0.0})
        first, second = await b.submit(job="first"), await b.submit(job="second", metadata={"a": 1})
        await clock.advance(1.0)
        stored = await b.stored(second)
        assert stored is not None
        assert (stored.state.state, stored.state.attempt) == ("queued", 0)
        (event,) = await b.events(second)
        assert (event.type, event.attempt, event.n, event.metadata) == ("status", 0, 1, {"a": 1})
        assert states([event]) == ["queued"]
        assert (await b.result(first)).state == "succeeded"
        result = await b.result(second)
        assert result.state == "succeeded"
        assert result.timings.queued_ms >= 4900
        events = await b.events(second)
        assert [(e.attempt, e.n) for e in events] == [(0, 1), (0, 2), (1, 1), (1, 2)]
        assert isinstance(why := events[1].data, Status)
        assert (why.state, why.waiting_for) == ("waiting", "slot")


async def test_inline_tool_calls_end_the_job_for_the_client_to_go_on() -> None:
    clock = VirtualClock()
    call = ToolUseBlock(id="t1", name="add", input={"a": 1, "b": 2})
    async with bench(ScriptedModel(clock, [calls_tools(call, text="let me see")])) as b:
        await b.replica()
        tool = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}
        job = await b.submit(tools=[tool])
        result = await b.result(job)
        assert (result.state, result.stop_reason) == ("succeeded", "tool_use")
        assert result.output.content[1] == {
            "type": "tool_use",
            "id": "t1",
            "name": "add",
            "input": {"a": 1, "b": 2},
        }
        assert b.model.calls[0].tools[0].name == "add"


@pytest.mark.parametrize(
    ("answer", "state"), [('{"n": 3}', "succeeded"), ('{"n": "3"}', "failed"), ("n", "failed")]
)
async def test_an_answer_with_a_schema_is_held_against_it(answer: str, state: str) -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says(answer)])) as b:
        await b.replica()
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        job = await b.submit(output={"schema": schema}, budget={"max_turns": 1})
        result = await b.result(job)
        assert result.state == state
        if state == "succeeded":
            assert result.output.structured == {"n": 3}
        else:
            assert result.error is not None
            assert result.error.code == "output_invalid"
            assert result.output.text == answer
        assert result.usage.output_tokens == 5


@pytest.mark.parametrize(
    ("more", "code", "path"),
    [
        ({"tools": ["search"]}, "unknown_tool", "tools[0]"),
        ({"filters": ["nope"]}, "invalid_request", "filters[0]"),
        ({"messages": None, "prompt": {"name": "p"}}, "invalid_request", "prompt.name"),
        ({"model": "gpt-17"}, "unknown_model", "model"),
        ({"output": {"schema": {"type": "banana"}}}, "invalid_request", "output.schema"),
        ({"temperature": 1}, "invalid_request", "temperature"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": "hi"}, "invalid_request", "messages"),
        ({"params": {"max_tokens": "many"}}, "invalid_request", "params.max_tokens"),
    ],
)
async def test_what_cannot_run_is_rejected_and_the_field_named(more: dict[str, Any], code: str, path: str) -> None:
    async with bench() as b:
        await b.replica()
        request = {k: v for k, v in {"messages": HELLO, "model": MODEL, **more}.items() if v is not None}
        job = await b.submit(request, job="bad1")
        result = await b.result(job)
        assert result.state == "rejected"
        assert result.error is not None
        assert result.error.code == code
        named = result.error.details.get("path") or result.error.message
        assert path in str(named)
        assert b.model.calls == []
        events = await b.events(job)
        assert [(e.type, e.n) for e in events] == [("result", 1)]
        assert await left_over(b) == 0


async def test_a_schema_may_not_reach_for_files_or_the_network() -> None:
    async with bench() as b:
        await b.replica()
        for i, reference in enumerate(("file:///etc/passwd", "http://127.0.0.1:9/schema.json", "other.json")):
            job = await b.submit(job=f"ref{i}", output={"schema": {"$ref": reference}})
            result = await b.result(job)
            assert result.state == "rejected"
            assert result.error is not None
            assert "output.schema" in str(result.error.details)
        assert b.model.calls == []


async def test_warnings_of_the_model_and_lowered_limits_are_passed_on() -> None:
    clock = VirtualClock()
    reply = msgspec.structs.replace(
        reply_of((TextBlock(text="x"),), "other"), warnings=("top_k was not sent",), raw_stop_reason="tired"
    )
    async with bench(ScriptedModel(clock, [Turn(reply=reply)])) as b:
        await b.replica()
        job = await b.submit(params={"max_tokens": 100_000})
        result = await b.result(job)
        assert any("max_tokens was lowered" in w for w in result.warnings)
        assert "top_k was not sent" in result.warnings
        assert any("tired" in w for w in result.warnings)


async def test_time_limits_reach_the_model_client() -> None:
    async with bench() as b:
        await b.replica()
        job = await b.submit(timeout_s=77, first_token_timeout_s=7, idle_timeout_s=3)
        await b.result(job)
        limits = b.model.calls[0].limits
        assert (limits.first_token_s, limits.idle_s) == (7, 3)
        assert 77 <= limits.total_s < 80


async def test_an_error_of_our_own_ends_the_job_and_not_the_process() -> None:
    clock = VirtualClock()

    def broken(_: object) -> Turn:
        raise ZeroDivisionError

    async with bench(ScriptedModel(clock, broken)) as b:
        await b.replica()
        result = await b.result(await b.submit())
        assert (result.state, result.error.code if result.error else None) == ("failed", "internal")
        assert b.crashes == []


async def test_a_final_error_of_the_model_is_the_jobs() -> None:
    clock = VirtualClock()
    error = ModelFailed("no", code="model_error")
    async with bench(ScriptedModel(clock, default=Turn(error=error))) as b:
        await b.replica()
        result = await b.result(await b.submit(timeout_s=30))
        assert result.state == "failed"
        assert result.error is not None
        assert len(result.attempts) > 1


async def test_half_surrogates_do_not_lose_the_job() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("a\ud83d\ude00b\ud800c", pieces=6)])) as b:
        await b.replica()
        job = await b.submit(stream=True)
        result = await b.result(job)
        assert result.state == "succeeded"
        assert result.text_sha256 == sha256(result.output.text.encode()).hexdigest()


async def test_a_weight_for_one_class_leaves_the_others_as_they_are() -> None:
    async with bench() as b:
        await b.replica(classes={"batch": {"weight": 2}})
        for job_class in ("batch", "standard", "interactive"):
            assert (await b.result(await b.submit(job_class=job_class))).state == "succeeded"


async def test_a_request_on_which_admission_breaks_is_refused_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench() as b:
        replica = await b.replica()
        select = replica.coordinator.candidates

        def breaks(request: Any, **more: Any) -> Any:
            if request.metadata:
                raise ZeroDivisionError
            return select(request, **more)

        monkeypatch.setattr(replica.coordinator, "candidates", breaks)
        result = await b.result(await b.submit(metadata={"poison": True}))
        assert (result.state, result.error.code if result.error else None) == ("rejected", "internal")
        assert (await b.result(await b.submit())).state == "succeeded"


@pytest.mark.parametrize("payload", ACKNOWLEDGEMENTS.values(), ids=ACKNOWLEDGEMENTS)
async def test_an_acknowledgement_that_was_aimed_at_a_queue_is_no_job(payload: bytes) -> None:
    async with bench() as b:
        await b.replica()
        aimed = await b.submit(payload)
        job = await b.submit()
        assert (await b.result(job)).state == "succeeded"
        assert await left_over(b) == 0
        assert await b.events(aimed) == []
        assert await b.stored(aimed) is None
        own = await b.submit(payload, job="own")
        assert (await b.result(own)).state == "rejected", "somebody's who sent it under an id"
