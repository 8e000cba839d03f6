"""The server's side of the NATS protocol: bytes of commands, and JetStream's headers."""

import re
import time
from collections.abc import Mapping
from functools import lru_cache

VERSION = b"NATS/1.0\r\n"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")


def message(subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes:
    """MSG or HMSG, as a client gets it."""
    where = b"%b %b %b" % (subject, sid, reply) if reply else b"%b %b" % (subject, sid)
    if not header:
        return b"MSG %b %d\r\n%b\r\n" % (where, len(payload), payload)
    size = len(header)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (where, size, size + len(payload), header, payload)


def headers_of(block: bytes) -> dict[str, str]:
    """The first value of each header; empty without a block."""
    found: dict[str, str] = {}
    for line in block.decode("utf-8", "surrogateescape").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and name not in found:
            found[name] = value.strip()
    return found


def header_block(headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return VERSION + lines.encode("utf-8", "surrogateescape") + b"\r\n"


def with_headers(block: bytes, lines: bytes) -> bytes:
    """The block, or a new one, with the server's own lines behind the others."""
    return b"%b%b\r\n" % (block[:-2] if block else VERSION, lines)


def status(text: bytes, lines: bytes = b"") -> bytes:
    return b"NATS/1.0 %b\r\n%b\r\n" % (text, lines)


@lru_cache(maxsize=256)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def timestamp(epoch_s: float) -> bytes:
    """RFC 3339 as the server writes it, in microseconds."""
    micros = round(epoch_s * 1e6)
    return b"%b.%06dZ" % (_second(micros // 1_000_000).encode(), micros % 1_000_000)


def seconds(text: str) -> float | None:
    """A time to live: whole seconds or a Go duration, at least a second. None for `never`.

    Raises ValueError.
    """
    if text == "never":
        return None
    if text.isdecimal():
        value = float(text)
    else:
        parts = _DURATION.findall(text)
        if "".join(number + unit for number, unit in parts) != text:
            raise ValueError(text)
        value = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if value < 1:
        raise ValueError(text)
    return value
