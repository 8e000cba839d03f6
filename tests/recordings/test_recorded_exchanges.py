"""Every recorded exchange, replayed over HTTP through both transports, against what boto3 itself reads."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
import pytest_asyncio
from botocore.config import Config
from botocore.exceptions import ClientError

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.errors import InvalidRequest, Permanent, SidecarError
from sidecar.models.call import ModelReply
from sidecar.models.content import OtherBlock, ReasoningBlock
from tests.support.bedrock_calls import TRANSPORTS, call, collect, manager, profile, text_of, tool_calls_of
from tests.support.bedrock_recordings import Recording, ReplayServer, recordings_or_skip

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Oracle:
    """What boto3 made of an exchange, folded without the product's code."""

    text: str = ""
    tool_calls: list[tuple[str, str, Any]] = field(default_factory=list)
    reasoning: str = ""
    signatures: list[str] = field(default_factory=list)
    redacted: bytes = b""
    server_blocks: int = 0
    stop_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    error: str = ""

    def take_block(self, block: dict[str, Any]) -> None:
        if "text" in block:
            self.text += block["text"]
        elif "toolUse" in block and block["toolUse"].get("type") != "server_tool_use":
            use = block["toolUse"]
            self.tool_calls.append((use["toolUseId"], use["name"], use["input"]))
        elif "reasoningContent" in block:
            thought = block["reasoningContent"]
            self.reasoning += thought.get("reasoningText", {}).get("text", "")
            if "signature" in thought.get("reasoningText", {}):
                self.signatures.append(thought["reasoningText"]["signature"])
            self.redacted += thought.get("redactedContent", b"")
        else:
            self.server_blocks += 1


def fold_stream(events: list[dict[str, Any]]) -> Oracle:
    oracle = Oracle()
    open_tools: dict[int, dict[str, Any]] = {}
    signatures: dict[int, str] = {}
    for event in events:
        kind, body = next(iter(event.items()))
        index = body.get("contentBlockIndex", -1)
        if kind == "contentBlockStart":
            use = body["start"].get("toolUse")
            if use and use.get("type") != "server_tool_use":
                open_tools[index] = {**use, "input": ""}
            else:
                oracle.server_blocks += 1
        elif kind == "contentBlockDelta":
            delta = body["delta"]
            oracle.text += delta.get("text", "")
            if index in open_tools:
                open_tools[index]["input"] += delta["toolUse"]["input"]
            thought = delta.get("reasoningContent", {})
            oracle.reasoning += thought.get("text", "")
            oracle.redacted += thought.get("redactedContent", b"")
            if "signature" in thought:
                signatures[index] = signatures.get(index, "") + thought["signature"]
        elif kind == "messageStop":
            oracle.stop_reason = body["stopReason"]
        elif kind == "metadata":
            oracle.usage = body["usage"]
    oracle.signatures = list(signatures.values())
    oracle.tool_calls = [
        (use["toolUseId"], use["name"], json.loads(use["input"] or "{}")) for use in open_tools.values()
    ]
    return oracle


def ask_boto3(client: Any, recording: Recording) -> Oracle:
    asked = {"modelId": recording.model_id, "messages": [{"role": "user", "content": [{"text": "hello"}]}]}
    try:
        if recording.is_stream:
            return fold_stream(list(client.converse_stream(**asked)["stream"]))
        answer = client.converse(**asked)
    except ClientError as error:
        return Oracle(error=error.response["Error"]["Message"])
    oracle = Oracle(stop_reason=answer["stopReason"], usage=answer["usage"])
    for block in answer["output"]["message"]["content"]:
        oracle.take_block(block)
    return oracle


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[ReplayServer]:
    async with ReplayServer() as replaying:
        yield replaying


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=TRANSPORTS)
async def client(request: pytest.FixtureRequest, server: ReplayServer) -> AsyncIterator[BedrockManager]:
    async with manager(server.url, request.param) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def boto3_client(server: ReplayServer) -> AsyncIterator[Any]:
    opened = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield opened
    opened.close()


@pytest.mark.parametrize("recording", recordings_or_skip())
async def test_recorded_exchange_reads_as_boto3_reads_it(
    recording: Recording, client: BedrockManager, boto3_client: Any, server: ReplayServer
) -> None:
    server.current = recording
    oracle = await asyncio.to_thread(ask_boto3, boto3_client, recording)
    asked = call(of=profile(model_id=recording.model_id))
    if oracle.error:
        with pytest.raises(SidecarError) as caught:
            await client.converse(asked)
        assert_same_error(caught.value, oracle.error)
        return
    if recording.is_stream:
        deltas, reply = await collect(client, asked)
        assert "".join(delta.text or "" for delta in deltas) == oracle.text
        assert "".join(delta.reasoning or "" for delta in deltas) == oracle.reasoning
    else:
        reply = await client.converse(asked)
    assert_same_answer(reply, oracle)


def assert_same_error(error: SidecarError, message: str) -> None:
    assert message in error.message
    assert error.details["http_status"] == 400
    assert not error.is_retryable
    if "model identifier is invalid" in message:
        assert isinstance(error, Permanent)
        assert error.code == "unknown_model"
    else:
        assert isinstance(error, InvalidRequest)


def assert_same_answer(reply: ModelReply, oracle: Oracle) -> None:
    assert text_of(reply) == oracle.text
    assert tool_calls_of(reply) == oracle.tool_calls
    thoughts = [block for block in reply.content if isinstance(block, ReasoningBlock)]
    assert "".join(block.text or "" for block in thoughts) == oracle.reasoning
    assert [block.signature for block in thoughts if block.signature] == oracle.signatures
    assert b"".join(block.redacted or b"" for block in thoughts) == oracle.redacted
    assert sum(isinstance(block, OtherBlock) for block in reply.content) == oracle.server_blocks
    assert reply.raw_stop_reason == oracle.stop_reason
    assert reply.usage_basis == "observed"
    assert reply.usage.input_tokens == oracle.usage["inputTokens"]
    assert reply.usage.output_tokens == oracle.usage["outputTokens"]
    assert reply.usage.cache_read_tokens == oracle.usage.get("cacheReadInputTokens", 0)
    assert reply.usage.cache_write_tokens == oracle.usage.get("cacheWriteInputTokens", 0)


@pytest.mark.parametrize("recording", recordings_or_skip())
async def test_the_model_id_reaches_the_wire_as_boto3_encodes_it(
    recording: Recording, client: BedrockManager, boto3_client: Any, server: ReplayServer
) -> None:
    server.current = recording
    await asyncio.to_thread(ask_boto3, boto3_client, recording)
    asked = call(of=profile(model_id=recording.model_id))
    try:
        await (collect(client, asked) if recording.is_stream else client.converse(asked))
    except SidecarError:
        assert recording.status == 400
    (oracle_path, oracle_body), (path, body) = server.requests[-2:]
    assert path == oracle_path
    assert json.loads(body) == json.loads(oracle_body)
