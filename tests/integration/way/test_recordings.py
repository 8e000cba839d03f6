"""Every recorded exchange with Bedrock, through the whole way of a job to its result."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.config.settings import BedrockSettings, Policy
from sidecar.coordinator.service import Coordinator
from sidecar.models.result import Result
from tests.support.bedrock_recordings import Recording, ReplayServer, load_recordings, recordings_or_skip
from tests.support.recorded_requests import STOP_REASONS, Answered, Translation, answered
from tests.support.way import texts, way

REGIONS = ("us-east-1", "us-west-2", "us-east-2", "eu-west-1", "eu-north-1", "ap-northeast-1")
# What the protocol has no words for. Where a recorded request holds such, the rest of it is sent, and the recorded
# answer is replayed all the same.
NOT_EXPRESSED = {
    "image s3Location": "objects in the tenant's bucket take its place",
    "document s3Location": "objects in the tenant's bucket take its place",
    "video s3Location": "no video in the protocol",
    "video": "no video in the protocol",
    "systemTool": "tools that the service runs itself",
    "toolUse": "calls of tools that the service ran itself",
    "toolResult nova_code_interpreter_result": "results of tools that the service ran itself",
    "strict": "a tool's schema is sent as the client gave it",
    "assistant first": "a conversation begins with the user, as most models ask",
    "performanceConfig": "no latency mode in the protocol",
    "system in parts": "the system prompt is one text",
    "cache point in system or tools: cache auto places them": "points stand in messages only",
}


@pytest.fixture
async def server() -> AsyncIterator[ReplayServer]:
    async with ReplayServer() as replaying:
        yield replaying


def models_of(recording: Recording) -> dict[str, Any]:
    """What the catalogue does not know, or trusts with little, has to be configured, as by a user."""
    known = Coordinator(policy=Policy(), bedrock=BedrockSettings(regions=REGIONS)).profile(recording.model_id)
    if recording.status != 200 or (known is not None and known.family != "other"):
        return {}
    able = ["tools", "images", "documents", "reasoning", "structured_output", "streaming"]
    model = {"id": recording.model_id, "fallback": [], "capabilities": able}
    return {"recorded": {**model, "base": "claude-sonnet-4-5"} if "arn:" in recording.model_id else model}


def calls_of(result: Result) -> list[tuple[str, Any]]:
    return [
        (block["name"], block.get("input", {})) for block in result.output.content if block["type"] == "tool_use"
    ]


def reasoning_of(result: Result) -> str:
    return "".join(block.get("text") or "" for block in result.output.content if block["type"] == "reasoning")


def assert_same(result: Result, said: Answered) -> None:
    assert result.error is None
    assert result.state == "succeeded"
    if "<thinking>" in said.text:
        said.split_thinking()
        assert result.output.text.strip() == said.text.strip()
        assert "".join(reasoning_of(result).split()) == "".join(said.reasoning.split())
    else:
        assert result.output.text == said.text
        assert reasoning_of(result) == said.reasoning
    assert calls_of(result) == said.tool_calls
    assert result.stop_reason == STOP_REASONS.get(said.stop_reason, "other")
    assert result.usage_basis == "observed"
    assert result.usage.input_tokens == said.usage["inputTokens"]
    assert result.usage.output_tokens == said.usage["outputTokens"]
    assert result.usage.cache_read_tokens == said.usage.get("cacheReadInputTokens", 0)
    assert result.usage.cache_write_tokens == said.usage.get("cacheWriteInputTokens", 0)
    assert result.partial is False


@pytest.mark.parametrize("recording", recordings_or_skip())
async def test_recorded_exchange_ends_in_the_recorded_result(recording: Recording, server: ReplayServer) -> None:
    server.current = recording
    asked = Translation(recording)
    async with way(server.url, bedrock={"regions": REGIONS}, models_policy=models_of(recording)) as on:
        job = await on.submit(**asked.request)
        result = await on.result(job)
        if recording.status != 200:
            said = json.loads(recording.response)["message"]
            assert result.state in ("failed", "rejected")
            assert result.error is not None
            assert result.error.code == ("unknown_model" if "identifier is invalid" in said else "invalid_request")
            return
        said = answered(recording)
        assert_same(result, said)
        if recording.is_stream:
            assert texts(await on.events(job), attempt=1) == result.output.text
        assert len(server.requests) == 1
        check_sent(json.loads(server.requests[0][1]), recording)


def check_sent(sent: dict[str, Any], recording: Recording) -> None:
    """The request that reached the wire holds what the recorded one held: the conversation and its tools."""
    assert texts_in(recording.request) <= texts_in(sent)
    tools = recording.request.get("toolConfig", {}).get("tools", [])
    names = {tool["toolSpec"]["name"].replace("-", "_") for tool in tools if "toolSpec" in tool}
    sent_tools = sent.get("toolConfig", {}).get("tools", [])
    assert names <= {t["toolSpec"]["name"].replace("-", "_") for t in sent_tools if "toolSpec" in t}


def texts_in(request: dict[str, Any]) -> Counter[str]:
    found = [block["text"] for message in request["messages"] for block in message["content"] if "text" in block]
    return Counter(text for text in found if text.strip())


def test_most_recorded_requests_can_be_said_in_the_protocol() -> None:
    recordings = load_recordings()
    if not recordings:
        pytest.skip("no recordings beside the repository (../shared/recordings)")
    assert set().union(*(Translation(r).left_out for r in recordings)) <= NOT_EXPRESSED.keys()
    whole = [r for r in recordings if not Translation(r).left_out]
    assert len(whole) >= 0.8 * len(recordings)
