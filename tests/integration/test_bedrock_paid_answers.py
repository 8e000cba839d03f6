"""Answers that were paid for: what can be used is used and marked, what cannot says what it cost."""

import json
from typing import Any

import pytest

from sidecar.errors import ModelFailed, SidecarError, TokenCounts
from tests.support.bedrock_calls import TRANSPORTS, call, manager, text_of
from tests.support.raw_bedrock import (
    METADATA,
    START,
    STOP,
    event,
    frame,
    raw_bedrock,
    response,
    sends,
    streams,
    text,
)

EMOJI = "\N{GRINNING FACE}"
LOST = "\N{REPLACEMENT CHARACTER}"


def delta(escaped: bytes) -> bytes:
    """A text delta whose JSON holds these bytes between the quotes."""
    payload = b'{"contentBlockIndex":0,"delta":{"text":"' + escaped + b'"}}'
    return frame(payload, event_type="contentBlockDelta", content_type="application/json", message_type="event")


def whole(text_json: bytes, usage: bytes) -> bytes:
    message = b'{"message": {"role": "assistant", "content": [{"text": "' + text_json + b'"}]}}'
    return b'{"output": ' + message + b', "stopReason": "end_turn", "usage": ' + usage + b"}"


USAGES = [
    (b'{"inputTokens": 3, "outputTokens": 4, "totalTokens": 7, "cacheReadInputTokens": null}', 3, 4),
    (b'{"inputTokens": null, "outputTokens": 4, "totalTokens": 9}', 5, 4),
    (b'{"inputTokens": 3, "totalTokens": 9}', 3, 6),
    (b'{"inputTokens": 3, "outputTokens": -4, "totalTokens": 10}', 3, 7),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_missing_counters_are_estimated_and_marked(transport: Any) -> None:
    async with raw_bedrock() as raw, manager(raw.url, transport) as subject:
        for usage, read, written in USAGES:
            given = json.loads(usage)
            raw.script = sends(response(whole(b"a", usage)))
            reply = await subject.converse(call())
            raw.script = streams(START, text("a"), STOP, event("metadata", usage=given))
            *_, streamed = [item async for item in subject.stream(call())]
            for found in (reply, streamed):
                taken = found.usage  # type: ignore[union-attr]
                # botocore leaves out what is null: a cache counter is 0 then, as where the service gives none.
                is_told = transport == "boto3" and b'Tokens": null}' in usage
                assert (taken.input_tokens, taken.output_tokens) == (read, written)
                assert found.usage_basis == ("observed" if is_told else "estimated")  # type: ignore[union-attr]
                assert is_told or any("no count of" in w for w in found.warnings)  # type: ignore[union-attr]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_half_surrogate_pairs_are_joined_or_replaced_and_named(transport: Any) -> None:
    pieces = (rb"hi \ud83d", rb"\ude00 x", rb"\ud83d", b"y", rb"z\ude00", rb" end\ud83d")
    expected = f"hi {EMOJI} x{LOST}yz{LOST} end{LOST}"
    async with raw_bedrock() as raw, manager(raw.url, transport) as subject:
        usage = b'{"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}'
        raw.script = sends(response(whole(b"".join(pieces), usage)))
        reply = await subject.converse(call())
        raw.script = streams(START, *map(delta, pieces), STOP, METADATA)
        *deltas, streamed = [item async for item in subject.stream(call())]
    for found in (reply, streamed):
        assert text_of(found) == expected  # type: ignore[arg-type]
        assert [w for w in found.warnings if "replaced by U+FFFD: 3" in w]  # type: ignore[union-attr]
    assert "".join(item.text or "" for item in deltas) == expected  # type: ignore[union-attr]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_answer_that_cannot_be_used_says_what_it_cost(transport: Any) -> None:
    usage = {"inputTokens": 30, "outputTokens": 40, "totalTokens": 70}
    async with raw_bedrock() as raw, manager(raw.url, transport) as subject:
        raw.script = sends(response({"output": {"message": {"role": "assistant"}}, "usage": usage}))
        with pytest.raises(ModelFailed) as refused:
            await subject.converse(call())
        assert refused.value.counted == TokenCounts(30, 40)
        raw.script = streams(START, text("half of it"), event("metadata", usage=usage))
        with pytest.raises(SidecarError) as broken:
            [item async for item in subject.stream(call())]
        assert (broken.value.counted, broken.value.heard_chars) == (TokenCounts(30, 40), len("half of it"))
