"""Connections of strangers: one request each, bounded in time, size and number, so that probes always get in.

Whoever connects is accepted at once. Where that makes too many, the one that has waited longest without a request
of the peer that has most of them is dropped: who holds sockets open takes places from himself alone.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address
from typing import Any, cast

import h11

from sidecar.adapters.http.guard import Request, is_loopback

log = logging.getLogger(__name__)

LONGEST_HEAD = 8_192
MOST_HEADERS = 64
HEAD_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0
# What a client still sends after it was answered is read for so long: a reset would take the answer from it.
LINGER_S = 1.0
MOST_CONNECTIONS = 64
MOST_OF_A_PEER = 32
_BACKLOG = 512

Answer = Callable[[Request], Awaitable[bytes]]
"""The bytes of a whole response. Raises nothing."""


class BadHead(Exception):
    """What came is no request; `status` says what of it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


Refuse = Callable[[BadHead], bytes]


class Door:
    """The open connections, and who has to go. Places are counted by peer address."""

    def __init__(
        self, answer: Answer, refuse: Refuse, *, head_timeout_s: float = HEAD_TIMEOUT_S, places: int = 1
    ) -> None:
        """`head_timeout_s`: how long a connection may take to ask; `places`: how many times the usual bounds."""
        self.answer = answer
        self.refuse = refuse
        self.head_timeout_s = head_timeout_s
        self._most = MOST_CONNECTIONS * places
        self._most_of_a_peer = MOST_OF_A_PEER * places
        # In the order in which they came.
        self._open: dict[HttpConnection, None] = {}
        self._of_peer: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: "HttpConnection") -> None:
        self._open[connection] = None
        self._of_peer[connection.peer] += 1
        if self._of_peer[connection.peer] > self._most_of_a_peer:
            self._evict(connection.peer, newest=connection)
        elif len(self._open) > self._most:
            self._evict(self._of_peer.most_common(1)[0][0], newest=connection)

    def leave(self, connection: "HttpConnection") -> None:
        if connection in self._open:
            del self._open[connection]
            self._of_peer[connection.peer] -= 1
            if not self._of_peer[connection.peer]:
                del self._of_peer[connection.peer]

    def spawn(self, work: Any) -> None:
        # Held in a set: the loop keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(work, name="admin-answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let answers that are being made go out, drop the rest."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LINGER_S)
        for connection in list(self._open):
            connection.finish()

    def _evict(self, peer: str, *, newest: "HttpConnection") -> None:
        """Of `peer`'s the oldest that has not asked yet, else one that was answered.

        The newest has yet to show what it wants; it goes only where all others are being answered.
        """
        others = (found for found in self._open if found.peer == peer and found is not newest)
        least = min(others, key=lambda found: found.claim, default=newest)
        (newest if least.is_answering else least).abort()


class HttpConnection(asyncio.Protocol):
    """One connection: a head within its time, one answer, the end. Bodies are not read."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_read = False
        self.is_answering = False
        self.peer = ""
        self._is_own_machine = False

    @property
    def claim(self) -> int:
        """How much it has to lose: 0 nothing, 1 an answer that may not have gone out, 2 one that is being made."""
        return 2 if self.is_answering else int(self._is_read)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = _address(transport.get_extra_info("peername"))
        self._is_own_machine = is_loopback(self.peer) or (
            self.peer != "" and self.peer == _address(transport.get_extra_info("sockname"))
        )
        # One limit for the whole head, from the first moment: a trickle does not extend it.
        self._limit(self._door.head_timeout_s)
        self._door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._limit(None)
        self._door.leave(self)

    def data_received(self, data: bytes) -> None:
        # A body, or requests after the first: read, so that the answer is not lost with the socket, and dropped.
        if self._is_read:
            return
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
            request = self._request(event) if isinstance(event, h11.Request) else None
        except h11.RemoteProtocolError as e:
            self._refuse(BadHead(_status(e), "not an HTTP/1 request that is understood here"))
            return
        except BadHead as e:
            self._refuse(e)
            return
        if request is not None:
            self._is_read = self.is_answering = True
            self._limit(None)
            self._door.spawn(self._respond(request))

    def eof_received(self) -> bool:
        # Half closed before it had asked: nothing will come.
        return self._is_read

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            # Its place is free now, not when the event loop comes to it.
            self._door.leave(self)

    def finish(self) -> None:
        """Send what is written and close."""
        if self._transport is not None and self._is_read:
            self._transport.close()
        else:
            self.abort()

    async def _respond(self, request: Request) -> None:
        try:
            self._write(await self._door.answer(request))
        finally:
            self.is_answering = False

    def _refuse(self, why: BadHead) -> None:
        self._is_read = True
        self._write(self._door.refuse(why))

    def _write(self, answer: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        transport.write(answer)
        if transport.can_write_eof():
            transport.write_eof()
        # Gone when the client closes; one that does not read, or goes on sending, is dropped.
        self._limit(ANSWER_TIMEOUT_S if transport.get_write_buffer_size() else LINGER_S)

    def _limit(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self.abort)

    def _request(self, event: h11.Request) -> Request:
        """Raises BadHead."""
        headers: dict[str, str] = {}
        # h11 bounds what is not whole yet; a head may also come whole, in one piece.
        size = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
        if len(event.headers) > MOST_HEADERS or size > LONGEST_HEAD:
            raise BadHead(431, f"a head has at most {MOST_HEADERS} headers and {LONGEST_HEAD} bytes")
        for name, value in event.headers:
            known, text = name.decode("ascii"), value.decode("latin-1")
            headers[known] = f"{headers[known]}, {text}" if known in headers else text
        return Request(
            method=event.method.decode("ascii"),
            path=event.target.decode("ascii").split("?", 1)[0],
            headers=headers,
            is_own_machine=self._is_own_machine,
        )


async def listen(door: Door, host: str, port: int) -> asyncio.Server:
    """Raises OSError when the port cannot be had."""
    return await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(door), host, port, reuse_address=True, backlog=_BACKLOG
    )


def _address(name: Any) -> str:
    """The address of a socket's end; one of IPv4 that came over an IPv6 socket in its own form."""
    if not isinstance(name, tuple) or not name:
        return ""
    text = str(name[0]).partition("%")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return text
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def _status(error: h11.RemoteProtocolError) -> int:
    hint = error.error_status_hint
    return hint if hint in (400, 431) else 400
