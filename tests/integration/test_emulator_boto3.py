"""boto3 itself, unchanged, against the emulator in a process of its own."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError

from tests.support.bedrock_checks import HAPPY_PATH, collect
from tests.support.emulator import CLAUDE, NOVA, EmulatorProcess, make_boto3, spawn_emulator, user

TOOL = {
    "toolSpec": {
        "name": "search",
        "description": "Search",
        "inputSchema": {
            "json": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
        },
    }
}
HTTP_EXCEPTIONS = {
    "throttling": ("ThrottlingException", 429),
    "daily_tokens": ("ThrottlingException", 429),
    "model_not_ready": ("ModelNotReadyException", 429),
    "internal": ("InternalServerException", 500),
    "unavailable": ("ServiceUnavailableException", 503),
    "model_timeout": ("ModelTimeoutException", 408),
    "model_error": ("ModelErrorException", 424),
    "validation": ("ValidationException", 400),
    "overflow": ("ValidationException", 400),
    "service_quota": ("ServiceQuotaExceededException", 400),
    "access_denied": ("AccessDeniedException", 403),
    "not_found": ("ResourceNotFoundException", 404),
}
STREAM_EXCEPTIONS = {
    "internal": "internalServerException",
    "model_stream_error": "modelStreamErrorException",
    "validation": "validationException",
    "throttling": "throttlingException",
    "unavailable": "serviceUnavailableException",
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    with spawn_emulator() as process:
        yield process


@pytest.fixture(scope="module")
def bedrock(emulator: EmulatorProcess) -> Iterator[Any]:
    client = make_boto3(emulator.url)
    yield client
    client.close()


@pytest.mark.parametrize("check", HAPPY_PATH, ids=lambda check: check.__name__)
def test_happy_path(check: Any, bedrock: Any) -> None:
    check(bedrock)


@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
@pytest.mark.parametrize("fault", sorted(HTTP_EXCEPTIONS))
def test_every_exception_arrives_as_its_class(bedrock: Any, fault: str, operation: str) -> None:
    name, status = HTTP_EXCEPTIONS[fault]
    # The model lists ServiceQuotaExceeded for other operations only: botocore knows no class for it here.
    kind = getattr(bedrock.exceptions, name, ClientError)
    with pytest.raises(kind) as raised:
        getattr(bedrock, operation)(modelId=CLAUDE, messages=user(f"[[fault={fault} retry_after=2]]"))
    assert raised.value.response["Error"]["Code"] == name
    metadata = raised.value.response["ResponseMetadata"]
    assert metadata["HTTPStatusCode"] == status
    assert metadata["HTTPHeaders"]["retry-after"] == "2"
    assert metadata["RequestId"]


@pytest.mark.parametrize("fault", sorted(STREAM_EXCEPTIONS))
@pytest.mark.parametrize("at", ["0", "mid", "stop"])
def test_every_exception_arrives_inside_a_stream(bedrock: Any, fault: str, at: str) -> None:
    stream = bedrock.converse_stream(modelId=CLAUDE, messages=user(f"[[fault={fault} at={at}]]"))["stream"]
    seen: list[str] = []
    with closing(stream), pytest.raises(EventStreamError) as raised:
        seen.extend(kind for event in stream for kind in event)
    assert raised.value.response["Error"]["Code"] == STREAM_EXCEPTIONS[fault]
    assert ("messageStop" in seen) == (at == "stop")
    assert bool(seen) == (at != "0")


def test_a_tool_is_called_and_its_result_answered(bedrock: Any) -> None:
    config = {"tools": [TOOL]}
    messages = user('[[tool=search input={"q":"rain"}]] [[tool=search input={"q":"sun"}]] Weather?')
    reply = bedrock.converse(modelId=CLAUDE, messages=messages, toolConfig=config)
    assert reply["stopReason"] == "tool_use"
    calls = [block["toolUse"] for block in reply["output"]["message"]["content"]]
    assert [call["input"] for call in calls] == [{"q": "rain"}, {"q": "sun"}]
    results = [
        {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": f"result of {call['input']['q']}"}]}}
        for call in calls
    ]
    messages += [reply["output"]["message"], {"role": "user", "content": results}]
    answer = bedrock.converse(modelId=CLAUDE, messages=messages, toolConfig=config)
    assert answer["stopReason"] == "end_turn"
    text = answer["output"]["message"]["content"][0]["text"]
    assert "result of rain" in text
    assert "result of sun" in text


def test_a_stream_of_a_tool_call_carries_its_arguments_in_pieces(bedrock: Any) -> None:
    stream = bedrock.converse_stream(
        modelId=NOVA,
        messages=user('[[tool=search input={"q":"a rather long question"} chunk_tokens=2]]'),
        toolConfig={"tools": [TOOL]},
    )["stream"]
    with closing(stream):
        events = list(stream)
    [start] = [event["contentBlockStart"] for event in events if "contentBlockStart" in event]
    assert start["start"]["toolUse"]["name"] == "search"
    pieces = [e["contentBlockDelta"]["delta"]["toolUse"]["input"] for e in events if "contentBlockDelta" in e]
    assert len(pieces) > 2
    assert json.loads("".join(pieces)) == {"q": "a rather long question"}


def test_a_forced_tool_gets_arguments_of_its_schema(bedrock: Any) -> None:
    reply = bedrock.converse(
        modelId=CLAUDE,
        messages=user("go"),
        toolConfig={"tools": [TOOL], "toolChoice": {"tool": {"name": "search"}}},
    )
    assert isinstance(reply["output"]["message"]["content"][0]["toolUse"]["input"]["q"], str)


def test_structured_output_is_an_instance_of_its_schema(bedrock: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    text_format = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(schema)}}}
    reply = bedrock.converse(modelId=CLAUDE, messages=user("go"), outputConfig={"textFormat": text_format})
    assert json.loads(reply["output"]["message"]["content"][0]["text"]) == {"n": 1}


def test_reasoning_comes_signed_in_both_operations(bedrock: Any) -> None:
    request = {"modelId": CLAUDE, "messages": user('[[reasoning="because" text="so"]]')}
    content = bedrock.converse(**request)["output"]["message"]["content"]
    assert content[0]["reasoningContent"]["reasoningText"]["text"] == "because"
    streamed = collect(bedrock.converse_stream(**request))
    assert streamed.reasoning == "because"
    assert streamed.signature == content[0]["reasoningContent"]["reasoningText"]["signature"]
    assert streamed.text == "so"


def test_redacted_reasoning_is_bytes(bedrock: Any) -> None:
    reply = bedrock.converse(modelId=CLAUDE, messages=user("[[reasoning=20 redacted]]"))
    assert isinstance(reply["output"]["message"]["content"][0]["reasoningContent"]["redactedContent"], bytes)


def test_citations_come_as_a_block(bedrock: Any) -> None:
    reply = bedrock.converse(modelId=CLAUDE, messages=user('[[citations text="cited"]]'))
    block = reply["output"]["message"]["content"][0]["citationsContent"]
    assert block["content"] == [{"text": "cited"}]
    assert block["citations"][0]["title"]
    assert (
        collect(bedrock.converse_stream(modelId=CLAUDE, messages=user('[[citations text="cited"]]'))).text
        == "cited"
    )


@pytest.mark.parametrize(("mode", "stop"), [("block", "guardrail_intervened"), ("mask", "guardrail_intervened")])
def test_a_guardrail_intervenes_with_its_trace(bedrock: Any, mode: str, stop: str) -> None:
    guardrail = {"guardrailIdentifier": "abc123", "guardrailVersion": "1", "trace": "enabled"}
    request = {"modelId": NOVA, "messages": user(f'[[guardrail={mode} text="Ann is here"]]')}
    reply = bedrock.converse(**request, guardrailConfig=guardrail)
    assert reply["stopReason"] == stop
    assert "Ann" not in reply["output"]["message"]["content"][0]["text"]
    assert "abc123" in reply["trace"]["guardrail"]["inputAssessment"]
    streamed = collect(bedrock.converse_stream(**request, guardrailConfig=guardrail))
    assert streamed.stop_reason == stop
    assert "abc123" in streamed.metadata["trace"]["guardrail"]["inputAssessment"]


def test_apply_guardrail(bedrock: Any) -> None:
    def apply(text: str) -> Any:
        return bedrock.apply_guardrail(
            guardrailIdentifier="abc", guardrailVersion="1", source="INPUT", content=[{"text": {"text": text}}]
        )

    assert apply("hello")["action"] == "NONE"
    blocked = apply("hello [[guardrail=block]]")
    assert blocked["action"] == "GUARDRAIL_INTERVENED"
    assert blocked["outputs"][0]["text"]


def test_counted_tokens_are_those_of_the_usage(bedrock: Any) -> None:
    body = {"messages": user("How many?"), "system": [{"text": "Be brief."}]}
    counted = bedrock.count_tokens(modelId=NOVA, input={"converse": body})["inputTokens"]
    assert bedrock.converse(modelId=NOVA, **body)["usage"]["inputTokens"] == counted


def test_a_cached_prompt_is_written_then_read(bedrock: Any) -> None:
    system = [{"text": "once upon a time " * 400}, {"cachePoint": {"type": "default"}}]
    usages = [bedrock.converse(modelId=CLAUDE, messages=user("hi"), system=system)["usage"] for _ in range(2)]
    assert usages[0]["cacheWriteInputTokens"] == usages[1]["cacheReadInputTokens"] > 1_000
    assert usages[0]["cacheReadInputTokens"] == usages[1]["cacheWriteInputTokens"] == 0
    assert all(
        u["totalTokens"] == sum(u[k] for k in u if k.endswith("Tokens") and k != "totalTokens") for u in usages
    )


@pytest.mark.parametrize(
    "model_id",
    [
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f",
    ],
)
def test_arns_are_model_ids(bedrock: Any, model_id: str) -> None:
    assert bedrock.converse(modelId=model_id, messages=user("hi"))["stopReason"] == "end_turn"


@pytest.mark.parametrize("model_id", ["us.does-not-exist-model-v1:0", "us.amazon.nova-micro-v1:O"])
def test_unknown_models_are_refused(bedrock: Any, model_id: str) -> None:
    with pytest.raises(bedrock.exceptions.ValidationException, match="model identifier is invalid"):
        bedrock.converse(modelId=model_id, messages=user("hi"))


def test_a_fault_may_strike_only_the_first_calls_and_only_one_model(bedrock: Any) -> None:
    prompt = user("[[fault=unavailable times=1]] [[fault=throttling model=claude]] once")
    with pytest.raises(bedrock.exceptions.ServiceUnavailableException):
        bedrock.converse(modelId=NOVA, messages=prompt)
    assert bedrock.converse(modelId=NOVA, messages=prompt)["stopReason"] == "end_turn"
    with pytest.raises(bedrock.exceptions.ThrottlingException):
        bedrock.converse(modelId=CLAUDE, messages=prompt)


def test_the_control_plane_lists_models_and_profiles(emulator: EmulatorProcess) -> None:
    bedrock = make_boto3(emulator.url, service="bedrock", region="eu-west-1")
    models = [model["modelId"] for model in bedrock.list_foundation_models()["modelSummaries"]]
    assert "amazon.nova-lite-v1:0" in models
    details = bedrock.get_foundation_model(modelIdentifier="amazon.nova-lite-v1:0")["modelDetails"]
    assert details["responseStreamingSupported"] is True
    profiles = bedrock.list_inference_profiles()["inferenceProfileSummaries"]
    assert "eu.amazon.nova-lite-v1:0" in [profile["inferenceProfileId"] for profile in profiles]
    profile = bedrock.get_inference_profile(inferenceProfileIdentifier="eu.amazon.nova-lite-v1:0")
    assert all(model["modelArn"].endswith("/amazon.nova-lite-v1:0") for model in profile["models"])
    with pytest.raises(bedrock.exceptions.ResourceNotFoundException):
        bedrock.get_inference_profile(inferenceProfileIdentifier="eu.nobody.knows-v1:0")
    bedrock.close()
