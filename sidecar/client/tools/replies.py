"""What a provider answers: outputs, and errors as ADR-32 has them. Pure.

An error reply tells its code and text in headers, as any NATS micro service does, and in the body the form of the
sidecar's own error replies, with the path of an argument that is wrong.
"""

from dataclasses import dataclass, field
from typing import Any

from sidecar.client.errors import SERVICE_ERROR, SERVICE_ERROR_CODE
from sidecar.client.tools.errors import ToolError
from sidecar.errors import InvalidRequest
from sidecar.models.api import ErrorBody, ErrorReply
from sidecar.models.codec import encode
from sidecar.models.subjects import HEADER_TOOL_PROGRESS, IN_PROGRESS

INVALID_INPUT = 400
TOO_LARGE = 413
BUSY = 429
CANCELLED = 499
FAILED = 500
STOPPING = 503
TOO_LATE = 504
HEADER_ROOM_BYTES = 1024
"""What of a message's size is kept for its headers."""
_HEADER_CHARS = 500
_BODY_CHARS = 4000
_CODES = {INVALID_INPUT: "invalid_request", TOO_LARGE: "payload_too_large", TOO_LATE: "timeout"}


@dataclass(frozen=True, slots=True)
class Reply:
    payload: bytes
    headers: dict[str, str] | None = field(default=None)

    @property
    def is_error(self) -> bool:
        return self.headers is not None


HEARTBEAT = Reply(b"", {HEADER_TOOL_PROGRESS: IN_PROGRESS})


def error_reply(number: int, text: str, **details: Any) -> Reply:
    """An error that the model may read."""
    body = ErrorBody(code=_CODES.get(number, "tool_failed"), message=_cut(text, _BODY_CHARS), details=details)
    headers = {SERVICE_ERROR_CODE: str(number), SERVICE_ERROR: header_text(text)}
    return Reply(encode(ErrorReply(error=body)), headers)


def invalid_input(error: InvalidRequest) -> Reply:
    text = f"{error.path}: {error.message}" if error.path else error.message
    return error_reply(INVALID_INPUT, text, path=error.path)


def failure(error: BaseException) -> Reply:
    """What the caller learns of an exception: a ToolError's message, of all others only the type."""
    if isinstance(error, ToolError):
        return error_reply(error.code, error.message or type(error).__name__)
    return error_reply(FAILED, f"the tool failed with {type(error).__name__}")


def output_reply(payload: bytes, *, limit_bytes: int) -> Reply:
    """`payload` as it is, or an error where it does not fit the bus."""
    if len(payload) <= limit_bytes - HEADER_ROOM_BYTES:
        return Reply(payload)
    return error_reply(
        TOO_LARGE,
        f"the output has {len(payload)} bytes, more than the {limit_bytes} that the bus takes: ask for less",
        bytes=len(payload),
        limit_bytes=limit_bytes,
    )


def header_text(text: str) -> str:
    """One line that is safe in a header: no control characters, bounded, never empty."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return _cut(" ".join(line.split()), _HEADER_CHARS) or "the tool failed"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
