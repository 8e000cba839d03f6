from typing import Any

import pytest

from sidecar.emulator.answer import sign_reasoning
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.quirks import check_quirks
from sidecar.emulator.traits import traits_of
from sidecar.emulator.validation import check_body

SONNET_3_7 = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
SONNET_4_5 = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SONNET_4_6 = "us.anthropic.claude-sonnet-4-6"
OPUS_4_7 = "global.anthropic.claude-opus-4-7"
NOVA_LITE = "us.amazon.nova-lite-v1:0"
NOVA_2 = "us.amazon.nova-2-lite-v1:0"


def tool(name: str = "search", **spec: Any) -> dict[str, Any]:
    return {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}, **spec}}


def use(tool_id: str = "tooluse_1", name: str = "search") -> dict[str, Any]:
    return {"toolUse": {"toolUseId": tool_id, "name": name, "input": {}}}


def result(tool_id: str = "tooluse_1", **extra: Any) -> dict[str, Any]:
    return {"toolResult": {"toolUseId": tool_id, "content": [{"text": "ok"}], **extra}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": b} if isinstance(b, str) else b for b in blocks]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"text": b} if isinstance(b, str) else b for b in blocks]}


TOOLS = {"tools": [tool()]}
TALK = [user("hi"), assistant(use()), user(result())]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "must have at least one message"),
        ({"messages": [user("a"), user("b")]}, "must alternate between user and assistant"),
        ({"messages": [user()]}, "messages.0 is empty"),
        ({"messages": [user("hi"), assistant(""), user("a")]}, "messages.1.content.0 is blank"),
        ({"messages": [user("hi")], "system": [{"text": ""}]}, "system.0 is blank"),
        ({"messages": TALK}, "toolConfig field must be defined"),
        (
            {"messages": [user("hi"), assistant(use("a"), use("b")), user(result("a"))], "toolConfig": TOOLS},
            "Expected toolResult blocks at messages.2.content for the following Ids: b",
        ),
        (
            {"messages": [user("hi"), assistant(use("a")), user(result("a"), result("b"))], "toolConfig": TOOLS},
            "exceeds the number of toolUse blocks",
        ),
        (
            {"messages": [user("hi"), assistant(use("a"), use("a")), user(result("a"))], "toolConfig": TOOLS},
            "duplicate Ids: a",
        ),
        (
            {"messages": [user("hi"), assistant(use("a b")), user(result("a b"))], "toolConfig": TOOLS},
            r"toolUse.toolUseId' failed to satisfy constraint",
        ),
        ({"messages": [user("hi")], "toolConfig": {"tools": [tool("a b")]}}, "regular expression pattern"),
        ({"messages": [user("hi")], "toolConfig": {"tools": [tool("")]}}, "greater than or equal to 1"),
        ({"messages": [user("hi")], "toolConfig": {"tools": [tool("x" * 65)]}}, "less than or equal to 64"),
        ({"messages": [user("hi")], "toolConfig": {"tools": [tool(description="")]}}, "description"),
        ({"messages": [user("hi")], "toolConfig": {"tools": [tool(), tool()]}}, "duplicate tool names"),
        (
            {"messages": [user("hi")], "toolConfig": {**TOOLS, "toolChoice": {"tool": {"name": "other"}}}},
            "not defined in toolConfig",
        ),
        ({"messages": [user("hi")], "inferenceConfig": {"maxTokens": 0}}, "inferenceConfig.maxTokens"),
        ({"messages": [user("hi")], "inferenceConfig": {"temperature": 1.5}}, "less than or equal to 1"),
        ({"messages": [user({"document": {"name": "a"}})]}, "without a text field"),
        ({"messages": [user("x", {"document": {"name": "a.pdf"}})]}, "alphanumeric"),
        ({"messages": [user("x", {"document": {"name": "a"}}, {"document": {"name": "a"}})]}, "must be unique"),
    ],
)
def test_the_service_refuses(body: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        check_body(body)
    assert (refused.value.kind.error_type, refused.value.kind.status) == ("ValidationException", 400)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [user("hi")]},
        {"messages": TALK, "toolConfig": TOOLS},
        {"messages": [user("hi"), assistant("pre")], "inferenceConfig": {"maxTokens": 5, "temperature": 0}},
        {"messages": [user("x", {"document": {"name": "Report (1)"}})]},
    ],
)
def test_the_service_takes_what_is_right(body: dict[str, Any]) -> None:
    check_body(body)


def thinking(**fields: Any) -> dict[str, Any]:
    return {"additionalModelRequestFields": {"thinking": fields}}


SAMPLING = {"inferenceConfig": {"temperature": 0.5, "topP": 0.9}}
FORCED = {"toolConfig": {**TOOLS, "toolChoice": {"any": {}}}}
BUDGET = thinking(type="enabled", budget_tokens=2_000)
PREFILL = {"messages": [user("hi"), assistant("I say")]}
REASONING = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": sign_reasoning("hm")}}}
CHANGED = {"reasoningContent": {"reasoningText": {"text": "ha", "signature": sign_reasoning("hm")}}}
UNSIGNED = {"reasoningContent": {"reasoningText": {"text": "hm"}}}
STORED = {"document": {"name": "a", "format": "pdf", "source": {"s3Location": {"uri": "s3://b/a.pdf"}}}}
DOCUMENT = {"document": {"name": "a", "format": "pdf", "source": {"bytes": ""}}}


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        (SONNET_4_5, SAMPLING, "`temperature` and `top_p` cannot both be specified"),
        (OPUS_4_7, {"inferenceConfig": {"temperature": 0.5}}, "`temperature` is deprecated"),
        (OPUS_4_7, BUDGET, "thinking.type.enabled"),
        (SONNET_4_5, thinking(type="enabled", budget_tokens=10), "greater than or equal to 1024"),
        (SONNET_4_5, {**BUDGET, "inferenceConfig": {"maxTokens": 1_500}}, "must be greater than"),
        (SONNET_4_5, {**BUDGET, "inferenceConfig": {"temperature": 0.5}}, "only be set to 1"),
        (SONNET_4_5, {**BUDGET, **FORCED}, "forces tool use"),
        (SONNET_4_5, {**BUDGET, "messages": TALK}, "must start with a thinking block"),
        (SONNET_4_6, PREFILL, "does not support assistant message prefill"),
        (SONNET_4_5, {"messages": [user("hi"), assistant("I ")]}, "trailing whitespace"),
        (SONNET_4_5, {"messages": [user("a"), assistant(CHANGED), user("b")]}, "Invalid `signature`"),
        (SONNET_4_5, {"messages": [user("a"), assistant(UNSIGNED), user("b")]}, "signature: Field required"),
        (
            SONNET_4_5,
            {"messages": [user("a", STORED)]},
            "messages.0.content.1.document.source.type: Field required",
        ),
        (SONNET_4_5, {"messages": [user("a", {"video": {}})]}, "video content block"),
        (SONNET_4_5, {"messages": [user({"image": {"source": {"s3Location": {}}}})]}, "s3Uri"),
        (NOVA_LITE, {"messages": [assistant("hi"), user("a")]}, "must start with a user message"),
        (NOVA_LITE, {"toolConfig": {"tools": [tool(), {"cachePoint": {"type": "default"}}]}}, "cachePoint"),
        (NOVA_LITE, {"messages": [user("a"), assistant(REASONING), user("b")]}, "reasoningContent"),
        (NOVA_LITE, {"messages": [user({"toolResult": {"content": [DOCUMENT]}})]}, "extraneous key .toolResult."),
        (SONNET_3_7, {"inferenceConfig": {"maxTokens": 64_001}}, "exceeds the model limit of 64000"),
    ],
)
def test_a_model_refuses(model: str, body: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        check_quirks({"messages": [user("hi")], **body}, traits_of(model), input_tokens=10)
    assert refused.value.kind.error_type == "ValidationException"


def test_hyphens_break_novas_tools() -> None:
    with pytest.raises(Refusal, match="invalid sequence as part of ToolUse") as refused:
        check_quirks({"toolConfig": {"tools": [tool("get-weather")]}}, traits_of(NOVA_LITE), input_tokens=1)
    assert (refused.value.kind.error_type, refused.value.kind.status) == ("ModelErrorException", 424)


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (SONNET_3_7, SAMPLING),
        (NOVA_LITE, SAMPLING),
        (SONNET_4_5, {**BUDGET, "messages": [user("hi"), assistant(REASONING, use()), user(result())]}),
        (SONNET_4_5, PREFILL),
        (SONNET_4_5, {"messages": [assistant("hi"), user("a")]}),
        (SONNET_4_5, {"messages": [user("a"), assistant(use()), user(result(), "see", DOCUMENT)]}),
        (SONNET_4_5, FORCED),
        (NOVA_2, {"messages": [user("a"), assistant(REASONING), user("b")]}),
        (SONNET_4_5, {"toolConfig": {"tools": [tool("get-weather"), {"cachePoint": {"type": "default"}}]}}),
    ],
)
def test_a_model_takes_what_it_takes(model: str, body: dict[str, Any]) -> None:
    check_quirks({"messages": [user("hi")], **body}, traits_of(model), input_tokens=10)


@pytest.mark.parametrize(
    ("model", "tokens", "words"),
    [
        (SONNET_4_5, 200_001, "prompt is too long: 200001 tokens > 200000 maximum"),
        (NOVA_LITE, 300_001, "Number of input tokens exceeds maximum length"),
        ("meta.llama3-70b-instruct-v1:0", 128_001, "Input is too long for requested model."),
    ],
)
def test_too_long_an_input_is_refused_in_the_models_words(model: str, tokens: int, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        check_quirks({"messages": [user("hi")]}, traits_of(model), input_tokens=tokens)


@pytest.mark.parametrize(
    ("model_id", "base", "family", "version"),
    [
        (SONNET_3_7, "anthropic.claude-3-7-sonnet-20250219-v1:0", "claude", (3, 7)),
        (SONNET_4_5, "anthropic.claude-sonnet-4-5-20250929-v1:0", "claude", (4, 5)),
        ("anthropic.claude-sonnet-4-20250514-v1:0", "anthropic.claude-sonnet-4-20250514-v1:0", "claude", (4, 0)),
        (OPUS_4_7, "anthropic.claude-opus-4-7", "claude", (4, 7)),
        ("anthropic.claude-v2", "anthropic.claude-v2", "claude", (0, 0)),
        ("eu.anthropic.claude-opus-5-v1:0", "anthropic.claude-opus-5-v1:0", "claude", (5, 0)),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-2-lite-v1:0",
            "amazon.nova-2-lite-v1:0",
            "nova",
            (2, 0),
        ),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0",
            "amazon.nova-pro-v1:0",
            "nova",
            (1, 0),
        ),
        ("us.meta.llama4-maverick-17b-instruct-v1:0", "meta.llama4-maverick-17b-instruct-v1:0", "llama", (0, 0)),
    ],
)
def test_a_model_id_tells_family_and_version(model_id: str, base: str, family: str, version: Any) -> None:
    traits = traits_of(model_id)
    assert (traits.base_id, traits.family, traits.version) == (base, family, version)
