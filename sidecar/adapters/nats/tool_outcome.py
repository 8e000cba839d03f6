"""How a call of a tool ended, as errors. Pure."""

from collections.abc import Mapping

from sidecar.adapters.nats.service import ERROR_CODE_HEADER, ERROR_HEADER
from sidecar.errors import Permanent, SidecarError, Temporary
from sidecar.models.subjects import HEADER_TOOL_PROGRESS
from sidecar.ports.tools import ToolCall
from sidecar.runtime.redaction import told

MOST_REPLY_BYTES = 1024 * 1024
MOST_REPLIES_PER_S = 200
"""To one call, heartbeats that is. A provider of this library sends one every 3 s."""
LONGEST_CALL_S = 3600.0
LONGEST_ERROR_TEXT = 2000


def is_heartbeat(headers: Mapping[str, str]) -> bool:
    return HEADER_TOOL_PROGRESS in headers


def left_s(call: ToolCall, now: float) -> float:
    """How long the call may take in all, whatever the number of heartbeats. `now` in seconds since 1970."""
    if call.deadline is None:
        return LONGEST_CALL_S
    return max(0.0, min(LONGEST_CALL_S, call.deadline - now))


def output(payload: bytes, headers: Mapping[str, str], *, most_bytes: int) -> bytes:
    """A reply's output. Raises Permanent for an error reply (ADR-32), and for one too large."""
    number, text = headers.get(ERROR_CODE_HEADER), headers.get(ERROR_HEADER)
    if number is not None or text is not None:
        raise _failed(number, text, payload)
    if len(payload) > most_bytes:
        raise Permanent(
            f"the tool's output of {len(payload)} bytes is larger than {most_bytes}",
            code="tool_failed",
            details={"outcome": "failed"},
        )
    return payload


def _failed(number: str | None, text: str | None, body: bytes) -> Permanent:
    details: dict[str, object] = {"outcome": "failed"}
    if number is not None:
        details["number"] = number[:16]
    if body:
        details["body"] = body[:LONGEST_ERROR_TEXT].decode("utf-8", "replace")
    return Permanent((text or "the tool failed")[:LONGEST_ERROR_TEXT], code="tool_failed", details=details)


def flooded(call: ToolCall) -> Permanent:
    return Permanent(
        f"the tool sent more than {MOST_REPLIES_PER_S} heartbeats in a second: one every few seconds is enough",
        code="tool_failed",
        details={"outcome": "unknown"},
    )


def nobody(call: ToolCall) -> Temporary:
    return Temporary(f"no provider listens on {call.subject}", code="tool_failed", details={"outcome": "none"})


def not_sent(error: SidecarError) -> Temporary:
    return Temporary(
        f"the tool was not called: {told(error)}",
        code="tool_failed",
        details={"outcome": "none", "is_bus_away": True},
    )


def silent(call: ToolCall) -> Temporary:
    return Temporary(
        f"the tool did not answer within {call.timeout_s:g} s",
        code="tool_failed",
        details={"outcome": "unknown", "limit": "timeout"},
    )


def overdue(call: ToolCall) -> Temporary:
    return Temporary(
        "the tool did not answer before the call's deadline",
        code="tool_failed",
        details={"outcome": "unknown", "limit": "deadline"},
    )


def lost(error: SidecarError) -> Temporary:
    return Temporary(
        f"whether the tool ran is not known: {told(error)}",
        code="tool_failed",
        details={"outcome": "unknown", "is_bus_away": True},
    )
