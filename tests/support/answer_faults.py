"""What goes wrong with an answer, in one table: the adapter's error, and what becomes of the job."""

import asyncio
import struct
from binascii import crc32
from dataclasses import dataclass

from sidecar.errors import (
    CallTimeout,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    SidecarError,
    StreamInterrupted,
    Throttled,
)
from tests.support.raw_bedrock import (
    METADATA,
    START,
    STOP,
    STREAM_HEAD,
    Script,
    chunk,
    event,
    exception,
    frame,
    response,
    sends,
    streams,
    text,
    then_hangs,
    then_resets,
)

GOOD = (START, text("Hello"), text(" world"), event("contentBlockStop", contentBlockIndex=0), STOP, METADATA)
CODES: dict[type[SidecarError], str] = {
    CallTimeout: "timeout",
    InvalidRequest: "invalid_request",
    ModelFailed: "model_error",
    ModelUnavailable: "model_unavailable",
    StreamInterrupted: "stream_interrupted",
    Throttled: "throttled",
}


@dataclass(frozen=True)
class Fault:
    """`is_after_text`: text had reached the client before it. `limit` is the time limit that ends the call.
    `is_refusal`: the service says itself that the model did not begin.
    """

    name: str
    script: Script
    error: type[SidecarError]
    is_after_text: bool = False
    limit: str | None = None
    is_refusal: bool = False

    @property
    def code(self) -> str:
        return CODES[self.error]

    @property
    def is_billed(self) -> bool:
        """Whether it counts as billed by estimate: the request was sent, and nothing says that it was refused
        before the model began.
        """
        return self.is_after_text or not self.is_refusal


@dataclass(frozen=True)
class Oddity:
    """What is wrong with a stream whose answer is whole. `stalls`: only a time limit ends the call."""

    name: str
    script: Script
    is_counted: bool = True
    has_unknown_block: bool = False
    stalls: bool = False


def broken_crc(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 0xFF]) + data[-4:]


def broken_prelude(data: bytes) -> bytes:
    return data[:8] + b"\x00\x00\x00\x00" + data[12:]


def huge_prelude() -> bytes:
    """The beginning of a frame that says it has 2 GiB."""
    prelude = struct.pack("!II", 2**31 - 1, 0)
    return prelude + struct.pack("!I", crc32(prelude)) + b"x" * 4096


async def drips(writer: asyncio.StreamWriter) -> None:
    await streams(START, text("Hel"), is_ended=False)(writer)
    for byte in text("lo" * 200):
        writer.write(chunk(bytes([byte])))
        await writer.drain()
        await asyncio.sleep(0.02)


IN_STREAM: dict[str, type[SidecarError]] = {
    "internalServerException": ModelUnavailable,
    "modelStreamErrorException": ModelFailed,
    "validationException": InvalidRequest,
    "throttlingException": Throttled,
    "serviceUnavailableException": ModelUnavailable,
}
PLACES: dict[str, tuple[bytes, ...]] = {
    "as the first event": (),
    "after messageStart": (START,),
    "in the middle": GOOD[:3],
    "after messageStop": GOOD[:5],
    "after the usage": GOOD,
}
EXCEPTION_FRAMES = [
    Fault(f"{kind} {place}", streams(*before, exception(kind)), error, len(before) > 1, is_refusal=not before)
    for kind, error in IN_STREAM.items()
    for place, before in PLACES.items()
]
_EVENT_STREAM, _HALF = "application/vnd.amazon.eventstream", streams(*GOOD[:3], is_ended=False)
BROKEN_STREAMS = [
    Fault("closed before headers", sends(), ModelUnavailable),
    Fault("reset before headers", then_resets(sends()), ModelUnavailable),
    Fault("no HTTP", sends(b"SMTP READY\r\n\r\n"), ModelUnavailable),
    Fault("reset after headers", then_resets(sends(STREAM_HEAD)), ModelUnavailable),
    Fault("cut frame at first", streams(START[:20]), ModelFailed),
    Fault("bad checksum at first", streams(broken_crc(START)), ModelFailed),
    Fault("ends after messageStart", streams(START), ModelFailed),
    Fault("empty 200", sends(response(b"", content_type=_EVENT_STREAM, connection="close")), ModelFailed),
    Fault(
        "HTML 200",
        sends(response(b"<html>gateway</html>", content_type="text/html", connection="close")),
        ModelFailed,
    ),
    Fault("JSON 200", sends(response({}, connection="close")), ModelFailed),
    Fault("stall before headers", then_hangs(sends()), CallTimeout, limit="first_token"),
    Fault("stall after headers", then_hangs(sends(STREAM_HEAD)), CallTimeout, limit="first_token"),
    Fault(
        "stall after messageStart",
        then_hangs(streams(START, is_ended=False)),
        CallTimeout,
        limit="first_token",
    ),
    Fault("reset after text", then_resets(_HALF), StreamInterrupted, True),
    Fault("closed after text without a last chunk", _HALF, StreamInterrupted, True),
    Fault("ends after text", streams(*GOOD[:3]), StreamInterrupted, True),
    Fault("ends after the block", streams(*GOOD[:4]), StreamInterrupted, True),
    Fault("cut frame after text", streams(START, text("Hello"), text("world")[:30]), StreamInterrupted, True),
    Fault(
        "bad checksum after text", streams(START, text("Hello"), broken_crc(text("x"))), StreamInterrupted, True
    ),
    Fault(
        "bad prelude checksum", streams(START, text("Hello"), broken_prelude(text("x"))), StreamInterrupted, True
    ),
    Fault("huge frame", streams(START, text("Hello"), huge_prelude()), StreamInterrupted, True),
    Fault(
        "event that is no JSON",
        streams(START, text("Hello"), frame(b"nonsense", event_type="contentBlockDelta", message_type="event")),
        StreamInterrupted,
        True,
    ),
    Fault("stall between chunks", then_hangs(_HALF), CallTimeout, True, "idle"),
    Fault("slow drip inside a frame", drips, CallTimeout, True, "idle"),
]
BROKEN_WHOLE = [
    Fault("closed before headers", sends(), ModelUnavailable),
    Fault("reset before headers", then_resets(sends()), ModelUnavailable),
    Fault("no HTTP", sends(b"SMTP READY\r\n\r\n"), ModelUnavailable),
    Fault("cut body", sends(response(b"x" * 10, content_length="100", connection="close")), ModelUnavailable),
    Fault("empty 200", sends(response(b"", connection="close")), ModelFailed),
    Fault("braces 200", sends(response({}, connection="close")), ModelFailed),
    Fault(
        "HTML 200", sends(response(b"<html></html>", content_type="text/html", connection="close")), ModelFailed
    ),
    Fault("not JSON 200", sends(response(b'{"output": ', connection="close")), ModelFailed),
    Fault(
        "no stop reason",
        sends(response({"output": {"message": {"content": []}}}, connection="close")),
        ModelFailed,
    ),
    Fault(
        "refusal in HTML",
        sends(response(b"<html>", status=502, content_type="text/html", connection="close")),
        ModelUnavailable,
    ),
    Fault("refusal without a body", sends(response(b"", status=500, connection="close")), ModelUnavailable),
    Fault(
        "redirect",
        sends(response(b"", status=302, location="http://127.0.0.1:1/", connection="close")),
        ModelUnavailable,
    ),
]
# Oddities in or after a stream beside which the answer is whole; `is_counted`: its usage is told.
WHOLE_ALL_THE_SAME = [
    Oddity("one byte a chunk", streams(*(bytes([b]) for b in b"".join(GOOD)))),
    Oddity("unknown event", streams(*GOOD[:2], event("hologram", index=1), *GOOD[2:])),
    Oddity(
        "unknown block",
        streams(
            *GOOD[:4],
            event("contentBlockDelta", contentBlockIndex=1, delta={"hologram": {"title": "page"}}),
            *GOOD[4:],
        ),
        has_unknown_block=True,
    ),
    Oddity("usage missing", streams(*GOOD[:5]), is_counted=False),
    Oddity("metadata without usage", streams(*GOOD[:5], event("metadata", metrics={})), is_counted=False),
    Oddity(
        "stall after messageStop", then_hangs(streams(*GOOD[:5], is_ended=False)), is_counted=False, stalls=True
    ),
    Oddity("reset after messageStop", then_resets(streams(*GOOD[:5], is_ended=False)), is_counted=False),
    Oddity("garbage after messageStop", streams(*GOOD[:5], broken_crc(METADATA)), is_counted=False),
    Oddity("stall after the usage", then_hangs(streams(*GOOD, is_ended=False))),
]
