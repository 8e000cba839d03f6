"""Messages as they come from the bus, and headers as they go to it."""

from collections.abc import Mapping

from sidecar.errors import BusRefused
from sidecar.wire.headers import decode_headers as decode_headers
from sidecar.wire.headers import description_of, status_of

_NONE: Mapping[str, str] = {}


class BusMessage:
    """One message. Headers, status and subjects are decoded when first asked for.

    `status` is the number of an inline status (404, 408, 503, 204 …) or None for an ordinary message;
    `description` its text.
    """

    __slots__ = ("_headers", "_raw_headers", "_reply", "_subject", "payload")

    def __init__(
        self, payload: bytes, raw_headers: bytes = b"", *, subject: bytes = b"", reply: bytes = b""
    ) -> None:
        self.payload = payload
        self._raw_headers = raw_headers
        self._subject = subject
        self._reply = reply
        self._headers: Mapping[str, str] | None = None if raw_headers else _NONE

    @property
    def subject(self) -> str:
        return self._subject.decode("utf-8", "replace")

    @property
    def reply(self) -> str:
        return self._reply.decode("utf-8", "replace")

    @property
    def raw_headers(self) -> bytes:
        """The header block as it came, status line included; empty without headers."""
        return self._raw_headers

    @property
    def headers(self) -> Mapping[str, str]:
        """The first value of each header, by the name as it was sent."""
        if self._headers is None:
            self._headers = decode_headers(self._raw_headers)
        return self._headers

    @property
    def status(self) -> int | None:
        return status_of(self._raw_headers) if self._raw_headers else None

    @property
    def description(self) -> str:
        return description_of(self._raw_headers)

    def __repr__(self) -> str:
        return f"Message(subject={self.subject!r}, status={self.status}, {len(self.payload)} bytes)"


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The block to send. Raises BusRefused when a name or a value would break out of its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise BusRefused("a header has a line break in its name or value", code="invalid_request")
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def encode_publish(subject: str, reply: str, headers: Mapping[str, str] | None, payload: bytes) -> bytes:
    """The protocol's PUB or HPUB command. Raises BusRefused for a subject with blanks, or bad headers."""
    if reply and reply.split() != [reply]:
        raise BusRefused(f"{reply!r} is not a subject to reply to", code="invalid_request")
    return encode_request(subject, reply.encode(), headers, payload)


def encode_request(subject: str, inbox: bytes, headers: Mapping[str, str] | None, payload: bytes) -> bytes:
    """The same with a reply subject that was made here, and needs no look."""
    if not subject or subject.split() != [subject]:
        raise BusRefused(f"{subject!r} is not a subject to publish to", code="invalid_request")
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), inbox, len(payload), payload)
    block = encode_headers(headers)
    size = len(block)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        subject.encode(),
        inbox,
        size,
        size + len(payload),
        block,
        payload,
    )


def check_size(command: bytes, max_payload: int) -> None:
    """Raises BusRefused (`payload_too_large`) for a publish whose headers and payload exceed the server's limit.

    The server would close the connection on it.
    """
    line, _, _ = command.partition(b"\r\n")
    size = int(line.rpartition(b" ")[2]) if line.startswith((b"PUB", b"HPUB")) else 0
    if size > max_payload:
        raise BusRefused(
            f"a message of {size} bytes exceeds the server's max_payload of {max_payload}",
            code="payload_too_large",
            details={"size": size, "max_payload": max_payload},
        )
