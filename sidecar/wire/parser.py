"""NATS's client protocol, read strictly: what no server writes ends the connection.

Fields of a line are separated by one space or tab and by nothing else: the server passes other white space (such
as `\\x0b` and `\\x0c`) within subjects, and whoever separates there lets a publisher choose the subscription.
"""

import re
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import msgspec

from sidecar.errors import ProtocolViolation
from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown

MAX_LINE = 1 << 20
"""Bytes of a line. The server bounds what clients write by `max_control_line` (4 KiB unless set) and does not
announce it; its own INFO lines grow with the cluster."""

PAYLOAD_SLACK = 64 << 20
"""How much larger than the announced `max_payload` a message may be, in bytes. Not small: servers of a cluster and
leaf nodes may have other limits, and pass on what their own clients sent; a bound that a stranger can exceed would
let strangers end the connection. 64 MiB is what a server holds for one client (`max_pending`)."""

_MOST_DIGITS = 10
_REMEMBERED_DIGITS = 4
_CONTROL = re.compile(rb"([A-Za-z+-]+)(?:[ \t]+(.*))?", re.DOTALL)

Handler = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply subject, header block and payload, as they came. Must not raise."""


class Receiver(Protocol):
    """Who is told of what a parser reads."""

    @property
    def max_payload(self) -> int:
        """The limit that the server announced, in bytes."""

    async def heard_message(self, subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """A message for a subscription that has no handler."""

    def heard_pong(self) -> None: ...

    async def heard_ping(self) -> None: ...

    async def heard_info(self, info: dict[str, Any]) -> None: ...

    async def heard_error(self, text: str) -> None:
        """The server's `-ERR`, with its quotes."""

    def violation(self, error: ProtocolViolation) -> Exception:
        """What to raise instead of `error`, so that the reader of the socket understands it."""


class Parser:
    """Takes a socket's bytes in any pieces. Messages whose subscription id is in `handlers` go there at once."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.handlers: dict[bytes, Handler] = {}
        self._sizes = _Sizes(receiver)
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

    def reset(self) -> None:
        """Forget what was begun: the next bytes are those of another connection."""
        self._parts.clear()
        self._have = self._need = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave. Raises what the receiver makes of a ProtocolViolation; nothing else."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self.reset()
        try:
            rest = await self._consume(data)
        except ProtocolViolation as e:
            raise self._receiver.violation(e) from e
        except ValueError as e:
            raise self._receiver.violation(ProtocolViolation("a message's line has too few or many fields")) from e
        if rest < len(data):
            self._parts.append(data[rest:] if rest else data)
            self._have = len(data) - rest

    async def _consume(self, data: bytes) -> int:
        """Handle all whole commands. Returns where the first incomplete one begins.

        The hot loop: benchmarks/wire_parser.py measures it. A wrong number of fields is the ValueError of an
        assignment, which costs nothing where the number is right. An empty reply counts as none.
        """
        at, size, handlers, sizes = 0, len(data), self.handlers, self._sizes
        while (end_of_line := data.find(b"\n", at)) >= 0:
            line = data[at : end_of_line - 1]
            if 9 in line or 13 in line or data[end_of_line - 1] != 13:
                fields = _unusual(line, data[end_of_line - 1])
            else:
                fields = line.split(b" ")
            body = split = end_of_line + 1
            reply = header = b""
            if fields[0] == b"MSG":
                if len(fields) == 4:
                    _, subject, sid, total = fields
                else:
                    _, subject, sid, reply, total = fields
            elif fields[0] == b"HMSG":
                if len(fields) == 5:
                    _, subject, sid, head, total = fields
                else:
                    _, subject, sid, reply, head, total = fields
                split += sizes[head]
                header = data[body:split]
            else:
                data, at = await self._other(data, at, end_of_line)
                continue
            end = body + sizes[total]
            if end + 2 > size or split > end:
                return self._incomplete(at, split, end)
            if data[end] != 13 or data[end + 1] != 10 or not (subject and sid):
                _refuse("a message without subject, subscription or end", line)
            at = end + 2
            handler = handlers.get(sid)
            if handler is not None:
                handler(subject, reply, header, data[split:end])
            else:
                await self._receiver.heard_message(subject, sid, reply, header, data[split:end])
        return self._unended(at, size)

    def _unended(self, at: int, size: int) -> int:
        if size - at > MAX_LINE:
            raise ProtocolViolation(f"a line of more than {MAX_LINE} bytes")
        return at

    def _incomplete(self, at: int, split: int, end: int) -> int:
        if split > end:
            raise ProtocolViolation("a message whose header is longer than the whole")
        self._need = end + 2 - at
        return at

    async def _other(self, data: bytes, at: int, end_of_line: int) -> tuple[bytes, int]:
        """Handle a line that is no message in the server's own spelling. Returns the data and where to go on."""
        line = data[at : end_of_line - 1]
        found = _CONTROL.fullmatch(line) if len(line) <= MAX_LINE else None
        if found is None:
            _refuse("an unknown line", line)
        verb = found[1].upper()
        if verb in (b"MSG", b"HMSG"):
            # Verbs may be written in any case; the hot loop knows the one that servers use.
            return data[:at] + verb + data[at + len(verb) :], at
        await self._control(verb, found[2] or b"", line)
        return data, end_of_line + 1

    async def _control(self, verb: bytes, rest: bytes, line: bytes) -> None:
        receiver = self._receiver
        if verb == b"PONG":
            receiver.heard_pong()
        elif verb == b"PING":
            await receiver.heard_ping()
        elif verb == b"INFO":
            await receiver.heard_info(_info(rest))
        elif verb == b"-ERR":
            await receiver.heard_error(rest.decode("utf-8", "replace").strip(" \t"))
        elif verb != b"+OK":
            _refuse("an unknown line", line)


class _Sizes(dict[bytes, int]):
    """Numbers of bytes by their digits, checked when first met; short ones are kept, so that most cost nothing."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver

    def __missing__(self, digits: bytes) -> int:
        if not digits.isdigit() or len(digits) > _MOST_DIGITS:
            _refuse("a size that is no number", digits)
        size = int(digits)
        if size > self._receiver.max_payload + PAYLOAD_SLACK:
            raise ProtocolViolation(f"a message of {size} bytes, over max_payload")
        if len(digits) <= _REMEMBERED_DIGITS:
            self[digits] = size
        return size


def _unusual(line: bytes, last: int) -> list[bytes]:
    """The fields of a line with a tab. Raises ProtocolViolation where CR and LF do not stand at its end alone."""
    if last != 13 or 13 in line:
        _refuse("a line that does not end in CR LF", line)
    return line.replace(b"\t", b" ").split(b" ")


def _info(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE as e:
        raise ProtocolViolation("INFO that is no JSON object") from e


def _refuse(what: str, line: bytes) -> NoReturn:
    raise ProtocolViolation(f"{what}: {shown(line.decode('utf-8', 'replace'))}")
