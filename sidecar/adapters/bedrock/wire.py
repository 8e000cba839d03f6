"""Bedrock's own messages, as far as they are read here; fields not named are ignored, the padding `p` among them.

JSON carries binary as base64 and botocore hands out bytes: msgspec takes both for a field of type `bytes`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec


class _Wire(msgspec.Struct, rename="camel", gc=False):
    pass


class WireUsage(_Wire):
    """None for a counter that was given and is none. Those of the cache may be absent, and are 0 then."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = 0
    cache_write_input_tokens: int | None = 0
    total_tokens: int | None = None


class WireMessage(_Wire):
    content: list[dict[str, Any]]


class WireOutput(_Wire):
    message: WireMessage


class ConverseResponse(_Wire):
    """The fields without a default are those without which an answer is none."""

    output: WireOutput
    stop_reason: str
    usage: WireUsage | None = None
    trace: dict[str, Any] | None = None


class BlockStart(_Wire):
    event: ClassVar[str] = "contentBlockStart"
    start: dict[str, Any] = {}
    content_block_index: int = 0


class ToolUseDelta(_Wire):
    input: str = ""


class ReasoningDelta(_Wire):
    text: str | None = None
    signature: str | None = None
    redacted_content: bytes | None = None


class WireDelta(_Wire):
    text: str | None = None
    tool_use: ToolUseDelta | None = None
    reasoning_content: ReasoningDelta | None = None


class BlockDelta(_Wire):
    event: ClassVar[str] = "contentBlockDelta"
    delta: WireDelta
    content_block_index: int = 0


class BlockStop(_Wire):
    event: ClassVar[str] = "contentBlockStop"
    content_block_index: int = 0


class MessageStart(_Wire):
    event: ClassVar[str] = "messageStart"
    role: str = "assistant"


class MessageStop(_Wire):
    event: ClassVar[str] = "messageStop"
    stop_reason: str


class Metadata(_Wire):
    event: ClassVar[str] = "metadata"
    usage: WireUsage | None = None
    trace: dict[str, Any] | None = None


class AnyDelta(_Wire):
    """A delta once more, in full: for kinds that `WireDelta` does not know."""

    delta: dict[str, Any] = {}
    content_block_index: int = 0


class MendedDelta(_Wire):
    """A delta whose text may hold halves of surrogate pairs."""

    delta: WireDelta
    content_block_index: int = 0


class UnknownEvent(msgspec.Struct):
    kind: str


StreamEvent = (
    BlockDelta
    | BlockStart
    | BlockStop
    | MessageStart
    | MessageStop
    | Metadata
    | AnyDelta
    | MendedDelta
    | UnknownEvent
)

EVENT_TYPES: dict[str, type[StreamEvent]] = {
    kind.event: kind for kind in (BlockDelta, BlockStart, BlockStop, MessageStart, MessageStop, Metadata)
}

_any_delta_decoder = msgspec.json.Decoder(AnyDelta)
_delta_decoder = msgspec.json.Decoder(BlockDelta)


def _decode_delta(payload: bytes) -> StreamEvent:
    event = _delta_decoder.decode(payload)
    return _any_delta_decoder.decode(payload) if _is_unknown(event.delta) else event


_decoders: dict[str, Callable[[bytes], StreamEvent]] = {
    name: msgspec.json.Decoder(kind).decode for name, kind in EVENT_TYPES.items()
} | {BlockDelta.event: _decode_delta}


def event_decoder(kind: str) -> Callable[[bytes], StreamEvent]:
    """What reads the payload of an event of this kind. It raises msgspec.DecodeError for one that is none."""
    return _decoders.get(kind) or (lambda _: UnknownEvent(kind))


_kinds: dict[Callable[[bytes], StreamEvent], str] = {read: kind for kind, read in _decoders.items()}


def kind_read_by(read: Callable[[bytes], StreamEvent]) -> str:
    """The kind of event whose decoder this is; empty for one that is none's."""
    return _kinds.get(read, "")


def convert_event(kind: str, parsed: Any) -> StreamEvent:
    """An event as botocore parsed it. Raises msgspec.ValidationError like `decode_event`."""
    found = EVENT_TYPES.get(kind)
    if found is None:
        return UnknownEvent(kind)
    event = msgspec.convert(parsed, found)
    if isinstance(event, BlockDelta) and _is_unknown(event.delta):
        return msgspec.convert(parsed, AnyDelta)
    return event


def _is_unknown(delta: WireDelta) -> bool:
    return delta.text is None and delta.tool_use is None and delta.reasoning_content is None
