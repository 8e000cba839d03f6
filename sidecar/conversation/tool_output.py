"""A tool's reply as the model may have it: parsed, stripped of control characters, bounded. Pure."""

import re
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import Permanent
from sidecar.models.base import FieldError
from sidecar.models.codec import DEAR_NUMBERS, encode, has_dear_numbers
from sidecar.models.content import JsonBlock, ToolResultBlock
from sidecar.models.rules import check_depth
from sidecar.runtime.json_schema import misfit
from sidecar.tool_registry.signature import said

# C0 without tab and line ends, DEL, C1.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
MOST_ERROR_CHARS = 2_000
# What is larger is read away from the event loop.
MOST_READ_INLINE = 16 * 1024

_decode = msgspec.json.Decoder().decode


class Shown(NamedTuple):
    """`value` is what the event shows and the model gets; `cut_from` is the size in bytes of what was cut."""

    block: ToolResultBlock
    value: Any
    cut_from: int | None


def parse(payload: bytes) -> Any:
    """The value of a reply. An empty one is null. Raises Permanent `tool_failed` for what is no JSON."""
    if not payload:
        return None
    if has_dear_numbers(payload):
        raise Permanent(f"the tool's reply holds {DEAR_NUMBERS}: send them as texts", code="tool_failed")
    try:
        value = _decode(payload)
        check_depth(value, path="the output")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, FieldError) as e:
        problem = str(e)[:MOST_ERROR_CHARS]
        raise Permanent(f"the tool's reply cannot be read as JSON: {problem}", code="tool_failed") from e
    return value


def read_large(use_id: str, payload: bytes, output_schema: bytes | None, most_bytes: int) -> Shown:
    """For a worker process: a reply read, cleaned, checked and cut. Raises Permanent `tool_failed`."""
    value = clean(parse(payload))
    if output_schema is not None:
        refuse(said(misfit(output_schema, value), "the output", "output_schema"))
    return shown(use_id, value, most_bytes=most_bytes)


def refuse(problem: str | None) -> None:
    """Raise Permanent `tool_failed` where there is a problem."""
    if problem is not None:
        raise Permanent(f"the tool's reply is not what it promised: {problem}", code="tool_failed")


def clean(value: Any) -> Any:
    """The value without control characters in any text of it. It nests no deeper than `check_depth` lets it."""
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, dict):
        return {_CONTROL.sub("", key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return value


def shown(use_id: str, value: Any, *, most_bytes: int) -> Shown:
    """The result block of a clean value. What is longer than `most_bytes` of JSON is cut, and says so."""
    data = encode(value)
    if len(data) <= most_bytes:
        return Shown(ToolResultBlock(tool_use_id=use_id, content=_content(value)), value, None)
    whole = value.encode("utf-8", "replace") if isinstance(value, str) else data
    text = whole[:most_bytes].decode("utf-8", "ignore")
    text += f"\n[cut: the first {most_bytes} of {len(whole)} bytes; the rest was left out]"
    return Shown(ToolResultBlock(tool_use_id=use_id, content=text), text, len(whole))


def _content(value: Any) -> str | tuple[JsonBlock]:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return (JsonBlock(value=value),)
    return encode(value).decode()


def error_text(message: str) -> str:
    """What a provider says of its failure, as the model may have it."""
    return _CONTROL.sub("", message)[:MOST_ERROR_CHARS]
