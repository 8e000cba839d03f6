"""The adapter against the emulator: whole turns with tools, both transports."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.adapters.bedrock.aws_time import AwsTime
from sidecar.adapters.bedrock.http_transport import HttpTransport
from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.emulator import AuthPolicy, Emulator
from sidecar.models.content import Message, TextBlock
from tests.support.bedrock_calls import TRANSPORTS, call, collect, manager, profile, text_of
from tests.support.emulator import ACCESS_KEY, SECRET_KEY

CLAUDE_ID = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as opened:
        yield opened


@pytest.fixture(params=TRANSPORTS)
async def client(request: pytest.FixtureRequest, emulator: Emulator) -> AsyncIterator[BedrockManager]:
    async with manager(emulator.url, request.param) as opened:
        yield opened


def asked(text: str, **fields: Any) -> Any:
    return call(text, of=profile(model_id=CLAUDE_ID, family="claude"), **fields)


async def test_whole_and_streamed_answers_agree(client: BedrockManager) -> None:
    whole = await client.converse(asked("What is JetStream?"))
    deltas, streamed = await collect(client, asked("What is JetStream?"))
    assert text_of(whole) == text_of(streamed) == "".join(delta.text or "" for delta in deltas)
    assert whole.usage == streamed.usage
    assert whole.usage_basis == "observed"
    assert streamed.first_token_ms is not None
    assert whole.warnings == streamed.warnings == ()


async def test_many_calls_at_once(client: BedrockManager, emulator: Emulator) -> None:
    wholes = [client.converse(asked(f"question {number}")) for number in range(30)]
    streams = [collect(client, asked(f"question {number}")) for number in range(30)]
    replies = await asyncio.gather(*wholes)
    streamed = await asyncio.gather(*streams)
    assert [text_of(reply) for reply in replies] == [text_of(reply) for _, reply in streamed]
    assert len(emulator.calls) == 60


async def test_an_answer_goes_back_as_it_came(client: BedrockManager) -> None:
    reply = await client.converse(asked("hello"))
    answer = tuple(block for block in reply.content if isinstance(block, TextBlock))
    follow_up = call(
        "hello",
        Message(role="assistant", content=answer),
        Message(role="user", content="and then?"),
        of=profile(model_id=CLAUDE_ID, family="claude"),
    )
    assert (await client.converse(follow_up)).usage.input_tokens > reply.usage.input_tokens


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
async def test_a_machine_with_a_wrong_clock_signs_by_awss(monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    async with (
        Emulator(auth=AuthPolicy(secrets={ACCESS_KEY: SECRET_KEY})) as strict,
        manager(strict.url, "aiohttp") as client,
    ):
        transport = client._transport
        assert isinstance(transport, HttpTransport)
        transport._time = AwsTime(lambda: time.time() + ahead_s)
        for _ in range(2):
            assert text_of(await client.converse(asked("hello")))
            await collect(client, asked("hello"))
        assert len(strict.calls) == 4
