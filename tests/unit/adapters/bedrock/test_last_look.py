"""The last look at a body: every shape that some family refuses, through every family, streamed and whole."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.adapters.bedrock import converse
from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.decode import decode_response
from sidecar.adapters.bedrock.families import encode_call
from sidecar.config.settings import Policy
from sidecar.coordinator.catalogue import Catalogue
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.quirks import check_quirks
from sidecar.emulator.shapes import check_shapes
from sidecar.emulator.traits import traits_of
from sidecar.emulator.validation import check_body
from sidecar.errors import InvalidRequest
from sidecar.models.call import ModelCall
from sidecar.models.content import Message, ToolUseBlock
from sidecar.models.profile import ModelProfile
from tests.support.bedrock_calls import call
from tests.support.raw_bedrock import answer
from tests.support.shapes import PLAIN, SHAPES, said, tool, user

MODELS = (
    "claude-3-7-sonnet",
    "claude-sonnet-4",
    "claude-sonnet-4-5",
    "claude-sonnet-4-6",
    "claude-opus-5",
    "nova-pro",
    "nova-2-lite",
    "llama4-maverick",
    "pixtral-large-2502",
    "gpt-5.5",
    "gpt-oss-120b",
    "deepseek-v3",
)
CATALOGUE = Catalogue(policy=Policy(), regions=("us-east-1", "us-west-2", "us-east-2"))
NO_PREFILL = frozenset({"prefill with a budget", "prefill with an effort"})
NOBODY = {
    "21 images": "messages[0].content[21]",
    "21 images of two messages": "messages[1].content[5]",
    "an image that is another": "messages[0].content[1].source",
    "an image that is none": "messages[0].content[1].source",
    "a document that is an image": "messages[0].content[1].source",
    "a tool whose input is no object": "tools[0].input_schema",
    "a reference that leads nowhere": "tools[0].input_schema",
}
"""What no model takes, with the path of the refusal."""


def model(name: str) -> ModelProfile:
    found = CATALOGUE.resolve(name)
    assert found is not None, name
    return found.profile


def calls_of(name: str) -> Iterator[tuple[str, ModelCall]]:
    for shape, fields in SHAPES.items():
        messages = fields.get("messages", (Message(role="user", content="hi"),))
        rest = {key: value for key, value in fields.items() if key != "messages"}
        for cache in ("auto", "none"):
            yield shape, call(*messages, of=model(name), cache=cache, **rest)


def refused(encoded: EncodedCall, name: str) -> str | None:
    """What the service says to a body; None where it takes it."""
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(encoded.params))
    traits = traits_of(model(name).model_id)
    try:
        check_body(body)
        check_shapes(body, traits)
        check_quirks(body, traits, input_tokens=100)
    except Refusal as e:
        return e.message
    return None


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", MODELS)
def test_no_body_leaves_that_the_service_refuses(name: str, is_stream: bool) -> None:
    traits = model(name).traits
    for shape, asked in calls_of(name):
        is_refused = shape in NOBODY or (shape in NO_PREFILL and not traits.prefill)
        is_refused |= shape == "many stops" and (traits.max_stops or 99) < 5
        if is_refused:
            with pytest.raises(InvalidRequest) as caught:
                encode_call(asked, is_stream=is_stream)
            assert caught.value.path, shape
            assert NOBODY.get(shape, caught.value.path) == caught.value.path
            continue
        encoded = encode_call(asked, is_stream=is_stream)
        assert refused(encoded, name) is None, shape
        again = encode_call(asked, is_stream=is_stream)
        assert msgspec.json.encode(again.params) == msgspec.json.encode(encoded.params), "caches go by the bytes"


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in (*NO_PREFILL, *NOBODY)])
def test_the_stand_in_refuses_what_nobody_mended(shape: str) -> None:
    """Else the test above could pass what the service would refuse."""
    with patch.object(converse, "last_look", lambda *_: {}):
        said_of = []
        for name in MODELS:
            for one, asked in calls_of(name):
                if one == shape:
                    said_of.append(refused(encode_call(asked, is_stream=False), name))
    assert any(said_of)


def warned(name: str, shape: str) -> tuple[dict[str, Any], str]:
    asked = next(asked for one, asked in calls_of(name) if one == shape)
    encoded = encode_call(asked, is_stream=False)
    return encoded.params, "; ".join(encoded.warnings)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("claude-sonnet-4-5", "point first", "nothing new to cache"),
        ("claude-sonnet-4-5", "point after a document", "further in front"),
        ("claude-sonnet-4-5", "five points", "4 cache points"),
        ("claude-sonnet-4-5", "short life before a long one", "5 minutes, too"),
        ("nova-pro", "long life", "no cache for an hour"),
        ("claude-sonnet-4-5", "anyOf at the root", "merged into one"),
        ("claude-sonnet-4-5", "keys outside the pattern", "turned back"),
        ("claude-sonnet-4-5", "properties null", "was null"),
        ("nova-pro", "a definition that contains itself", "contains itself"),
        ("nova-pro", "definitions", "in place of the references"),
        ("claude-3-7-sonnet", "prefill with a budget", "prefilled answer"),
        ("claude-sonnet-4-5", "blank stop", "white space alone"),
        ("claude-sonnet-4-5", "one id in two turns", "same id"),
        ("llama4-maverick", "text beside a result", "a turn of its own"),
        ("gpt-5.5", "image inside a result", "beside them"),
    ],
)
def test_what_was_mended_is_said(name: str, shape: str, words: str) -> None:
    assert words in warned(name, shape)[1]


def test_points_go_back_to_the_nearest_place_that_is_allowed() -> None:
    point = {"cachePoint": {"type": "default"}}
    assert warned("claude-sonnet-4-5", "point first later on")[0]["messages"][1]["content"] == [
        {"text": "ok"},
        point,
    ]
    assert warned("claude-sonnet-4-5", "point after a document")[0]["messages"][0]["content"][1] == point
    assert warned("claude-sonnet-4-5", "point after a pdf")[0]["messages"][0]["content"][2] == point
    system = warned("claude-sonnet-4-5", "point first behind a system prompt")[0]["system"]
    assert system == [{"text": "be brief"}, point]


def test_calls_and_results_keep_together_under_new_ids() -> None:
    messages = warned("claude-sonnet-4-5", "one id in two turns")[0]["messages"]
    used = [
        block["toolUse"]["toolUseId"] for message in messages for block in message["content"] if "toolUse" in block
    ]
    back = [b["toolResult"]["toolUseId"] for message in messages for b in message["content"] if "toolResult" in b]
    assert used == back
    assert used[0] == "t1"
    assert len(set(used)) == 3


def test_names_of_properties_are_mapped_there_and_back() -> None:
    own = {"Account Number": "1", "deep": [{"a b": "2"}]}
    schema = SHAPES["keys outside the pattern"]["tools"][0].input_schema
    history = (user("hi"), said(ToolUseBlock(id="t1", name="search", input=own)))
    asked = call(*history, of=model("claude-sonnet-4-5"), tools=tool(schema))
    encoded = encode_call(asked, is_stream=False)
    sent = encoded.params["messages"][1]["content"][0]["toolUse"]["input"]
    properties = encoded.params["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]["properties"]
    assert set(sent) <= set(properties)
    assert set(sent) & set(own) == {"deep"}
    reply = decode_response(
        msgspec.json.encode(
            answer([{"toolUse": {"toolUseId": "t2", "name": "search", "input": sent}}], "tool_use")
        ),
        encoded,
    )
    assert [block.input for block in reply.content if isinstance(block, ToolUseBlock)] == [own]


def test_an_output_schema_with_foreign_names_is_asked_for_in_words() -> None:
    schema = {
        "type": "object",
        "properties": {"Account Number": {"type": "string"}},
        "required": ["Account Number"],
        "additionalProperties": False,
    }
    for name in MODELS:
        encoded = encode_call(call("a", of=model(name), output_schema=schema), is_stream=True)
        assert refused(encoded, name) is None, name
        if name.startswith("claude"):
            assert "Account Number" in encoded.params["system"][-1]["text"]
            assert any("in words" in warning for warning in encoded.warnings)


def test_merged_objects_say_what_they_want_together() -> None:
    params, _ = warned("claude-sonnet-4-5", "anyOf at the root")
    schema = params["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    assert schema == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "description": "Needs one of: a; b.",
    }


def test_a_plain_call_is_sent_as_it_is() -> None:
    for name in MODELS:
        encoded = encode_call(call("hi", of=model(name), tools=PLAIN), is_stream=False)
        assert [warning for warning in encoded.warnings if "tool_choice" not in warning] == []


def test_schemas_that_refer_to_each_other_grow_no_further_than_they_may() -> None:
    many = [{"$ref": "#/$defs/b"}] * 50
    definitions = {"a": {"anyOf": many}, "b": {"anyOf": [{"$ref": "#/$defs/c"}] * 50}, "c": {"anyOf": many}}
    schema = {"type": "object", "anyOf": [{"$ref": "#/$defs/a"}] * 50, "$defs": definitions}
    for name in MODELS:
        encode_call(call("hi", of=model(name), tools=tool(schema)), is_stream=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["object", "#/$defs/a", "a b", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "required", "anyOf", "allOf", "$ref", "$defs", "a", "a b", "items"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    schema=st.dictionaries(
        st.sampled_from(["properties", "anyOf", "oneOf", "$ref", "$defs", "required"]), json_values
    )
)
def test_whatever_stands_in_a_schema_is_mended_or_refused(schema: dict[str, Any]) -> None:
    for name in ("claude-sonnet-4-5", "nova-pro", "gpt-5.5"):
        try:
            encoded = encode_call(
                call("hi", of=model(name), tools=tool({"type": "object", **schema})), is_stream=False
            )
        except InvalidRequest as e:
            said_of = e.path
        else:
            said_of = refused(encoded, name)
        assert said_of in (None, "tools[0].input_schema")
