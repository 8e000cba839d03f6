"""Writes on their way into a stream, at once with one server, after a moment with more."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.support.jetstream.rules import EXPECTED, Refused
from tests.support.jetstream.stream import Stream
from tests.support.jetstream.wire import headers_of

_FENCED = f"{EXPECTED}-Subject: ".encode()
_IN_FLIGHT = Refused(400, 10164, "wrong last sequence")
_SAME_ID = Refused(409, 10158, "duplicate message id is in process")
_SEQUENCE, _ID = "sequence", "id"
COMMIT_S = 0.002


class Write(NamedTuple):
    """A message on its way into a stream."""

    stream: Stream
    subject: str
    header: bytes
    payload: bytes
    reply: bytes
    refusal: tuple[int, int, str] | None

    @property
    def keys(self) -> Iterator[tuple[str, str]]:
        """What no second write may touch while this one is under way."""
        headers = headers_of(self.header) if self.header else {}
        if EXPECTED in headers:
            yield _SEQUENCE, f"{self.stream.name} {headers.get(f'{EXPECTED}-Subject') or self.subject}"
        if "Nats-Msg-Id" in headers:
            yield _ID, f"{self.stream.name} {headers['Nats-Msg-Id']}"


class Storing:
    """`answer` gets a reply subject and an acknowledgement, `announce` what a stream republishes."""

    def __init__(
        self,
        servers: int,
        *,
        answer: Callable[[bytes, bytes], None],
        announce: Callable[[str, bytes, bytes, int], None],
    ) -> None:
        self._servers = servers
        self._answer = answer
        self._announce = announce
        self._in_flight: set[tuple[str, str]] = set()
        self._proposed: deque[Callable[[], None]] = deque()

    def take(self, write: Write, *, is_at_once: bool = False) -> None:
        if self._servers == 1 or is_at_once:
            self._acknowledge(write, self._store(write))
        else:
            self._propose(write)

    def _propose(self, write: Write) -> None:
        """A write that the other servers have to agree to: one at a time that checks a subject's sequence."""
        keys = set(write.keys)
        if taken := keys & self._in_flight:
            conflict = _IN_FLIGHT if _SEQUENCE in {kind for kind, _ in taken} else _SAME_ID
            self._acknowledge(write, _refusal(conflict, write.stream))
            return
        self._in_flight |= keys

        def commit() -> None:
            self._in_flight -= keys
            self._acknowledge(write, self._store(write))

        self._proposed.append(commit)
        asyncio.get_running_loop().call_later(COMMIT_S, lambda: self._proposed.popleft()())

    def _acknowledge(self, write: Write, ack: bytes) -> None:
        if write.reply:
            self._answer(write.reply, ack)

    def _store(self, write: Write) -> bytes:
        """Returns JetStream's acknowledgement."""
        stream, subject, header, payload, _, refusal = write
        try:
            if refusal is not None:
                raise Refused(*refusal)
            if self._servers == 1 and header and _FENCED in header:
                self._fence(write)
            stored = stream.store(subject, payload, header)
        except Refused as e:
            return _refusal(e, stream)
        if stored.entry is not None:
            found = stream.announcement(stored.entry, stored.before)
            if found is not None:
                name, lines, body = found
                self._announce(name, lines, body, stored.seq)
        more = b',"duplicate": true' if stored.is_duplicate else b""
        if stored.value is not None:
            more += b',"val":"%b"' % stored.value.encode()
        return b'{"stream":"%b","seq":%d%b}' % (stream.name.encode(), stored.seq, more)

    def _fence(self, write: Write) -> None:
        """With one server too: events of a job one at a time, as three would have it. Raises Refused."""
        keys = {key for key in write.keys if key[0] == _SEQUENCE}
        if keys & self._in_flight:
            raise _IN_FLIGHT
        if not self._in_flight:
            asyncio.get_running_loop().call_soon(self._in_flight.clear)
        self._in_flight |= keys


def _refusal(error: Refused, stream: Stream) -> bytes:
    text = '{"error":{"code":%d,"err_code":%d,"description":"%s"},"stream":"%s","seq":0}'
    values = (error.error["code"], error.error["err_code"], str(error).replace('"', '\\"'), stream.name)
    return (text % values).encode()
