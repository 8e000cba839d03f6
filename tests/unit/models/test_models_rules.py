"""Rules over several fields of a request, with the paths of what breaks them."""

import re
from typing import Any

import pytest

from sidecar.errors import InvalidRequest
from sidecar.models.base import FieldError
from sidecar.models.codec import decode_request, encode
from sidecar.models.content import Message, TextBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.request import InlineTool, JobRequest, ToolChoice
from sidecar.models.rules import MAX_DEPTH, check_depth

USER = Message(role="user", content="hello")
OBJECT = {"type": "object"}


def call(call_id: str = "a", **fields: Any) -> ToolUseBlock:
    return ToolUseBlock(id=call_id, name="search", **fields)


def answer(call_id: str = "a", **fields: Any) -> ToolResultBlock:
    return ToolResultBlock(tool_use_id=call_id, content="found", **fields)


def user(*blocks: Any) -> Message:
    return Message(role="user", content=blocks)


def assistant(*blocks: Any) -> Message:
    return Message(role="assistant", content=blocks)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("messages", "path", "words"),
    [
        ([Message(role="assistant", content="hi")], "messages[0].role", "begins with the user"),
        ([Message(role="user", content=" \n")], "messages[0].content", "is blank"),
        ([USER, assistant(TextBlock(text=""))], "messages[1].content", "is blank"),
        ([user(call())], "messages[0].content[0]", "assistant message only"),
        ([USER, assistant(answer())], "messages[1].content[0]", "user message only"),
        ([user(answer())], "messages[0].content[0].tool_use_id", "answers no tool_use"),
        ([USER, assistant(call()), user(answer("b"))], "messages[2].content[0].tool_use_id", "'b' answers no"),
        ([USER, assistant(call()), user(answer(), answer())], "messages[2].content[1].tool_use_id", "twice"),
        ([USER, assistant(call(), call())], "messages[1].content[1].id", "repeats the tool_use id 'a'"),
        ([USER, assistant(call())], "messages[1].content[0]", "has no tool_result"),
        ([USER, assistant(call()), USER], "messages[1].content[0]", "has no tool_result"),
        (
            [USER, assistant(call("a"), call("b")), user(answer("b"))],
            "messages[1].content[0]",
            "'a' has no tool_result",
        ),
        (
            [USER, assistant(call()), user(TextBlock(text="x")), assistant(TextBlock(text="y"))],
            "messages[1].content[0]",
            "has no tool_result",
        ),
        ([USER, assistant(call(input=nested(80))), user(answer())], "messages[1].content[0].input", "64 levels"),
    ],
)
def test_a_broken_conversation_is_refused(messages: list[Message], path: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)) as caught:
        decode_request(encode({"messages": messages}))
    assert caught.value.path == path


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [USER, USER],
        [USER, Message(role="assistant", content="The answer is")],
        [USER, assistant(call("a"), call("b")), user(answer("b"), answer("a"), TextBlock(text="go on"))],
        [USER, assistant(call("a")), user(TextBlock(text="first")), user(answer("a"))],
        [USER, assistant(call("a")), assistant(call("b")), user(answer("a"), answer("b"))],
        [USER, assistant(call("a")), user(answer("a")), assistant(call("a")), user(answer("a"))],
        [USER, assistant(TextBlock(text=""), call("a")), user(answer("a"))],
    ],
)
def test_a_sound_conversation_is_taken(messages: list[Message]) -> None:
    request = decode_request(encode({"messages": messages}))
    assert request.messages is not None
    assert len(request.messages) == len(messages)


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"tools": ["a", "b", "a@1.x"]}, "tools[2]", "repeats the tool 'a' of tools[0]"),
        ({"tools": ["a"], "tool_choice": {"name": "b"}}, "tool_choice.name", "'b' is not one of 'tools'"),
        ({"tool_choice": "any"}, "tool_choice", "'tools' is empty"),
        ({"tools": [{"name": "a", "input_schema": {}}]}, "tools[0].input_schema", "object"),
        (
            {"tools": [{"name": "a", "input_schema": {**OBJECT, "x": nested(80)}}]},
            "tools[0].input_schema",
            "64 levels",
        ),
        ({"output": {"schema": nested(80)}}, "output.schema", "nested deeper than 64 levels"),
    ],
)
def test_tools_and_schemas_must_fit_together(fields: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)) as caught:
        decode_request(encode({"messages": [USER], **fields}))
    assert caught.value.path == path


def test_the_chosen_tool_may_be_given_by_a_range_or_inline() -> None:
    for tool in ("orders@^1.2", InlineTool(name="orders", input_schema=OBJECT)):
        request = JobRequest(messages=(USER,), tools=(tool,), tool_choice=ToolChoice(name="orders"))
        assert request.tool_names == ("orders",)


def test_a_rule_broken_in_python_names_the_field_in_its_text() -> None:
    with pytest.raises(FieldError, match=r"^tool_choice: 'any' asks for a tool call"):
        JobRequest(messages=(USER,), tool_choice="any")


def test_depth_is_counted_in_levels() -> None:
    check_depth(nested(MAX_DEPTH), path="x")
    with pytest.raises(FieldError):
        check_depth(nested(MAX_DEPTH + 1), path="x")


def test_a_broad_value_is_not_a_deep_one() -> None:
    check_depth([[i] for i in range(10_000)], path="x")
