"""Cancelling and limits: the connection closes at once, whatever the call is waiting for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.errors import CallTimeout, ModelFailed
from sidecar.models.call import ModelReply, ToolSpec
from sidecar.models.profile import Traits
from tests.support.bedrock_calls import TRANSPORTS, call, collect, limits, manager, outcome, profile, text_of
from tests.support.raw_bedrock import (
    METADATA,
    START,
    STOP,
    STREAM_HEAD,
    RawBedrock,
    answer,
    chunk,
    event,
    raw_bedrock,
    response,
    sends,
    streams,
    text,
    then_hangs,
    tool,
)

PATIENCE_S = 20


@pytest.fixture
async def raw() -> AsyncIterator[RawBedrock]:
    async with raw_bedrock() as server:
        yield server


@pytest.fixture(params=TRANSPORTS)
async def client(request: pytest.FixtureRequest, raw: RawBedrock) -> AsyncIterator[BedrockManager]:
    async with manager(raw.url, request.param) as opened:
        yield opened


STAGES = {
    "before headers": then_hangs(sends()),
    "after headers": then_hangs(sends(STREAM_HEAD)),
    "in the middle": then_hangs(streams(START, text("Hello"), is_ended=False)),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_cancelled_stream_closes_its_connection(
    stage: str, raw: RawBedrock, client: BedrockManager
) -> None:
    raw.script = STAGES[stage]
    asked = call(limits=limits(first_token_s=500, idle_s=500, total_s=1000))
    task = asyncio.create_task(collect(client, asked))
    await asyncio.wait_for(raw.received.wait(), PATIENCE_S)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(raw.disconnected.wait(), PATIENCE_S)


async def test_a_cancelled_whole_call_closes_its_connection(raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = then_hangs(sends())
    task = asyncio.create_task(client.converse(call(limits=limits(total_s=1000))))
    await asyncio.wait_for(raw.received.wait(), PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(raw.disconnected.wait(), PATIENCE_S)


async def test_a_stream_left_early_closes_its_connection(raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = then_hangs(streams(START, text("Hello"), is_ended=False))
    stream = client.stream(call())
    assert await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(raw.disconnected.wait(), PATIENCE_S)


async def test_an_expired_limit_closes_the_connection(raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = then_hangs(streams(START, text("Hello"), is_ended=False))
    ended = await outcome(client, call(limits=limits(idle_s=0.3)), is_stream=True)
    assert isinstance(ended, CallTimeout)
    assert ended.is_retryable
    assert ended.details == {"limit": "idle"}
    await asyncio.wait_for(raw.disconnected.wait(), PATIENCE_S)


async def test_time_that_the_consumer_takes_is_not_the_models(raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = streams(START, text("Hello"), text(" world"), STOP, METADATA)
    texts = []
    async for item in client.stream(call(limits=limits(idle_s=0.5, first_token_s=15))):
        await asyncio.sleep(0.7)
        if isinstance(item, ModelReply):
            texts.append(text_of(item))
    assert texts == ["Hello world"]


async def test_silence_while_tool_arguments_are_written(raw: RawBedrock, client: BedrockManager) -> None:
    """A model that does not stream arguments is silent for as long as it writes them."""

    async def slow(writer: asyncio.StreamWriter) -> None:
        await streams(START, text("Let me see."), is_ended=False)(writer)
        await asyncio.sleep(1.2)
        rest = (tool("t1", "search", "{}", 1), event("messageStop", stopReason="tool_use"), METADATA)
        for piece in rest:
            writer.write(chunk(piece))
        writer.write(b"0\r\n\r\n")

    raw.script = slow
    tools = (ToolSpec(name="search", description="", input_schema={}),)
    silent = call(of=profile(traits=Traits(tool_streaming=False)), tools=tools, limits=limits(idle_s=0.4))
    assert isinstance(await outcome(client, silent, is_stream=True), ModelReply)
    chatty = call(tools=tools, limits=limits(idle_s=0.4))
    assert isinstance(await outcome(client, chatty, is_stream=True), CallTimeout)


async def test_connections_are_used_again(raw: RawBedrock, client: BedrockManager) -> None:
    """Cancelled neighbours do not take a connection from a call that goes well."""
    raw.script = sends(response(answer([{"text": "ok"}]), connection="close"))
    replies = await asyncio.gather(*(client.converse(call()) for _ in range(20)))
    assert [text_of(reply) for reply in replies] == ["ok"] * 20
    victims = [asyncio.create_task(client.converse(call())) for _ in range(10)]
    survivors = [asyncio.create_task(client.converse(call())) for _ in range(10)]
    await asyncio.sleep(0.01)
    for victim in victims:
        victim.cancel()
    await asyncio.gather(*victims, return_exceptions=True)
    assert [text_of(reply) for reply in await asyncio.gather(*survivors)] == ["ok"] * 10


async def test_a_closed_client_refuses_calls(raw: RawBedrock, client: BedrockManager) -> None:
    await client.close()
    with pytest.raises(ModelFailed, match="closed"):
        await client.converse(call())


async def test_no_tasks_are_left_behind(raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = streams(START, text("Hello"), STOP, METADATA)

    def tasks() -> set[Any]:
        return {task for task in asyncio.all_tasks() if "raw_bedrock" not in repr(task)}

    before = tasks()
    await collect(client, call())
    await asyncio.sleep(0.1)
    assert tasks() <= before
