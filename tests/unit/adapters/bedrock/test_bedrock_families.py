"""What differs between families of models, rule by rule."""

import json
from typing import Any

import msgspec
import pytest

from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.families import encode_call
from sidecar.adapters.bedrock.schema import strict_schema
from sidecar.errors import InvalidRequest
from sidecar.models.call import ModelCall, ToolSpec
from sidecar.models.content import (
    Block,
    CachePointBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    ReasoningBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.profile import ModelProfile
from sidecar.models.request import Guardrail, Params, Reasoning, ToolChoice
from tests.support.bedrock_calls import CLAUDE, NOVA, call, profile

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PDF = DocumentBlock(source=Source(data=b"%PDF"), format="pdf", name="Report (v2).pdf")


def claude(**changes: Any) -> ModelProfile:
    return profile(family="claude", traits=msgspec.structs.replace(CLAUDE, **changes))


def nova(**changes: Any) -> ModelProfile:
    return profile(family="nova", traits=msgspec.structs.replace(NOVA, **changes))


def other(**changes: Any) -> ModelProfile:
    base = profile()
    return profile(traits=msgspec.structs.replace(base.traits, **changes))


def user(*blocks: Block) -> Message:
    return Message(role="user", content=blocks)


def assistant(*blocks: Block) -> Message:
    return Message(role="assistant", content=blocks)


def use(use_id: str, name: str = "search") -> ToolUseBlock:
    return ToolUseBlock(id=use_id, name=name, input={"q": 1})


def result(use_id: str, content: Any = "found") -> ToolResultBlock:
    return ToolResultBlock(tool_use_id=use_id, content=content)


def tool(name: str, description: str = "does it") -> ToolSpec:
    return ToolSpec(name=name, description=description, input_schema={"type": "object"})


def encode(asked: ModelCall, *, is_stream: bool = False) -> EncodedCall:
    return encode_call(asked, is_stream=is_stream)


def warned(encoded: EncodedCall, text: str) -> bool:
    return any(text in warning for warning in encoded.warnings)


def kinds(message: dict[str, Any]) -> list[str]:
    return [next(iter(block)) for block in message["content"]]


# Sampling

BOTH = Params(temperature=0.2, top_p=0.9)


def test_both_samplings_where_the_model_takes_both() -> None:
    encoded = encode(call(of=nova(), params=BOTH))
    assert encoded.params["inferenceConfig"] == {"temperature": 0.2, "topP": 0.9}
    assert encoded.warnings == ()


def test_temperature_alone_where_the_model_takes_one() -> None:
    encoded = encode(call(of=claude(), params=BOTH))
    assert encoded.params["inferenceConfig"] == {"temperature": 0.2}
    assert warned(encoded, "top_p was not sent")


def test_no_sampling_where_the_model_takes_none() -> None:
    encoded = encode(call(of=claude(sampling="none"), params=BOTH))
    assert "inferenceConfig" not in encoded.params
    assert warned(encoded, "no temperature")
    assert warned(encoded, "no top_p")


@pytest.mark.parametrize(
    ("model", "expected"),
    [(claude(), {"top_k": 20}), (nova(), {"inferenceConfig": {"topK": 20}}), (other(top_k=True), {"top_k": 20})],
    ids=["claude", "nova", "other"],
)
def test_top_k_in_the_familys_place(model: ModelProfile, expected: dict[str, Any]) -> None:
    encoded = encode(call(of=model, params=Params(top_k=20)))
    assert encoded.params["additionalModelRequestFields"] == expected


def test_top_k_that_the_model_does_not_take_is_named() -> None:
    encoded = encode(call(of=other(), params=Params(top_k=20)))
    assert "additionalModelRequestFields" not in encoded.params
    assert warned(encoded, "no top_k")


def test_max_tokens_is_bounded_by_the_model() -> None:
    encoded = encode(call(of=profile(max_output_tokens=100), params=Params(max_tokens=500)))
    assert encoded.params["inferenceConfig"] == {"maxTokens": 100}
    assert warned(encoded, "max_tokens was lowered")


# Reasoning


def test_budget_thinking() -> None:
    encoded = encode(
        call(
            of=claude(),
            reasoning=Reasoning(budget_tokens=2000),
            params=Params(max_tokens=8000, temperature=0.2, top_k=5),
        )
    )
    assert encoded.params["additionalModelRequestFields"] == {
        "thinking": {"type": "enabled", "budget_tokens": 2000}
    }
    assert encoded.params["inferenceConfig"] == {"maxTokens": 8000}
    assert warned(encoded, "temperature cannot be sent together with reasoning")
    assert warned(encoded, "top_k cannot be sent together with reasoning")


def test_budget_stays_below_max_tokens() -> None:
    encoded = encode(call(of=claude(), reasoning=Reasoning(budget_tokens=9000), params=Params(max_tokens=4000)))
    assert encoded.params["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 2000
    assert warned(encoded, "reasoning budget was set to 2000")


def test_no_room_for_a_budget() -> None:
    encoded = encode(call(of=claude(), reasoning=Reasoning(effort="low"), params=Params(max_tokens=500)))
    assert "additionalModelRequestFields" not in encoded.params
    assert warned(encoded, "reasoning was left off")


def test_adaptive_thinking_by_effort() -> None:
    encoded = encode(call(of=claude(reasoning="adaptive"), reasoning=Reasoning(effort="high")))
    assert encoded.params["additionalModelRequestFields"] == {
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
    }


def test_a_budget_for_an_adaptive_model_becomes_an_effort() -> None:
    encoded = encode(call(of=claude(reasoning="adaptive"), reasoning=Reasoning(budget_tokens=3000)))
    assert encoded.params["additionalModelRequestFields"]["output_config"] == {"effort": "medium"}
    assert warned(encoded, "'medium' was sent")


def test_nova_reasoning() -> None:
    encoded = encode(call(of=nova(reasoning="nova"), reasoning=Reasoning(effort="low"), params=BOTH))
    assert encoded.params["additionalModelRequestFields"] == {
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}
    }
    assert encoded.params["inferenceConfig"] == {"temperature": 0.2, "topP": 0.9}


def test_nova_at_high_effort_takes_no_other_settings() -> None:
    encoded = encode(
        call(of=nova(reasoning="nova"), reasoning=Reasoning(effort="high"), params=Params(max_tokens=9, top_k=2))
    )
    assert "inferenceConfig" not in encoded.params
    assert encoded.params["additionalModelRequestFields"] == {
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}
    }
    assert warned(encoded, "no maxTokens")
    assert warned(encoded, "no top_k")


@pytest.mark.parametrize("model", [other(), nova(), other(reasoning="always")], ids=["none", "inline", "always"])
def test_reasoning_that_cannot_be_asked_for_is_named(model: ModelProfile) -> None:
    encoded = encode(call(of=model, reasoning=Reasoning(effort="low")))
    assert "additionalModelRequestFields" not in encoded.params
    assert warned(encoded, "the wish for reasoning was not sent")


def test_reasoning_is_replayed_with_its_signature_only() -> None:
    told = (
        user(TextBlock(text="hi")),
        assistant(
            ReasoningBlock(text="mine", signature="sig"),
            ReasoningBlock(text="foreign"),
            ReasoningBlock(redacted=b"secret"),
            TextBlock(text="hello"),
        ),
        user(TextBlock(text="go on")),
    )
    encoded = encode(call(*told, of=claude()))
    assert encoded.params["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "mine", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": b"secret"}},
        {"text": "hello"},
    ]
    assert warned(encoded, "without a signature")


def test_nova_1_gets_no_reasoning_back() -> None:
    told = (
        user(TextBlock(text="hi")),
        assistant(ReasoningBlock(text="x"), TextBlock(text="y")),
        user(TextBlock(text="z")),
    )
    encoded = encode(call(*told, of=nova()))
    assert kinds(encoded.params["messages"][1]) == ["text"]
    assert warned(encoded, "takes no reasoning back")
    assert encoded.splits_thinking


def test_budget_thinking_stays_off_in_a_tool_loop_begun_without_it() -> None:
    told = (user(TextBlock(text="hi")), assistant(use("t1")), user(result("t1")))
    encoded = encode(call(*told, of=claude(), tools=(tool("search"),), reasoning=Reasoning(effort="low")))
    assert "additionalModelRequestFields" not in encoded.params
    assert warned(encoded, "tool calls under way were made without it")


# Tool choice


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("auto", None), ("any", {"any": {}}), (ToolChoice(name="search"), {"tool": {"name": "search"}})],
)
def test_tool_choice_reaches_the_model(choice: Any, expected: Any) -> None:
    encoded = encode(call(of=nova(), tools=(tool("search"),), tool_choice=choice))
    assert encoded.params["toolConfig"].get("toolChoice") == expected
    assert encoded.warnings == ()


def test_forced_choice_is_named_where_the_model_refuses_it() -> None:
    encoded = encode(call(of=claude(forced_tool="no"), tools=(tool("search"),), tool_choice="any"))
    assert "toolChoice" not in encoded.params["toolConfig"]
    assert warned(encoded, "tool_choice was sent as auto")


def test_forced_choice_gives_way_to_budget_thinking() -> None:
    encoded = encode(
        call(of=claude(), tools=(tool("search"),), tool_choice="any", reasoning=Reasoning(effort="low"))
    )
    assert "toolChoice" not in encoded.params["toolConfig"]
    assert warned(encoded, "tool_choice was sent as auto")


def test_choice_none_leaves_the_tools_out() -> None:
    assert "toolConfig" not in encode(call(tools=(tool("search"),), tool_choice="none")).params


def test_choice_none_keeps_the_tools_that_the_history_needs() -> None:
    told = (user(TextBlock(text="hi")), assistant(use("t1")), user(result("t1")))
    encoded = encode(call(*told, tools=(tool("search"),), tool_choice="none"))
    assert [spec["toolSpec"]["name"] for spec in encoded.params["toolConfig"]["tools"]] == ["search"]
    assert not encoded.takes_tools


def test_tools_of_the_history_are_declared_when_they_are_not_offered() -> None:
    told = (user(TextBlock(text="hi")), assistant(use("t1", "gone")), user(result("t1")))
    encoded = encode(call(*told))
    assert [spec["toolSpec"]["name"] for spec in encoded.params["toolConfig"]["tools"]] == ["gone"]
    assert warned(encoded, "gone")


def test_any_order_of_the_same_tools_gives_the_same_bytes() -> None:
    tools = [tool("b"), tool("a"), tool("c")]
    bodies = {
        msgspec.json.encode(encode(call(tools=tuple(order))).params)
        for order in (tools, tools[::-1], sorted(tools, key=lambda t: t.name))
    }
    assert len(bodies) == 1


def test_empty_tool_descriptions_are_left_out() -> None:
    spec = encode(call(tools=(tool("search", " "),))).params["toolConfig"]["tools"][0]["toolSpec"]
    assert spec == {"name": "search", "inputSchema": {"json": {"type": "object"}}}


def test_tool_names_are_mapped_reversibly() -> None:
    tools = (tool("llm.job"), tool("get-city"), tool("get_city"), tool("x" * 100))
    encoded = encode(call(of=nova(), tools=tools))
    sent = [spec["toolSpec"]["name"] for spec in encoded.params["toolConfig"]["tools"]]
    assert all(name.replace("_", "").isalnum() and len(name) <= 64 for name in sent)
    assert len(set(sent)) == 4
    assert {encoded.tool_names.get(name, name) for name in sent} == {spec.name for spec in tools}
    assert "get_city" in sent, "a plain name keeps its own"


def test_hyphens_stay_where_the_model_takes_them() -> None:
    encoded = encode(call(of=claude(), tools=(tool("get-city"),)))
    assert encoded.tool_names == {}


# Conversation


def test_parallel_results_go_into_one_message_in_the_order_of_the_calls() -> None:
    told = (
        user(TextBlock(text="hi")),
        assistant(use("t1"), use("t2"), use("t3")),
        user(result("t3")),
        user(TextBlock(text="and"), result("t1")),
        user(result("t2")),
    )
    sent = encode(call(*told, tools=(tool("search"),))).params["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert [block["toolResult"]["toolUseId"] for block in sent[2]["content"][:3]] == ["t1", "t2", "t3"]
    assert sent[2]["content"][3] == {"text": "and"}


def test_reasoning_after_a_tool_call_is_put_in_order() -> None:
    told = (
        user(TextBlock(text="hi")),
        assistant(use("t1"), TextBlock(text="text"), ReasoningBlock(text="why", signature="s")),
        user(result("t1")),
    )
    sent = encode(call(*told, of=claude(), tools=(tool("search"),))).params["messages"][1]
    assert kinds(sent) == ["reasoningContent", "text", "toolUse"]


def test_signed_reasoning_between_texts_stays_where_it_was() -> None:
    told = (
        user(TextBlock(text="hi")),
        assistant(
            ReasoningBlock(text="a", signature="s"),
            TextBlock(text="one"),
            ReasoningBlock(text="b", signature="s"),
            TextBlock(text="two"),
        ),
        user(TextBlock(text="go on")),
    )
    sent = encode(call(*told, of=claude())).params["messages"][1]
    assert kinds(sent) == ["reasoningContent", "text", "reasoningContent", "text"]


def test_empty_texts_are_dropped_and_turns_joined() -> None:
    told = (
        user(TextBlock(text="a")),
        assistant(TextBlock(text=" ")),
        user(TextBlock(text=""), TextBlock(text="b")),
    )
    sent = encode(call(*told)).params["messages"]
    assert sent == [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ((user(TextBlock(text=" ")),), "messages[0]"),
        ((assistant(TextBlock(text=" ")),), "messages"),
        ((user(use("t1")),), "messages[0].content[0]"),
        ((user(TextBlock(text="x")), assistant(PDF), user(TextBlock(text="y"))), "messages[1].content[0]"),
        (
            (user(ImageBlock(source=Source(object="cat.png"), format="png")),),
            "messages[0].content[0].source.object",
        ),
    ],
)
def test_what_no_change_can_mend_is_refused_by_its_path(told: tuple[Message, ...], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(call(*told))
    assert caught.value.path == path


def test_prefilled_answers() -> None:
    told = (user(TextBlock(text="hi")), assistant(TextBlock(text="The answer is ")))
    encoded = encode(call(*told, of=claude()))
    assert encoded.params["messages"][1]["content"] == [{"text": "The answer is"}]
    assert warned(encoded, "white space")
    with pytest.raises(InvalidRequest, match="prefilled"):
        encode(call(*told, of=claude(prefill=False)))


def test_novas_first_turn_must_be_the_users() -> None:
    told = (assistant(TextBlock(text="hi")), user(TextBlock(text="hello")))
    with pytest.raises(InvalidRequest) as caught:
        encode(call(*told, of=nova()))
    assert caught.value.path == "messages[0]"
    assert encode(call(*told, of=claude())).params["messages"][0]["role"] == "assistant"


def test_foreign_tool_use_ids_are_made_fit_on_both_sides() -> None:
    foreign = "call:1|" + "x" * 100
    told = (user(TextBlock(text="hi")), assistant(use(foreign), use("functions.get:0")), user(result(foreign)))
    for model, keeps in ((claude(), False), (other(), True)):
        sent = encode(call(*told, of=model, tools=(tool("search"),))).params["messages"]
        first, second = (block["toolUse"]["toolUseId"] for block in sent[1]["content"])
        assert len(first) <= 64
        assert "|" not in first
        assert sent[2]["content"][0]["toolResult"]["toolUseId"] == first
        assert (second == "functions.get:0") is keeps


def test_documents_get_plain_unique_names_and_a_text_beside_them() -> None:
    sent = encode(call(user(PDF, PDF))).params["messages"][0]
    assert kinds(sent) == ["text", "document", "document"]
    assert [block["document"]["name"] for block in sent["content"][1:]] == ["Report (v2) pdf", "Report (v2) pdf 2"]


def test_claude_gets_documents_of_tool_results_in_a_turn_of_their_own() -> None:
    told = (user(TextBlock(text="hi")), assistant(use("t1")), user(result("t1", (PDF,))))
    encoded = encode(call(*told, of=claude(), tools=(tool("search"),)))
    sent = encoded.params["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user", "assistant", "user"]
    assert kinds(sent[2]) == ["toolResult"]
    assert kinds(sent[4]) == ["text", "document"]
    assert warned(encoded, "sent beside them")


def test_nova_gets_documents_beside_tool_results() -> None:
    told = (user(TextBlock(text="hi")), assistant(use("t1")), user(result("t1", (PDF,))))
    sent = encode(call(*told, of=nova(), tools=(tool("search"),))).params["messages"]
    assert kinds(sent[2]) == ["toolResult", "text", "document"]
    assert "Report" in sent[2]["content"][0]["toolResult"]["content"][0]["text"]


def test_a_model_without_system_prompt_gets_it_in_the_first_message() -> None:
    encoded = encode(call("hi", of=other(system_prompt=False), system="Be brief."))
    assert encoded.params["messages"][0]["content"] == [{"text": "Be brief."}, {"text": "hi"}]
    assert "system" not in encoded.params
    assert warned(encoded, "no system prompt")


# Structured output


def test_native_structured_output() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    encoded = encode(call(of=claude(), output_schema=schema))
    sent = encoded.params["outputConfig"]["textFormat"]
    assert sent["type"] == "json_schema"
    strict = json.loads(sent["structure"]["jsonSchema"]["schema"])
    assert strict["additionalProperties"] is False
    assert strict["properties"]["n"] == {"type": "integer", "description": "minimum=1"}
    assert "toolConfig" not in encoded.params
    assert warned(encoded, "minimum")


def test_structured_output_by_a_forced_tool() -> None:
    encoded = encode(call(of=nova(), output_schema=SCHEMA))
    assert encoded.output_tool == "structured_output"
    assert encoded.params["toolConfig"]["toolChoice"] == {"tool": {"name": "structured_output"}}
    assert encoded.params["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": SCHEMA}


def test_structured_output_beside_tools_forces_any_of_them() -> None:
    encoded = encode(call(of=nova(), output_schema=SCHEMA, tools=(tool("structured_output"),)))
    assert encoded.output_tool == "structured_output_2"
    assert encoded.params["toolConfig"]["toolChoice"] == {"any": {}}


@pytest.mark.parametrize("model", [other(schema="none"), other(forced_tool="no")], ids=["none", "not forced"])
def test_structured_output_in_words_where_nothing_enforces_it(model: ModelProfile) -> None:
    encoded = encode(call(of=model, output_schema=SCHEMA))
    assert '"city"' in encoded.params["system"][0]["text"]
    assert warned(encoded, "asked for in words")


def test_strict_schema_reaches_into_every_corner() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b", "minLength": 2}}}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"maxItems": {"type": "array", "items": inner, "maxItems": 3, "minItems": 1}},
        "$defs": {"d": {"anyOf": [inner, {"type": "null"}]}},
        "additionalProperties": {"type": "string"},
    }
    strict, dropped = strict_schema(schema)
    closed = {
        "type": "object",
        "properties": {"x": {"type": "string", "description": "pattern=(?=a)b, minLength=2"}},
        "additionalProperties": False,
    }
    assert strict["properties"]["maxItems"]["items"] == closed
    assert strict["properties"]["maxItems"]["minItems"] == 1
    assert strict["$defs"]["d"]["anyOf"][0] == closed
    assert strict["additionalProperties"] is False
    assert "$schema" not in strict
    assert dropped == ["additionalProperties", "maxItems", "minLength", "pattern"]


# Cache points

LONG = "word " * 2000


def test_cache_points_where_they_pay() -> None:
    encoded = encode(
        call(LONG, of=claude(), system=LONG, tools=(ToolSpec(name="t", description=LONG, input_schema={}),))
    )
    assert "cachePoint" in encoded.params["toolConfig"]["tools"][-1]
    assert "cachePoint" in encoded.params["system"][-1]
    assert kinds(encoded.params["messages"][-1]) == ["text", "cachePoint"]


def test_no_cache_points_for_what_is_short_single_or_unwanted() -> None:
    assert "cachePoint" not in str(encode(call("hi", of=claude(), system="short")).params)
    assert "cachePoint" not in str(encode(call(LONG, of=claude())).params)
    assert "cachePoint" not in str(encode(call(LONG, of=claude(), system=LONG, cache="none")).params)
    assert "cachePoint" not in str(encode(call(LONG, of=other(), system=LONG)).params)


def test_nova_gets_no_cache_point_in_tools() -> None:
    encoded = encode(call(of=nova(), system=LONG, tools=(ToolSpec(name="t", description=LONG, input_schema={}),)))
    assert "cachePoint" not in str(encoded.params["toolConfig"])
    assert "cachePoint" in encoded.params["system"][-1]


def test_explicit_cache_points_stand_and_no_other_is_placed() -> None:
    told = user(TextBlock(text=LONG), CachePointBlock(ttl="1h"), TextBlock(text="now"))
    for cache in ("auto", "none"):
        encoded = encode(call(told, of=claude(), system=LONG, cache=cache))
        assert encoded.params["messages"][0]["content"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
        assert len(encoded.params["system"]) == 1


def test_explicit_cache_points_that_the_model_refuses_are_named() -> None:
    encoded = encode(call(user(TextBlock(text="a"), CachePointBlock()), of=other()))
    assert kinds(encoded.params["messages"][0]) == ["text"]
    assert warned(encoded, "no cache points")


def test_at_most_four_cache_points() -> None:
    blocks = [block for _ in range(6) for block in (TextBlock(text="a"), CachePointBlock())]
    encoded = encode(call(user(*blocks), of=claude()))
    assert kinds(encoded.params["messages"][0]) == ["text"] * 3 + ["cachePoint", "text"] * 3 + ["cachePoint"]
    assert warned(encoded, "2 oldest")


def test_no_cache_point_right_after_a_document() -> None:
    told = (user(TextBlock(text=LONG)), assistant(TextBlock(text="ok")), user(TextBlock(text="see"), PDF))
    sent = encode(call(*told, of=claude())).params["messages"][-1]
    assert kinds(sent) == ["text", "cachePoint", "document"]


# The rest


def test_guardrail_with_its_trace() -> None:
    asked = call(guardrail=Guardrail(id="gr1", version="2"))
    config = {"guardrailIdentifier": "gr1", "guardrailVersion": "2", "trace": "enabled"}
    assert encode(asked).params["guardrailConfig"] == config
    assert encode(asked, is_stream=True).params["guardrailConfig"] == {**config, "streamProcessingMode": "sync"}


def test_service_tier_where_the_model_has_it() -> None:
    model = profile(service_tiers=("default", "flex"))
    assert encode(call(of=model, service_tier="flex")).params["serviceTier"] == {"type": "flex"}
    encoded = encode(call(of=model, service_tier="priority"))
    assert "serviceTier" not in encoded.params
    assert warned(encoded, "'priority'")


def test_request_metadata_is_sorted_and_checked() -> None:
    encoded = encode(call(request_metadata={"b": "2", "a": "1", "bad": "naïve", "": "x"}))
    assert list(encoded.params["requestMetadata"].items()) == [("a", "1"), ("b", "2")]
    assert warned(encoded, "bad")
