from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.emulator.answer import Prompt, compose, make_text, make_tool_id, sign_reasoning
from sidecar.emulator.behaviour import Behaviour, ToolCall
from sidecar.emulator.events import make_events
from sidecar.emulator.schema_instance import make_instance
from sidecar.emulator.tokens import count_text

SEARCH = {"name": "search", "inputSchema": {"json": {"type": "object", "required": ["q"]}}}


def ask(behaviour: Behaviour | None = None, **prompt: Any) -> Any:
    return compose(Prompt(**{"text": "hello", "digest": b"d", **prompt}), behaviour or Behaviour())


def text_of(answer: Any) -> str:
    return "".join(block.get("text", "") for block in answer.blocks)


def test_equal_prompts_are_answered_equally_and_others_otherwise() -> None:
    assert ask() == ask()
    assert text_of(ask()) != text_of(ask(text="something else"))


@given(st.text(max_size=50), st.integers(1, 3_000))
def test_made_text_has_exactly_the_wanted_tokens(seed: str, tokens: int) -> None:
    assert count_text(make_text(seed, tokens)) == tokens


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_output_never_exceeds_max_tokens(tokens: int, max_tokens: int) -> None:
    answer = ask(Behaviour(tokens=tokens, reasoning=10), max_tokens=max_tokens)
    assert answer.output_tokens == min(tokens + 10, max_tokens)
    assert (answer.stop_reason == "max_tokens") == (tokens + 10 > max_tokens)


def test_the_first_stop_sequence_ends_the_text() -> None:
    answer = ask(Behaviour(text="one two three"), stop_sequences=["three", "two"])
    assert text_of(answer) == "one "
    assert answer.stop_reason == "stop_sequence"


def test_scripted_tools_come_in_order_with_ids_of_their_own() -> None:
    behaviour = Behaviour(tools=(ToolCall("search", {"q": 1}), ToolCall("search", {"q": 2})))
    answer = ask(behaviour, tools=[SEARCH])
    calls = [block["toolUse"] for block in answer.blocks]
    assert [call["input"] for call in calls] == [{"q": 1}, {"q": 2}]
    assert len({call["toolUseId"] for call in calls}) == 2
    assert answer.stop_reason == "tool_use"


def test_without_tools_on_offer_nothing_is_called() -> None:
    assert ask(Behaviour(tools=(ToolCall("search"),))).stop_reason == "end_turn"


@pytest.mark.parametrize("choice", [{"any": {}}, {"tool": {"name": "search"}}])
def test_a_forced_tool_is_called_with_valid_arguments(choice: dict[str, Any]) -> None:
    answer = ask(tools=[SEARCH], tool_choice=choice)
    assert answer.blocks[0]["toolUse"]["name"] == "search"
    assert set(answer.blocks[0]["toolUse"]["input"]) == {"q"}


def test_results_of_tools_are_told_in_the_answer() -> None:
    results = [
        {"toolUseId": "a", "content": [{"text": "sunny"}]},
        {"toolUseId": "b", "content": [{"json": {"t": 3}}]},
    ]
    assert "sunny" in text_of(ask(tool_results=results))
    assert '{"t":3}' in text_of(ask(tool_results=results))


def test_arguments_cut_by_max_tokens_are_no_json_in_the_stream() -> None:
    behaviour = Behaviour(tools=(ToolCall("search", {"q": "x" * 400}),))
    answer = ask(behaviour, tools=[SEARCH], max_tokens=20)
    assert answer.stop_reason == "max_tokens"
    pieces = [
        event.payload["delta"]["toolUse"]["input"]
        for event in make_events(answer, chunk_tokens=4)
        if event.kind == "contentBlockDelta"
    ]
    assert "".join(pieces) == '{"q":"' + "x" * 74


def test_reasoning_comes_first_and_is_signed() -> None:
    answer = ask(Behaviour(reasoning="because", text="so"))
    reasoning = answer.blocks[0]["reasoningContent"]["reasoningText"]
    assert reasoning == {"text": "because", "signature": sign_reasoning("because")}
    assert answer.blocks[1] == {"text": "so"}


def test_a_stream_says_the_same_as_the_reply() -> None:
    answer = ask(Behaviour(tokens=33, reasoning=9, tools=(ToolCall("search", {"q": "x"}),)), tools=[SEARCH])
    events = make_events(answer, chunk_tokens=4)
    assert [events[0].kind, events[-1].kind] == ["messageStart", "messageStop"]
    starts = [event for event in events if event.kind == "contentBlockStart"]
    assert [list(event.payload["start"]) for event in starts] == [["toolUse"]]
    spoken = "".join(
        e.payload["delta"].get("reasoningContent", {}).get("text", "") for e in events if "delta" in e.payload
    )
    assert spoken == answer.blocks[0]["reasoningContent"]["reasoningText"]["text"]


def test_tool_ids_look_like_the_services() -> None:
    assert len(make_tool_id(b"x", 0)) == len("tooluse_fiDf7dcHRcLMA5qJHOZR2U")
    assert make_tool_id(b"x", 0) != make_tool_id(b"x", 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]},
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2},
        {"type": ["null", "string"], "minLength": 12},
        {"anyOf": [{"type": "number", "exclusiveMinimum": 3, "multipleOf": 2}, {"type": "null"}]},
        {"$ref": "#/$defs/day", "$defs": {"day": {"type": "string", "format": "date"}}},
        {
            "allOf": [
                {"properties": {"a": {"type": "boolean"}}, "required": ["a"]},
                {"properties": {"b": {"const": 3}}, "required": ["b"]},
            ]
        },
        {"type": "integer", "maximum": -4},
        {},
    ],
)
def test_an_instance_satisfies_its_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(make_instance(schema), schema)


def test_a_recursive_schema_ends() -> None:
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert make_instance(schema)
