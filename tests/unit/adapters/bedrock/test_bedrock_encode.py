"""Every neutral call gives a body that botocore itself would send, and accepts."""

import itertools
import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from botocore.serialize import create_serializer
from botocore.session import Session
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.adapters.bedrock.endpoints import model_path
from sidecar.adapters.bedrock.families import encode_call
from sidecar.errors import InvalidRequest
from sidecar.models.call import ToolSpec
from sidecar.models.content import (
    CachePointBlock,
    DocumentBlock,
    ImageBlock,
    JsonBlock,
    Message,
    ReasoningBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.profile import Traits
from sidecar.models.request import Guardrail, Params, Reasoning, ToolChoice
from tests.support.bedrock_calls import call, profile

SERVICE = Session().get_service_model("bedrock-runtime")
SERIALIZER = create_serializer("rest-json", include_validation=False)

words = st.text(min_size=1, max_size=12)
HEADS = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "pdf": b"%PDF", "txt": b"."}


def sources(kind: str) -> st.SearchStrategy[Source]:
    return st.builds(Source, data=st.binary(max_size=20).map(lambda rest: HEADS[kind] + rest))


images = st.sampled_from(["png", "jpeg"]).flatmap(
    lambda kind: st.builds(ImageBlock, source=sources(kind), format=st.just(kind))
)
documents = st.sampled_from(["pdf", "txt"]).flatmap(
    lambda kind: st.builds(
        DocumentBlock, source=sources(kind), format=st.just(kind), name=st.text(min_size=1, max_size=20)
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | words,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
inputs = st.dictionaries(words, json_values, max_size=3)
ids = st.text(min_size=1, max_size=80)
names = st.text(alphabet="abc.-_0", min_size=1, max_size=80)
results = st.builds(
    ToolResultBlock,
    tool_use_id=ids,
    content=words
    | st.lists(
        st.builds(TextBlock, text=words) | images | documents | st.builds(JsonBlock, value=json_values), max_size=3
    ).map(tuple),
    is_error=st.booleans(),
)
points = st.builds(CachePointBlock, ttl=st.sampled_from(["5m", "1h"]))
user_blocks = st.builds(TextBlock, text=st.text(max_size=12)) | images | documents | results | points
assistant_blocks = (
    st.builds(TextBlock, text=st.text(max_size=12))
    | st.builds(ToolUseBlock, id=ids, name=names, input=inputs)
    | st.builds(ReasoningBlock, text=words, signature=st.none() | words)
    | st.builds(ReasoningBlock, redacted=st.binary(min_size=1, max_size=8))
)
messages = st.lists(
    st.builds(
        Message, role=st.just("user"), content=words | st.lists(user_blocks, min_size=1, max_size=4).map(tuple)
    )
    | st.builds(
        Message, role=st.just("assistant"), content=st.lists(assistant_blocks, min_size=1, max_size=4).map(tuple)
    ),
    min_size=1,
    max_size=5,
)
traits = st.builds(
    Traits,
    sampling=st.sampled_from(["both", "one", "none"]),
    top_k=st.booleans(),
    reasoning=st.sampled_from(["none", "budget", "adaptive", "nova", "inline", "always"]),
    replays_reasoning=st.booleans(),
    forced_tool=st.sampled_from(["yes", "not_with_reasoning", "no"]),
    prefill=st.booleans(),
    schema=st.sampled_from(["native", "tool", "none"]),
    cache_points=st.sampled_from([(), ("system",), ("system", "messages"), ("system", "messages", "tools")]),
    cache_min_tokens=st.sampled_from([1, 1024]),
    hyphens_in_tool_names=st.booleans(),
    system_prompt=st.booleans(),
)
tools = st.lists(
    st.builds(ToolSpec, name=names, description=st.text(max_size=8), input_schema=st.just({"type": "object"})),
    max_size=3,
    unique_by=lambda tool: tool.name,
).map(tuple)
reasonings = (
    st.none()
    | st.builds(Reasoning, effort=st.sampled_from(["none", "low", "high"]))
    | st.builds(Reasoning, budget_tokens=st.integers(1, 20_000))
)
calls = st.builds(
    lambda model, told, fields: call(*told, of=model, **fields),
    st.builds(
        lambda family, how, tiers: profile(family=family, traits=how, service_tiers=tiers),
        st.sampled_from(["claude", "nova", "other"]),
        traits,
        st.sampled_from([("default",), ("default", "flex", "priority")]),
    ),
    messages,
    st.fixed_dictionaries(
        {},
        optional={
            "system": words,
            "params": st.builds(
                Params,
                max_tokens=st.none() | st.integers(1, 100_000),
                temperature=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
                top_p=st.none() | st.sampled_from([0.1, 1.0]),
                top_k=st.none() | st.integers(0, 500),
                stop=st.sampled_from([(), ("END",)]),
            ),
            "tools": tools,
            "tool_choice": st.sampled_from(["auto", "any", "none", ToolChoice(name="abc")]),
            "output_schema": st.just({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}),
            "reasoning": reasonings,
            "cache": st.sampled_from(["auto", "none"]),
            "service_tier": st.sampled_from(["auto", "flex"]),
            "guardrail": st.just(Guardrail(id="gr1", version="1")),
            "request_metadata": st.dictionaries(words, words, max_size=3),
        },
    ),
)


def encode(asked: Any, *, is_stream: bool = False) -> dict[str, Any] | None:
    try:
        return encode_call(asked, is_stream=is_stream).params
    except InvalidRequest as error:
        if not error.path.startswith("messages"):
            raise
        return None


@settings(deadline=None, max_examples=400)
@given(asked=calls, is_stream=st.booleans())
def test_body_and_path_are_those_that_botocore_would_send(asked: Any, is_stream: bool) -> None:
    params = encode(asked, is_stream=is_stream)
    if params is None:
        return
    operation = SERVICE.operation_model("ConverseStream" if is_stream else "Converse")
    model_id = asked.candidate.route.invoke_id
    whole = {"modelId": model_id, **params}
    report = ParamValidator().validate(whole, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    request = SERIALIZER.serialize_to_request(whole, operation)
    assert json.loads(msgspec.json.encode(params)) == json.loads(request["body"])
    assert model_path(model_id, "converse-stream" if is_stream else "converse") == request["url_path"]


@settings(deadline=None)
@given(asked=calls)
def test_the_same_call_gives_the_same_bytes(asked: Any) -> None:
    again = msgspec.json.decode(msgspec.json.encode(asked), type=type(asked))
    assert msgspec.json.encode(encode(asked)) == msgspec.json.encode(encode(again))


@settings(deadline=None, max_examples=300)
@given(asked=calls)
def test_what_is_sent_keeps_the_rules_of_all_families(asked: Any) -> None:
    params = encode(asked)
    if params is None:
        return
    roles = [message["role"] for message in params["messages"]]
    assert all(one != other for one, other in itertools.pairwise(roles))
    blocks = [block for message in params["messages"] for block in message["content"]]
    assert all(block["text"].strip() for block in blocks if "text" in block)
    assert sum("cachePoint" in block for block in blocks) <= 4
    held = [block["toolUse"]["name"] for block in blocks if "toolUse" in block]
    specs = params.get("toolConfig", {}).get("tools", [])
    offered = [tool["toolSpec"]["name"] for tool in specs if "toolSpec" in tool]
    assert set(held) <= set(offered)
    assert len(set(offered)) == len(offered)
    documents_sent = [block["document"]["name"] for block in blocks if "document" in block]
    assert len(set(documents_sent)) == len(documents_sent)
    for message in params["messages"]:
        kinds = [next(iter(block)) for block in message["content"]]
        assert "document" not in kinds or "text" in kinds
        if "toolUse" in kinds:
            assert set(kinds[kinds.index("toolUse") :]) == {"toolUse"}


@pytest.mark.parametrize("is_stream", [False, True])
def test_binary_goes_as_base64(is_stream: bool) -> None:
    data = b"\x89PNG" + bytes(range(256))
    asked = call(
        Message(role="user", content=(TextBlock(text="see"), ImageBlock(source=Source(data=data), format="png")))
    )
    body = json.loads(msgspec.json.encode(encode_call(asked, is_stream=is_stream).params))
    assert body["messages"][0]["content"][1]["image"]["source"]["bytes"] == b64encode(data).decode()
