"""Structured output: how a schema is asked for, how an answer is held against it, the one turn that repairs."""

import json
import os
from typing import Any

import msgspec
import pytest

from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.decode import decode_response
from sidecar.adapters.bedrock.families import encode_call
from sidecar.adapters.bedrock.schema import inexpressible, inlined, strict_schema, wrapped
from sidecar.adapters.bedrock.stream import Assembler
from sidecar.adapters.bedrock.wire import event_decoder
from sidecar.emulator.schema_instance import make_instance
from sidecar.errors import ContextOverflow, InvalidRequest
from sidecar.models.call import ModelReply, ToolSpec
from sidecar.models.content import ReasoningBlock, TextBlock
from sidecar.models.event import Delta
from sidecar.models.profile import ModelProfile, Traits
from sidecar.models.request import OutputSpec, Reasoning, ToolChoice
from sidecar.models.result import Usage
from sidecar.response_formatter import structured
from sidecar.response_formatter.formatter import digest, text_of
from sidecar.runtime.json_schema import misfit
from sidecar.runtime.schema_checks import SchemaChecks
from tests.support.bedrock_calls import CLAUDE, NOVA, call, profile
from tests.support.random_schemas import SchemaMaker
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, fails, says
from tests.support.virtual_time import VirtualClock
from tests.support.work import WorkHere, now

HOW_MANY = int(os.environ.get("RANDOM_SCHEMAS", "300"))
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
MODELS = (
    profile(family="claude", traits=CLAUDE),
    profile(family="nova", traits=NOVA),
    profile(family="other", traits=Traits(schema="none")),
    profile(family="claude", traits=msgspec.structs.replace(CLAUDE, forced_tool="no")),
)


def kind_of(encoded: EncodedCall) -> str:
    if "outputConfig" in encoded.params:
        return "native"
    return "tool" if encoded.output_tool else "words"


def asked(schema: dict[str, Any], of: ModelProfile = MODELS[0], **fields: Any) -> EncodedCall:
    return encode_call(call(of=of, output_schema=schema, **fields), is_stream=True)


def sent(encoded: EncodedCall) -> dict[str, Any]:
    """The schema as the model gets it."""
    if kind_of(encoded) == "native":
        text = encoded.params["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
        made: dict[str, Any] = json.loads(text)
        return made
    found: dict[str, Any] = encoded.params["toolConfig"]["tools"][-1]["toolSpec"]["inputSchema"]["json"]
    return found


def answers(encoded: EncodedCall, value: Any) -> tuple[ModelReply, ModelReply, str]:
    """The same answer whole and streamed, and the text of the deltas."""
    written = json.dumps(value)
    usage = {"inputTokens": 1, "outputTokens": 1}
    if kind_of(encoded) == "tool":
        block: dict[str, Any] = {"toolUse": {"toolUseId": "t", "name": encoded.output_tool, "input": value}}
        start = {"toolUse": {"toolUseId": "t", "name": encoded.output_tool}}
        deltas: list[dict[str, Any]] = [{"toolUse": {"input": p}} for p in (written[:3], written[3:])]
        stop = "tool_use"
    else:
        block, start, stop = {"text": written}, {}, "end_turn"
        deltas = [{"text": piece} for piece in (written[:3], written[3:]) if piece]
    body = {"output": {"message": {"content": [block]}}, "stopReason": stop, "usage": usage}
    whole = decode_response(json.dumps(body).encode(), encoded)
    assembler = Assembler(encoded)
    events = [
        ("messageStart", {"role": "assistant"}),
        *([("contentBlockStart", {"start": start, "contentBlockIndex": 0})] if start else []),
        *(("contentBlockDelta", {"delta": delta, "contentBlockIndex": 0}) for delta in deltas),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": stop}),
        ("metadata", {"usage": usage}),
    ]
    said = ""
    for kind, payload in events:
        for delta in assembler.feed(event_decoder(kind)(json.dumps(payload).encode())):
            said += delta.text or ""
    return whole, assembler.finish(), said


@pytest.mark.parametrize(
    ("schema", "of", "kind"),
    [
        (SCHEMA, MODELS[0], "native"),
        (SCHEMA, MODELS[1], "tool"),
        (SCHEMA, MODELS[2], "words"),
        ({"type": "array", "items": SCHEMA}, MODELS[0], "native"),
        ({"type": "object"}, MODELS[0], "tool"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, MODELS[0], "tool"),
        ({"type": "object", "required": ["a"]}, MODELS[0], "tool"),
        ({"allOf": [SCHEMA, {"type": "object", "properties": {"b": {}}}]}, MODELS[0], "tool"),
        ({**SCHEMA, "$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}}, MODELS[0], "tool"),
        ({"type": "object", "properties": {"a": {}}}, MODELS[0], "tool"),
        ({"type": "object", "properties": {"a": True}}, MODELS[0], "tool"),
        ({"type": "object", "properties": {"a": {"const": 1}, "b": False}}, MODELS[0], "native"),
        ({"type": "object"}, MODELS[3], "words"),
    ],
)
def test_the_strongest_way_that_the_model_and_the_schema_allow(
    schema: dict[str, Any], of: ModelProfile, kind: str
) -> None:
    encoded = asked(schema, of)
    assert kind_of(encoded) == kind
    if kind == "words":
        assert json.dumps(schema, separators=(",", ":")) in encoded.params["system"][-1]["text"]
        assert any("in words" in warning for warning in encoded.warnings)


def test_reasoning_that_forbids_a_forced_tool_leaves_words() -> None:
    traits = msgspec.structs.replace(CLAUDE, schema="tool")
    model = profile(family="claude", traits=traits)
    assert kind_of(asked(SCHEMA, model)) == "tool"
    thinking = asked(SCHEMA, model, reasoning=Reasoning(effort="low"))
    assert kind_of(thinking) == "words"
    assert "toolConfig" not in thinking.params


def test_a_tool_that_the_call_names_goes_before_the_answer() -> None:
    tool = ToolSpec(name="look", description="", input_schema={"type": "object"})
    encoded = asked(SCHEMA, MODELS[1], tools=(tool,), tool_choice=ToolChoice(name="look"))
    assert encoded.params["toolConfig"]["toolChoice"] == {"tool": {"name": "look"}}


def test_an_answer_that_is_no_object_stands_in_one_and_its_references_hold() -> None:
    schema = {
        "anyOf": [{"type": "integer"}, {"$ref": "#/$defs/pair"}, {"type": "array", "items": {"$ref": "#"}}],
        "$defs": {"pair": {"type": "array", "items": {"type": "string"}}},
    }
    around = wrapped(schema)
    for value in (1, ["a"], [["a"], [1, 2]], [[[["x"]]]]):
        assert misfit(msgspec.json.encode(schema), value) is None
        assert misfit(msgspec.json.encode(around), {"value": value}) is None
    assert misfit(msgspec.json.encode(around), {"value": {"no": 1}}) is not None


def test_definitions_stand_in_place_where_a_family_reads_none() -> None:
    item = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/item"}},
        "$defs": {"item": item, "n": {"type": "integer"}},
    }
    flat = sent(asked(schema, MODELS[1]))
    assert "$ref" not in json.dumps(flat)
    assert "$defs" not in flat
    assert flat["properties"]["a"]["properties"]["n"] == {"type": "integer"}
    looped = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}},
    }
    assert inlined(looped) == looped


def test_definitions_that_double_at_each_step_are_left_alone() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for i in range(1, 30):
        definitions[f"d{i}"] = {"items": {"$ref": f"#/$defs/d{i - 1}"}, "contains": {"$ref": f"#/$defs/d{i - 1}"}}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d29"}}, "$defs": definitions}
    assert inlined(schema) == schema
    assert inexpressible(schema) is None


def test_definitions_in_a_long_row_are_no_loop() -> None:
    row: dict[str, Any] = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(3000)}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/d0"}},
        "$defs": {**row, "d3000": {"type": "null"}},
    }
    assert inexpressible(schema) is None
    assert inlined(schema) == schema


def test_what_strict_mode_refuses_is_told_in_words() -> None:
    strict, dropped = strict_schema(
        {
            "type": "object",
            "properties": {
                "when": {"type": "string", "format": "week"},
                "pick": {"enum": [{"a": 1}, 2], "description": "choose"},
                "one": {"oneOf": [{"type": "integer"}, {"type": "null"}]},
                "never": False,
                "ever": True,
            },
        }
    )
    assert dropped == ["enum", "format"]
    assert strict["properties"]["when"] == {"type": "string", "description": "format=week"}
    assert strict["properties"]["pick"]["description"].startswith("choose. enum=")
    assert strict["properties"]["one"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert "never" not in strict["properties"]
    assert strict["properties"]["ever"] == {}


@pytest.mark.parametrize("of", MODELS[:3], ids=["native", "tool", "words"])
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (SCHEMA, {"n": 3}),
        ({"type": "array", "items": {"type": "string"}}, ["a b", "c"]),
        ({"type": "string"}, "a } b"),
        ({"anyOf": [{"type": "null"}, SCHEMA]}, {"n": 1}),
    ],
)
def test_streamed_and_whole_answers_give_one_text_and_one_value(
    of: ModelProfile, schema: dict[str, Any], value: Any
) -> None:
    encoded = asked(schema, of)
    given = {"value": value} if encoded.is_wrapped else value
    whole, streamed, said = answers(encoded, given)
    assert whole.content == streamed.content
    assert text_of(whole.content) == said
    assert json.loads(said) == value
    assert problem_of([said], schema) is None
    assert whole.stop_reason == streamed.stop_reason == "end_turn"


def problem_of(texts: list[str], schema: dict[str, Any]) -> structured.Unfit | None:
    work = WorkHere()
    made = structured.StructuredAnswers(SchemaChecks(work), work)
    return now(made.problem("acme", texts, OutputSpec(schema=schema)))


def is_usable(spec: OutputSpec) -> bool:
    try:
        structured.check_now(spec)
    except InvalidRequest:
        return False
    return True


def test_random_schemas_never_break_the_way_from_request_to_result() -> None:
    made = SchemaMaker(seed=20)
    usable = 0
    for _ in range(HOW_MANY):
        schema = made.schema()
        spec = OutputSpec(schema=schema)
        if not is_usable(spec):
            continue
        usable += 1
        value = made.value()
        for model in MODELS:
            encoded = asked(schema, model)
            msgspec.json.encode(encoded.params)
            for candidate in (make_instance(sent(encoded)) or {} if kind_of(encoded) != "words" else value, value):
                is_object = isinstance(candidate, dict) or kind_of(encoded) != "tool"
                whole, streamed, said = answers(encoded, candidate if is_object else {"value": candidate})
                assert whole.content == streamed.content
                assert text_of(whole.content) == said
                problem = problem_of([said], schema)
                if problem is not None:
                    assert structured.repair_turn([said], problem)
        problem_of([made.text()], schema)
    assert usable > HOW_MANY / 5


@pytest.mark.parametrize(
    ("texts", "is_valid"),
    [
        (['{"n":1}'], True),
        (['```json\n{"n": 1}\n```'], True),
        (['\n```\n{"n":1}\n```\n'], True),
        (["Here it is: ", '{"n":1}'], True),
        (['{"n":1', "}"], True),
        (['{"n":1} and more'], False),
        (["[" * 100_000], False),
        (['{"a":' * 100 + "1" + "}" * 100], False),
        (['{"n":1' + "0" * 400 + "}"], True),
        (['{"n":"\\ud800"}'], False),
        ([""], False),
        ([], False),
    ],
)
def test_readings_of_an_answer(texts: list[str], is_valid: bool) -> None:
    unfit = problem_of(texts, SCHEMA)
    assert (unfit is None) is is_valid
    if unfit is not None:
        assert len(unfit.message) <= 700


async def repaired(b: Bench, **more: Any) -> Any:
    await b.replica()
    return await b.submit(output={"schema": SCHEMA}, **more)


def model_of(*turns: Turn) -> ScriptedModel:
    return ScriptedModel(VirtualClock(), list(turns))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_does_not_fit_is_repaired_once(stream: bool) -> None:
    async with bench(model_of(says('{"n": "x"}', pieces=2), says('{"n": 4}', pieces=2))) as b:
        job = await repaired(b, stream=stream)
        result = await b.result(job)
        assert (result.state, result.output.structured) == ("succeeded", {"n": 4})
        assert result.usage.output_tokens == 10
        assert len(result.attempts) == 2
        assert any("asked once more" in warning for warning in result.warnings)
        again = b.model.calls[1].messages
        assert [message.role for message in again] == ["user", "assistant", "user"]
        assert again[1].content == (TextBlock(text='{"n": "x"}'),)
        assert "at n:" in str(again[2].content)
        events = await b.events(job)
        last = [e for e in events if e.attempt == events[-1].attempt]
        text = "".join(e.data.text or "" for e in last if isinstance(e.data, Delta))
        assert text == (result.output.text if stream else "")
        assert result.text_sha256 == digest('{"n": 4}')
        assert events[-1].attempt == (2 if stream else 1)


async def test_after_one_repair_the_answer_stands_as_it_is() -> None:
    async with bench(model_of(says("first"), says('{"n": "second"}'), says('{"n": 3}'))) as b:
        result = await b.result(await repaired(b))
        assert result.state == "failed"
        assert result.error is not None
        assert (result.error.code, result.error.retryable) == ("output_invalid", True)
        assert result.error.details["path"] == "n"
        assert result.output.text == '{"n": "second"}'
        assert result.output.structured is None
        assert len(b.model.calls) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repair_that_fails_leaves_the_first_answer(stream: bool) -> None:
    broken = fails(ContextOverflow("too long"), after="part")
    model = ScriptedModel(VirtualClock(), [says("first")], default=broken)
    async with bench(model) as b:
        job = await repaired(b, stream=stream, model=["claude-sonnet-4-5"])
        result = await b.result(job)
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "output_invalid"
        assert result.output.text == "first"
        assert any("asking once more failed" in warning for warning in result.warnings)
        events = await b.events(job)
        last = [e for e in events if e.attempt == events[-1].attempt]
        text = "".join(e.data.text or "" for e in last if isinstance(e.data, Delta))
        assert text == ("first" if stream else "")


@pytest.mark.parametrize(
    "more",
    [
        {"budget": {"max_turns": 1}},
        {"timeout_s": 10},
        {"budget": {"max_cost_usd": 0.0016}},
    ],
    ids=["turns", "time", "money"],
)
async def test_a_repair_needs_turns_time_and_money(more: dict[str, Any]) -> None:
    first = says("first", first_s=6, usage=Usage(input_tokens=10, output_tokens=100))
    async with bench(model_of(first, says('{"n": 3}'))) as b:
        result = await b.result(await repaired(b, params={"max_tokens": 5}, **more))
        assert result.error is not None
        assert result.error.code == "output_invalid"
        assert result.output.text == "first"
        assert len(b.model.calls) == 1


@pytest.mark.parametrize("stop", ["max_tokens", "guardrail", "content_filtered", "context_overflow"])
async def test_an_answer_that_was_cut_or_filtered_is_not_asked_for_again(stop: Any) -> None:
    turn = says('{"n": ')
    assert turn.reply is not None
    cut = turn._replace(reply=msgspec.structs.replace(turn.reply, stop_reason=stop))
    async with bench(model_of(cut)) as b:
        result = await b.result(await repaired(b))
        assert result.error is not None
        assert result.error.code == "output_invalid"
        assert len(b.model.calls) == 1
        assert result.partial is (stop == "max_tokens")


async def test_reasoning_before_a_valid_answer_is_no_part_of_it() -> None:
    turn = says('{"n": 1}')
    assert turn.reply is not None
    content = (ReasoningBlock(text="let me see"), *turn.reply.content)
    async with bench(model_of(turn._replace(reply=msgspec.structs.replace(turn.reply, content=content)))) as b:
        result = await b.result(await repaired(b))
        assert result.output.structured == {"n": 1}
        assert result.output.text == '{"n": 1}'
