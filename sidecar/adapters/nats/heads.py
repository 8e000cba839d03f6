"""The headers of many stored messages, without their bodies: a short-lived consumer, deleted when it is done.

Direct reads bring bodies with them, whatever is asked for; a consumer with `headers_only` does not. It is pulled,
so that as much comes at a time as was asked for, and nothing piles up at the server.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.errors import BusRefused, BusUnavailable, SidecarError
from sidecar.wire.headers import status_of

log = logging.getLogger(__name__)

AT_ONCE = 500
_NS = 1_000_000_000
# Should this process end before it deletes its consumer, the server does so after a while without pulls.
_INACTIVE_S = 30
_EXPIRES_S = 4.0
_SIZE = b"\r\nNats-Msg-Size: "

_encode = msgspec.json.Encoder().encode


class Head(NamedTuple):
    """A stored message but for its body: `headers` is the publisher's block, `size` the body's bytes."""

    seq: int
    subject: str
    headers: bytes
    size: int
    stored_at: float


class _Below:
    """The subjects that messages of the stream have."""

    def __init__(self, root: bytes) -> None:
        self._root = root

    def __contains__(self, subject: object) -> bool:
        return isinstance(subject, bytes) and subject.startswith(self._root)


class HeadPass:
    """Reads heads of one stream, whose subjects begin with `below`.

    Where no consumer may be made, bodies are read and thrown away: `reader` does that.
    """

    def __init__(self, mux: Mux, stream: str, reader: StreamReader, *, below: bytes) -> None:
        self._mux = mux
        self._stream = stream
        self._reader = reader
        self._below = _Below(below)

    async def read(self, pattern: str, *, first: int, last: int) -> AsyncGenerator[list[Head], None]:
        """Raises BusUnavailable, BusRefused."""
        name = f"heads-{secrets.token_hex(8)}"
        try:
            left = await self._create(name, pattern, first)
        except BusRefused as e:
            log.warning("no consumer may be made, bodies are read instead", extra={"error": e.message})
            async for part in self._with_bodies(pattern, first=first, last=last):
                yield part
            return
        pull = _Pull(self._mux, self._below)
        try:
            while left > 0 and first <= last:
                wanted = min(AT_ONCE, left, last - first + 1)
                found = await pull.take(f"CONSUMER.MSG.NEXT.{self._stream}.{name}", wanted)
                left, first = left - len(found), found[-1].seq + 1
                inside = [head for head in found if head.seq <= last]
                if inside:
                    yield inside
                if len(inside) < len(found):
                    return
        finally:
            pull.close()
            with suppress(SidecarError):
                await self._mux.api(f"CONSUMER.DELETE.{self._stream}.{name}")

    async def _create(self, name: str, pattern: str, first: int) -> int:
        config: dict[str, Any] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(first, 1),
            "ack_policy": "none",
            "filter_subject": pattern,
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_S * _NS,
        }
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        answer = await self._mux.api(f"CONSUMER.CREATE.{self._stream}.{name}.{pattern}", body)
        return int(answer.get("num_pending", 0))

    async def _with_bodies(self, pattern: str, *, first: int, last: int) -> AsyncGenerator[list[Head], None]:
        has_more = True
        while has_more:
            found, has_more = await self._reader.batch(pattern, seq=first, limit=AT_ONCE)
            heads = [
                Head(item.seq, item.subject, item.own_headers, len(item.payload), item.stored_at)
                for item in found
                if item.seq <= last
            ]
            if heads:
                yield heads
                first = heads[-1].seq + 1
            if len(heads) < len(found) or not found:
                return


class _Pull:
    """What a consumer was asked for, as it comes to an inbox of its own."""

    def __init__(self, mux: Mux, below: _Below) -> None:
        self._mux = mux
        self._inbox, self._subscription = mux.inbox_for(self._hear, expected=below)
        self._found: list[Head] = []
        self._wanted = 0
        self._error: SidecarError | None = None
        self._arrived = asyncio.Event()

    async def take(self, subject: str, wanted: int) -> list[Head]:
        """So many heads, or fewer where there are no more."""
        self._found, self._wanted, self._error = [], wanted, None
        self._arrived.clear()
        request = _encode({"batch": wanted, "expires": int(_EXPIRES_S * _NS)})
        self._mux.publish(self._mux.api_subject(subject), request, reply=self._inbox)
        try:
            async with asyncio.timeout(_EXPIRES_S + 1):
                await self._arrived.wait()
        except TimeoutError as e:
            raise BusUnavailable(f"NATS did not answer {subject} in time") from e
        if self._error is not None:
            raise self._error
        return self._found

    def close(self) -> None:
        self._mux.forget(self._subscription)

    def _hear(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        status = status_of(header) if header and not reply else None
        if status is not None:
            # 404 and 408: nothing more came in time; the rest: there is no such consumer any more.
            if not self._found or status not in (404, 408):
                self._error = BusUnavailable(f"a pass over stored messages ended early: {status}")
            self._arrived.set()
            return
        head = _head(subject, reply, header)
        if head is not None:
            self._found.append(head)
            if len(self._found) == self._wanted:
                self._arrived.set()


def _head(subject: bytes, reply: bytes, header: bytes) -> Head | None:
    """A message as a consumer delivers it: where it stands is told by the subject of its acknowledgement."""
    tokens = reply.split(b".")
    # $JS.ACK.<stream>.<consumer>.<times>.<seq>.<count>.<ns>.<pending>; longer with domain and account in front.
    at = 5 if len(tokens) == 9 else 7
    if len(tokens) < 9 or not (tokens[at].isdigit() and tokens[at + 2].isdigit()):
        return None
    cut = header.rfind(_SIZE)
    digits = header[cut + len(_SIZE) :].partition(b"\r\n")[0] if cut >= 0 else b""
    size = int(digits) if digits.isdigit() else 0
    own = header[:cut] if cut >= 0 else header
    stored_at = int(tokens[at + 2]) / _NS
    return Head(int(tokens[at]), subject.decode("utf-8", "replace"), own, size, stored_at)
