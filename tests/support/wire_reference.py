"""NATS's client protocol read slowly, one rule after the other: what the fast parser is held against."""

import json
import re
from typing import NamedTuple

from sidecar.wire.parser import PAYLOAD_SLACK

MAX_PAYLOAD = 1 << 20


class Heard(NamedTuple):
    """One command: what it was, and its fields."""

    verb: str
    fields: tuple[bytes, ...]


class Violation(Exception):
    """What no server writes."""


def read(stream: bytes) -> tuple[list[Heard], bytes | None]:
    """All whole commands, and what is left over; None where the stream breaks the protocol after them."""
    heard: list[Heard] = []
    while b"\n" in stream:
        try:
            command, after = _command(stream)
        except Violation:
            return heard, None
        if command is None:
            return heard, stream
        heard.append(command)
        stream = stream[after:]
    return heard, stream


def _command(stream: bytes) -> tuple[Heard | None, int]:
    end = stream.index(b"\n")
    line = stream[:end]
    if not line.endswith(b"\r") or b"\r" in line[:-1]:
        raise Violation
    line = line[:-1]
    fields = re.split(rb"[ \t]", line)
    verb = fields[0].upper()
    if verb in (b"MSG", b"HMSG"):
        return _message(stream, end + 1, verb, fields[1:])
    if verb == b"INFO":
        _check_info(line[4:])
    elif verb not in (b"PING", b"PONG", b"+OK", b"-ERR"):
        raise Violation
    return Heard(verb.decode(), ()), end + 1


def _message(stream: bytes, body: int, verb: bytes, fields: list[bytes]) -> tuple[Heard | None, int]:
    numbers = 1 if verb == b"MSG" else 2
    if len(fields) - numbers not in (2, 3):
        raise Violation
    sizes = [_size(field) for field in fields[-numbers:]]
    total, header = sizes[-1], sizes[0] if numbers == 2 else 0
    if header > total:
        raise Violation
    if len(stream) < body + total + 2:
        return None, 0
    subject, sid, *reply = fields[:-numbers]
    if not subject or not sid or stream[body + total : body + total + 2] != b"\r\n":
        raise Violation
    parts = (stream[body : body + header], stream[body + header : body + total])
    return Heard("MSG", (sid, subject, reply[0] if reply else b"", *parts)), body + total + 2


def _size(field: bytes) -> int:
    if re.fullmatch(rb"[0-9]{1,10}", field) is None or int(field) > MAX_PAYLOAD + PAYLOAD_SLACK:
        raise Violation
    return int(field)


def _check_info(text: bytes) -> None:
    try:
        found = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise Violation from None
    if not isinstance(found, dict):
        raise Violation
