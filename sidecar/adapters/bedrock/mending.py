"""Answers that were paid for and that a strict reader refuses: what can be used of them is. Pure.

Half surrogate pairs and bytes that are no UTF-8 become U+FFFD, counters that are none are left out. Only what the
strict reader refused comes here.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.adapters.bedrock.wire import (
    EVENT_TYPES,
    AnyDelta,
    BlockDelta,
    ConverseResponse,
    MendedDelta,
    StreamEvent,
    WireDelta,
    WireUsage,
)
from sidecar.errors import InvalidRequest, TokenCounts
from sidecar.models.codec import without_surrogates
from sidecar.models.plain import from_json

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
HIGH = re.compile("[\ud800-\udbff]\\Z")
_HALF = re.compile("[\ud800-\udfff]")
_COUNTERS = frozenset(WireUsage.__struct_encode_fields__)


class NotMendable(Exception):
    """What came is no answer, however it is read."""


def mended_text(text: str) -> tuple[str, int]:
    """`text` with U+FFFD for each half surrogate pair, and how many there were; whole pairs are characters."""
    if _HALF.search(text) is None:
        return text, 0
    joined = without_surrogates(text)
    return joined, joined.count(REPLACEMENT) - text.count(REPLACEMENT)


def mended_response(response: bytes | Mapping[str, Any]) -> tuple[ConverseResponse, int]:
    """A whole answer, and how many characters of it were replaced. Raises NotMendable."""
    found = _read(response) if isinstance(response, bytes) else response
    if not isinstance(found, Mapping):
        raise NotMendable("it is no JSON object")
    count = _halves(found)
    plain: dict[str, Any] = without_surrogates(dict(found)) if count else dict(found)
    plain["usage"] = plain_usage(plain.get("usage"))
    if not isinstance(plain.get("trace"), Mapping):
        plain.pop("trace", None)
    try:
        return msgspec.convert(plain, ConverseResponse), count
    except (msgspec.ValidationError, RecursionError) as e:
        raise NotMendable(str(e)) from e


def mended_event(kind: str, payload: bytes | Mapping[str, Any]) -> StreamEvent:
    """An event of a stream. Halves of pairs are left in a delta's text: the next delta may bring the other half.

    Raises NotMendable.
    """
    found = _read(payload) if isinstance(payload, bytes) else payload
    if kind not in EVENT_TYPES or not isinstance(found, Mapping):
        raise NotMendable("it is no event")
    plain = dict(found)
    if "usage" in plain:
        plain["usage"] = plain_usage(plain["usage"])
    if not isinstance(plain.get("trace", {}), Mapping):
        plain.pop("trace")
    if kind != BlockDelta.event:
        plain = without_surrogates(plain)
    try:
        event = msgspec.convert(plain, EVENT_TYPES[kind])
        if not isinstance(event, BlockDelta):
            return event
        if event.delta == WireDelta():
            return msgspec.convert(without_surrogates(plain), AnyDelta)
    except (msgspec.ValidationError, RecursionError) as e:
        raise NotMendable(str(e)) from e
    return MendedDelta(delta=event.delta, content_block_index=event.content_block_index)


def has_halves(event: StreamEvent) -> bool:
    """Whether a delta that a lenient reader made holds half surrogate pairs."""
    if not isinstance(event, BlockDelta):
        return False
    delta = event.delta
    said = delta.text or (delta.tool_use.input if delta.tool_use else "")
    said = said or (delta.reasoning_content.text if delta.reasoning_content else "") or ""
    return _HALF.search(said) is not None


def plain_usage(usage: Any) -> dict[str, int | None] | None:
    """The counters that are whole numbers; None for each of the others that was given; None where nothing is."""
    if not isinstance(usage, Mapping):
        return None
    return {name: _counter(usage[name]) for name in _COUNTERS if name in usage}


def counted(response: bytes | Mapping[str, Any]) -> TokenCounts | None:
    """What the provider says that an answer took which cannot be used; None where it does not say it all."""
    try:
        found = _read(response) if isinstance(response, bytes) else response
    except NotMendable:
        return None
    usage = plain_usage(found.get("usage")) if isinstance(found, Mapping) else None
    if usage is None or usage.get("inputTokens") is None or usage.get("outputTokens") is None:
        return None
    return TokenCounts(
        input_tokens=usage["inputTokens"] or 0,
        output_tokens=usage["outputTokens"] or 0,
        cache_read_tokens=usage.get("cacheReadInputTokens") or 0,
        cache_write_tokens=usage.get("cacheWriteInputTokens") or 0,
    )


def _read(data: bytes) -> Any:
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    try:
        return from_json(text)
    except InvalidRequest as e:
        raise NotMendable(e.message) from e


def _counter(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value) if value == int(value) else None


def _halves(value: Any) -> int:
    """How many half surrogate pairs stand in plain values."""
    if isinstance(value, str):
        return mended_text(value)[1]
    if isinstance(value, Mapping):
        return sum(_halves(key) + _halves(held) for key, held in value.items())
    return sum(map(_halves, value)) if isinstance(value, list | tuple) else 0
