# ruff: noqa: E501
"""Filters on the way of a job: deltas, results, input, blocks, reload. In virtual time."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from sidecar.config.settings import Policy
from sidecar.errors import ModelFailed, Throttled
from sidecar.models.call import ModelDelta
from sidecar.models.content import Message, ReasoningBlock, TextBlock, ToolUseBlock
from sidecar.models.event import Delta, Event, ToolActivity
from sidecar.models.filtering import FilterContext, Filtered, GuardrailVerdict
from sidecar.models.request import JobRequest
from sidecar.models.result import ErrorInfo, FilterReport, Result
from sidecar.ports.bus import Lane
from sidecar.response_formatter.filters import making, policy
from tests.support.replica import bench
from tests.support.scripted_model import ScriptedModel, Turn, fails, reply_of, says
from tests.support.virtual_time import VirtualClock
from tests.support.work import WorkHere

PII = {"pii": {"kind": "pii"}}
MAIL = "Write to jane.doe@example.com today, or to nobody at all."
CLEAN = "Write to [EMAIL] today, or to nobody at all."
PRIVATE = "jane.doe"


async def run(
    turn: Turn,
    configured: Mapping[str, Any] | None = None,
    *,
    default: Mapping[str, Any] | None = None,
    **request: Any,
) -> tuple[Result, list[Event], ScriptedModel]:
    model = ScriptedModel(VirtualClock(), default=turn)
    async with bench(model) as b:
        await b.replica(filters=configured or {}, **({"tenants": {"default": default}} if default else {}))
        job = await b.submit(**request)
        result = await b.result(job)
        return result, await b.events(job), model


def deltas(events: list[Event], result: Result, name: str = "text") -> str:
    """Of the attempt that counts."""
    last = max(event.attempt for event in events)
    found = [event.data for event in events if event.attempt == last and isinstance(event.data, Delta)]
    return "".join(getattr(delta, name) or "" for delta in found)


def pieces(text: str, *, count: int = 20, delta_s: float = 0.1) -> Turn:
    return says(text, pieces=count, delta_s=delta_s)


async def test_without_filters_only_what_nobody_sees_is_taken_out_and_that_is_said() -> None:
    result, events, _ = await run(pieces("one\u200b two\u202e th\x07ree 👩\u200d💻"), stream=True)
    assert result.output.text == deltas(events, result) == "one two three 👩\u200d💻"
    assert result.output.content == ({"type": "text", "text": result.output.text},)
    assert result.text_sha256 == sha256(result.output.text.encode()).hexdigest()
    assert result.filters == (
        FilterReport(name="sanitise", action="remove", count=3, kinds={"invisible": 1, "bidi": 1, "control": 1}),
    )


async def test_a_clean_answer_has_no_report() -> None:
    result, _, _ = await run(says("Grüße, 世界! 👍🏽\n\tok"))
    assert result.output.text == "Grüße, 世界! 👍🏽\n\tok"
    assert result.filters == ()


async def test_hidden_characters_do_not_hide_an_address_from_a_filter() -> None:
    result, _, _ = await run(says(MAIL.replace("@", "\u200b@")), PII, default={"filters": ["pii"]})
    assert result.output.text == CLEAN


@pytest.mark.parametrize("count", [1, 7, 55])
async def test_what_is_redacted_is_in_no_event(count: int) -> None:
    result, events, _ = await run(pieces(MAIL, count=count), PII, stream=True, filters=["pii"])
    assert result.output.text == deltas(events, result) == CLEAN
    assert result.filters == (FilterReport(name="pii", action="redact", count=1, kinds={"email": 1}),)
    assert not any(PRIVATE.encode() in msgspec.json.encode(event) for event in events)
    assert result.stop_reason == "end_turn"


async def test_streamed_and_whole_answers_give_the_same_result() -> None:
    streamed, _, _ = await run(pieces(MAIL), PII, stream=True, filters=["pii"])
    whole, _, _ = await run(says(MAIL), PII, filters=["pii"])
    assert (streamed.output, streamed.filters, streamed.text_sha256) == (
        whole.output,
        whole.filters,
        whole.text_sha256,
    )


async def test_a_flag_changes_nothing_and_counts() -> None:
    configured = {"seen": {"kind": "pii", "action": "flag"}}
    result, events, _ = await run(pieces(MAIL), configured, stream=True, filters=["seen"])
    assert result.output.text == deltas(events, result) == MAIL
    assert result.filters == (FilterReport(name="seen", action="flag", count=1, kinds={"email": 1}),)


async def test_a_blocked_answer_is_withheld_and_earlier_deltas_no_longer_count() -> None:
    configured = {"pii": {"kind": "pii", "action": "block"}}
    text = "First some harmless sentences, of which there are several. " + MAIL
    result, events, _ = await run(pieces(text, count=60), configured, stream=True, filters=["pii"])
    assert result.state == "succeeded"
    assert result.stop_reason == "content_filtered"
    assert (result.output.text, result.output.content) == ("", ())
    assert result.text_sha256 == sha256(b"").hexdigest()
    assert result.partial is True
    assert result.filters[0].action == "block"
    assert "filter 'pii' withheld the answer: email" in result.warnings
    assert events[-1].attempt == 2
    assert deltas(events, result) == ""
    assert any(isinstance(event.data, Delta) for event in events)
    assert not any(PRIVATE.encode() in msgspec.json.encode(event) for event in events)


async def test_a_blocked_whole_answer_is_withheld() -> None:
    result, events, _ = await run(says(MAIL), {"pii": {"kind": "pii", "action": "block"}}, filters=["pii"])
    assert (result.stop_reason, result.output.text) == ("content_filtered", "")
    assert events[-1].attempt == 1


async def test_a_blocked_answer_that_should_have_had_a_form_is_a_failure() -> None:
    result, _, _ = await run(
        says('{"mail": "jane.doe@example.com"}'),
        {"pii": {"kind": "pii", "action": "block"}},
        filters=["pii"],
        output={"schema": {"type": "object"}},
    )
    assert (result.state, result.stop_reason) == ("failed", "content_filtered")
    assert result.error is not None
    assert result.error.code == "guardrail_blocked"
    assert result.error.details == {"filter": "pii", "kind": "email"}
    assert result.output.structured is None


async def test_structured_output_does_not_hold_what_the_text_lost() -> None:
    answer = '{"mail": "jane.doe@example.com", "ssn": 123456789, "n": [1, "x"], "escaped": "jane.doe\\u0040example.com"}'
    result, _, _ = await run(says(answer), PII, filters=["pii"], output={"schema": {"type": "object"}})
    assert result.state == "succeeded"
    assert result.output.structured == {
        "mail": "[EMAIL]",
        "ssn": "[NATIONAL_ID_US]",
        "n": [1, "x"],
        "escaped": "[EMAIL]",
    }
    assert "filters changed the structured output: it may not fit the schema any more" in result.warnings


async def test_structured_output_is_sanitised_also_where_the_text_had_an_escape() -> None:
    result, _, _ = await run(says('{"a": "x\\u202ey", "b": 1}'), output={"schema": {"type": "object"}})
    assert result.output.structured == {"a": "xy", "b": 1}
    assert "filters changed the structured output: it may not fit the schema any more" in result.warnings
    clean, _, _ = await run(says('{"a": "xy", "b": [1, null, true]}'), output={"schema": {"type": "object"}})
    assert clean.output.structured == {"a": "xy", "b": [1, None, True]}
    assert (clean.filters, clean.warnings) == ((), ())


async def test_reasoning_is_filtered_like_the_text_and_loses_its_signature() -> None:
    turn = Turn(
        reply=reply_of((ReasoningBlock(text=MAIL, signature="c2ln"), TextBlock(text="Done.")), "end_turn"),
        deltas=(
            *(ModelDelta(index=0, reasoning=MAIL[i : i + 3]) for i in range(0, len(MAIL), 3)),
            ModelDelta(index=1, text="Done."),
        ),
        delta_s=0.1,
    )
    result, events, _ = await run(turn, PII, stream=True, filters=["pii"])
    assert result.output.content == ({"type": "reasoning", "text": CLEAN}, {"type": "text", "text": "Done."})
    assert deltas(events, result, "reasoning") == CLEAN
    assert not any(PRIVATE.encode() in msgspec.json.encode(event) for event in events)


async def test_an_address_over_two_blocks_is_found() -> None:
    blocks = (TextBlock(text="Write to jane.doe@exam"), TextBlock(text="ple.com today."))
    result, _, _ = await run(Turn(reply=reply_of(blocks, "end_turn")), PII, filters=["pii"])
    assert result.output.text == "Write to [EMAIL] today."
    assert [block["text"] for block in result.output.content] == ["Write to [EMAIL]", " today."]


async def test_calls_of_tools_are_left_alone_unless_asked_for() -> None:
    turn = Turn(
        reply=reply_of((ToolUseBlock(id="t1", name="mail", input={"to": "jane.doe@example.com"}),), "tool_use")
    )
    tools = [{"name": "mail", "input_schema": {"type": "object"}}]
    result, _, _ = await run(turn, PII, filters=["pii"], tools=tools)
    assert result.output.content[0]["input"] == {"to": "jane.doe@example.com"}
    configured = {"pii": {"kind": "pii", "options": {"on": ["tools"]}}}
    result, _, _ = await run(turn, configured, filters=["pii"], tools=tools)
    assert result.output.content[0]["input"] == {"to": "[EMAIL]"}


async def test_events_of_tools_go_through_what_looks_at_tools() -> None:
    filters = {"pii": {"kind": "pii", "options": {"on": ["tools"]}}}
    configured = Policy.model_validate({"filters": filters, "tenants": {"acme": {"filters": ["pii"]}}})
    made = policy.FilterPolicies(
        configured, models=ScriptedModel(VirtualClock()), region="us-east-1", work=WorkHere()
    )
    request = JobRequest(messages=(Message(role="user", content="hello"),))
    look = made.screen(Lane("acme", "batch"), request, job="job1").screen_event
    assert look is not None
    error = ErrorInfo(code="tool_failed", message="no jane.doe@example.com here")
    seen = await look(
        ToolActivity(phase="failed", tool="mail", input={"to": ["jane.doe@example.com"]}, error=error)
    )
    assert seen.input == {"to": ["[EMAIL]"]}
    assert seen.error is not None
    assert seen.error.message == "no [EMAIL] here"
    assert made.screen(Lane("other", "batch"), request, job="job2").screen_event is None


async def test_the_text_of_a_job_that_failed_is_filtered_too() -> None:
    turn = Turn(
        deltas=tuple(ModelDelta(index=0, text=MAIL[i : i + 4]) for i in range(0, len(MAIL), 4)),
        error=ModelFailed("it broke"),
        delta_s=0.1,
    )
    result, events, _ = await run(turn, PII, stream=True, filters=["pii"], on_interrupt="fail", model=["claude-sonnet-4-5"],
                                  messages=[{"role": "user", "content": "hello"}])  # fmt: skip
    assert result.state == "failed"
    assert result.partial is True
    assert result.output.text == deltas(events, result)
    assert result.output.text.startswith("Write to [EMAIL] today")
    assert result.filters == (FilterReport(name="pii", action="redact", count=1, kinds={"email": 1}),)
    assert result.usage.output_tokens > 0


async def test_filters_of_class_tenant_and_request_all_hold() -> None:
    configured = {
        "pii": {"kind": "pii"},
        "keys": {"kind": "secrets", "options": {"placeholder": "<{kind}>"}},
        "words": {"kind": "blocklist", "options": {"words": ["bluebird"]}},
    }
    model = ScriptedModel(VirtualClock(), default=says("BlueBird: jane.doe@example.com AKIAIOSFODNN7EXAMPLE"))
    async with bench(model) as b:
        await b.replica(
            filters=configured,
            tenants={"acme": {"filters": ["pii"]}},
            classes={"standard": {"weight": 20, "filters": ["keys"]}},
        )
        result = await b.result(await b.submit(filters=["words"]))
        assert result.output.text == "[WORD]: [EMAIL] <aws_access_key>"
        assert {report.name for report in result.filters} == {"pii", "keys", "words"}
        result = await b.result(await b.submit(job_class="batch"))
        assert result.output.text == "BlueBird: [EMAIL] AKIAIOSFODNN7EXAMPLE"
        result = await b.result(await b.submit(tenant="other", job_class="batch"), tenant="other")
        assert result.output.text == "BlueBird: jane.doe@example.com AKIAIOSFODNN7EXAMPLE"


async def test_a_request_may_tighten_the_sanitiser_and_not_loosen_it() -> None:
    configured = {
        "loose": {"kind": "sanitise", "options": {"invisible": "keep", "bidi": "keep"}},
        "marked": {"kind": "sanitise", "options": {"invisible": "mark", "bidi": "mark", "controls": "mark"}},
    }
    text = "a\u200bb\u202ec"
    assert (await run(says(text), configured, filters=["loose"]))[0].output.text == "abc"
    own = {"filters": ["marked"]}
    result, _, _ = await run(says(text), configured, default=own, filters=["loose"])
    assert result.output.text == "a<U+200B>b<U+202E>c"
    assert result.filters == (
        FilterReport(name="sanitise", action="mark", count=2, kinds={"invisible": 1, "bidi": 1}),
    )
    sanitise = {"sanitise": {"kind": "sanitise", "options": {"invisible": "keep", "bidi": "keep"}}}
    assert (await run(says(text), sanitise))[0].output.text == text


async def test_an_answer_longer_than_the_bound_is_cut_and_marked_partial() -> None:
    configured = {"sanitise": {"kind": "sanitise", "options": {"max_chars": 10}}}
    result, events, _ = await run(pieces("0123456789abcdef", count=5), configured, stream=True)
    assert result.output.text == deltas(events, result) == "0123456789"
    assert result.partial is True
    assert result.filters[0].kinds == {"too_long": 1}
    assert "the answer was longer than 10 characters and was cut" in result.warnings


async def test_a_name_that_is_not_configured_is_refused_with_those_that_are() -> None:
    result, _, _ = await run(says("ok"), PII, filters=["pii", "nope"])
    assert result.state == "rejected"
    assert result.error is not None
    assert (result.error.code, result.error.details) == ("invalid_request", {"path": "filters[1]"})
    assert "there are pii" in result.error.message


async def test_the_model_does_not_see_what_is_taken_out_of_the_input() -> None:
    configured = {"pii": {"kind": "pii", "options": {"on": ["input"]}}}
    messages = [
        {"role": "user", "content": "I am jane.doe@example.com"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello jane.doe@example.com"}]},
        {"role": "user", "content": [{"type": "text", "text": "and my card is 4111 1111 1111 1111"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "who", "input": {}}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "json", "value": {"people": [{"mail": "jane.doe@example.com"}]}}],
                }
            ],
        },
    ]
    result, _, model = await run(
        says("jane.doe@example.com"), configured, messages=messages, system="For jane.doe@example.com", filters=["pii"],
        model="claude-sonnet-4-5",
    )  # fmt: skip
    asked = msgspec.json.encode(model.calls[0].messages).decode() + str(model.calls[0].system)
    assert PRIVATE not in asked
    assert "4111" not in asked
    assert asked.count("[EMAIL]") == 4
    assert result.output.text == "jane.doe@example.com"
    (report,) = result.filters
    assert (report.on, report.kinds["card"]) == ("input", 1)


async def test_a_blocked_input_is_rejected_before_any_model_is_asked() -> None:
    configured = {"pii": {"kind": "pii", "action": "block", "options": {"on": ["input", "output"]}}}
    result, _, model = await run(
        says("ok"),
        configured,
        messages=[{"role": "user", "content": MAIL}],
        filters=["pii"],
        model="claude-sonnet-4-5",
    )
    assert result.state == "rejected"
    assert result.error is not None
    assert result.error.code == "guardrail_blocked"
    assert result.error.details == {"filter": "pii", "kind": "email", "path": "messages[0].content"}
    assert PRIVATE not in result.error.message
    assert model.calls == []


GUARD = {"guard": {"kind": "bedrock_guardrail", "options": {"id": "gr-1", "version": "1", "segment_chars": 100}}}


def masks(text: str) -> GuardrailVerdict:
    shown = text.replace("Jane", "{NAME}")
    found = text.count("Jane")
    kinds = {"name": found} if found else {}
    return GuardrailVerdict(intervened=bool(found), is_blocked=False, text=shown, kinds=kinds)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_guardrail_judges_segments_and_what_it_masks_is_shown_masked(stream: bool) -> None:
    text = "Jane likes long walks on the beach and a good book in the evening. " * 5
    model = ScriptedModel(VirtualClock(), default=pieces(text, count=50))
    model.judge = masks
    async with bench(model) as b:
        await b.replica(filters=GUARD)
        result = await b.result(job := await b.submit(stream=stream, filters=["guard"]))
        events = await b.events(job)
    assert result.output.text == text.replace("Jane", "{NAME}")
    assert result.filters == (FilterReport(name="guard", action="redact", count=5, kinds={"name": 5}),)
    assert all(len(asked[3]) <= 100 for asked in model.judged)
    if stream:
        assert deltas(events, result) == result.output.text


async def test_a_guardrail_that_cannot_be_asked_fails_the_job_and_lets_nothing_through() -> None:
    def judge(text: str) -> GuardrailVerdict:
        raise Throttled("too many")

    model = ScriptedModel(VirtualClock(), default=pieces("Some text that nobody could judge. " * 9, count=50))
    model.judge = judge
    async with bench(model) as b:
        await b.replica(filters=GUARD)
        result = await b.result(job := await b.submit(stream=True, filters=["guard"]))
        events = await b.events(job)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.code == "throttled"
    assert result.output.text == ""
    assert not any(isinstance(event.data, Delta) for event in events)
    assert len(model.calls) == 1


async def test_a_guardrail_on_the_input_blocks_before_the_model_is_asked() -> None:
    configured = {
        "guard": {"kind": "bedrock_guardrail", "action": "block", "options": {"id": "g", "on": ["input"]}}
    }
    model = ScriptedModel(VirtualClock())
    model.judge = lambda text: GuardrailVerdict(intervened=True, is_blocked=True, text="no", kinds={"topic": 1})
    async with bench(model) as b:
        await b.replica(filters=configured)
        result = await b.result(await b.submit(filters=["guard"]))
    assert result.state == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.details["kind"]) == ("guardrail_blocked", "topic")
    assert (model.calls, model.judged[0][2]) == ([], "INPUT")


class Shouting:
    """A filter of one's own: no capitals."""

    segment_chars = 50

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.replacement = options["replacement"]

    async def apply(self, text: str, context: FilterContext) -> Filtered:
        assert context.tenant == "acme"
        words = text.split(" ")
        loud = [word for word in words if len(word) > 2 and word.isupper()]
        shown = " ".join(self.replacement if word in loud else word for word in words)
        return Filtered(text=shown, kinds={"shout": len(loud)} if loud else {})


class Point:
    name = "shouting"

    def load(self) -> Any:
        return Shouting


async def test_a_filter_of_ones_own_comes_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Points(list[Any]):
        names = frozenset({"shouting"})

    monkeypatch.setattr(making, "entry_points", lambda group: [Point()])
    monkeypatch.setattr("sidecar.config.filters.entry_points", lambda group: Points())
    configured = {"calm": {"kind": "shouting", "options": {"replacement": "quiet"}}}
    text = "this is LOUD and goes on for a while, then ends with a WORD more"
    result, events, _ = await run(pieces(text), configured, stream=True, filters=["calm"])
    assert result.output.text == deltas(events, result) == text.replace("LOUD", "quiet").replace("WORD", "quiet")
    assert result.filters == (FilterReport(name="calm", action="redact", count=2, kinds={"shout": 2}),)


async def test_a_reload_changes_filters_for_the_next_job() -> None:
    model = ScriptedModel(VirtualClock(), default=says(MAIL))
    async with bench(model) as b:
        replica = await b.replica()
        assert (await b.result(await b.submit())).output.text == MAIL
        replica.apply(Policy.model_validate({"filters": PII, "tenants": {"acme": {"filters": ["pii"]}}}))
        assert (await b.result(await b.submit())).output.text == CLEAN


async def test_an_error_that_quotes_the_answer_is_filtered() -> None:
    schema = {"type": "object", "properties": {"mail": {"type": "integer"}}}
    result, _, _ = await run(
        says('{"mail": "jane.doe@example.com"}'), PII, filters=["pii"], output={"schema": schema}
    )
    assert result.state == "failed"
    assert PRIVATE not in msgspec.json.encode(result).decode()


async def test_a_broken_stream_that_starts_again_forgets_what_was_held() -> None:
    clock = VirtualClock()
    turns = [fails(ModelFailed("broke"), after="Write to jane.do"), pieces(MAIL)]
    async with bench(ScriptedModel(clock, turns)) as b:
        await b.replica(filters=PII)
        result = await b.result(job := await b.submit(stream=True, filters=["pii"]))
        assert result.output.text == deltas(await b.events(job), result) == CLEAN
