"""From an answer to what goes over the wire: the JSON reply, or the events of a stream, each with its tokens."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from sidecar.emulator.answer import Answer
from sidecar.emulator.frames import encode_event
from sidecar.emulator.tokens import CHARS_PER_TOKEN

_encode_json = msgspec.json.Encoder().encode


class StreamEvent(NamedTuple):
    """`tokens` are the output tokens this event carries: what pacing counts."""

    kind: str
    payload: dict[str, Any]
    tokens: int = 0

    def encode(self) -> bytes:
        return encode_event(self.kind, self.payload)


def make_reply(answer: Answer, *, usage: dict[str, Any], latency_ms: int, extra: dict[str, Any]) -> dict[str, Any]:
    """Body of a Converse reply. `extra` are fields that only some calls have: trace, serviceTier…"""
    return {
        "metrics": {"latencyMs": latency_ms},
        "output": {"message": {"content": answer.blocks, "role": "assistant"}},
        "stopReason": answer.stop_reason,
        "usage": usage,
        **extra,
    }


def make_events(answer: Answer, *, chunk_tokens: int) -> list[StreamEvent]:
    """Events from messageStart to messageStop; metadata is made when the stream ends, see `make_metadata`."""
    events = [StreamEvent("messageStart", {"role": "assistant"})]
    for index, block in enumerate(answer.blocks):
        events.extend(_block_events(index, block, answer.raw_arguments.get(index), chunk_tokens))
    events.append(StreamEvent("messageStop", {"stopReason": answer.stop_reason}))
    return events


def make_metadata(*, usage: dict[str, Any], latency_ms: int, extra: dict[str, Any]) -> StreamEvent:
    """The last event of a stream."""
    return StreamEvent("metadata", {"metrics": {"latencyMs": latency_ms}, "usage": usage, **extra})


def _block_events(index: int, block: dict[str, Any], raw: str | None, chunk_tokens: int) -> Iterator[StreamEvent]:
    if "toolUse" in block:
        tool = block["toolUse"]
        start = {"toolUse": {key: value for key, value in tool.items() if key != "input"}}
        yield StreamEvent("contentBlockStart", {"contentBlockIndex": index, "start": start})
        arguments = _encode_json(tool["input"]).decode() if raw is None else raw
        deltas: Iterator[tuple[dict[str, Any], int]] = (
            ({"toolUse": {"input": piece}}, tokens) for piece, tokens in _pieces(arguments, chunk_tokens)
        )
    else:
        deltas = _deltas(block, chunk_tokens)
    for delta, tokens in deltas:
        yield StreamEvent("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}, tokens)
    yield StreamEvent("contentBlockStop", {"contentBlockIndex": index})


def _deltas(block: dict[str, Any], chunk_tokens: int) -> Iterator[tuple[dict[str, Any], int]]:
    if "text" in block:
        for piece, tokens in _pieces(block["text"], chunk_tokens):
            yield {"text": piece}, tokens
    elif "citationsContent" in block:
        content = block["citationsContent"]
        for piece, tokens in _pieces(content["content"][0]["text"], chunk_tokens):
            yield {"text": piece}, tokens
        for citation in content["citations"]:
            yield {"citation": citation}, 0
    elif "reasoningContent" in block:
        reasoning = block["reasoningContent"]
        if "reasoningText" in reasoning:
            for piece, tokens in _pieces(reasoning["reasoningText"]["text"], chunk_tokens):
                yield {"reasoningContent": {"text": piece}}, tokens
            yield {"reasoningContent": {"signature": reasoning["reasoningText"]["signature"]}}, 0
        else:
            yield {"reasoningContent": reasoning}, 0


def _pieces(text: str, chunk_tokens: int) -> Iterator[tuple[str, int]]:
    size = max(chunk_tokens, 1) * CHARS_PER_TOKEN
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        yield piece, -(-len(piece) // CHARS_PER_TOKEN)
