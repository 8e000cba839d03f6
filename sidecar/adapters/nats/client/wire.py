"""One connection's bytes: a short cut through nats-py for what is hot.

nats-py connects, authenticates and keeps the connection alive; messages do not pass through its queues and
tasks. Replaced are its parser (`_ps`) and its write queue; `docs/decisions/0001-reply-mux.md` says what that
gains. What is used of nats-py's inside is named in `_NEEDED` and checked once: another release stops the start
instead of failing at night.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import Client
from nats.errors import ProtocolError

from sidecar.adapters.nats.client.pace import Pace, PacedParser
from sidecar.adapters.nats.client.subscription import Handler
from sidecar.errors import BusUnavailable, ProtocolViolation, StartupError
from sidecar.wire.parser import Parser

log = logging.getLogger(__name__)

_NEEDED = ("_process_info", "_process_err", "_close")
_CONGESTED_BYTES = 4 << 20
_HANG_UP_S = 1.0


class WireClient(Client):
    """A nats-py client for one connection that never reconnects by itself.

    `on_lost` is called once, at the moment that the connection begins to close for whatever reason;
    `on_refused` with the text of each `-ERR` that leaves the connection open (permissions); `on_lame` when the
    server says that it is about to stop. `pace`: how fast it may be read, where strangers say what comes.
    """

    def __init__(
        self,
        *,
        on_lost: Callable[[], None],
        on_refused: Callable[[str], None],
        on_lame: Callable[[], None],
        pace: Pace | None = None,
    ) -> None:
        super().__init__()
        missing = [name for name in _NEEDED if not callable(getattr(self, name, None))]
        if missing:
            raise StartupError(f"this nats-py release lacks {', '.join(missing)}: install nats-py 2.16")
        self._parser = Parser(self) if pace is None else PacedParser(self, pace)
        self._ps: Any = self._parser
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._on_lame = on_lame
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._writer: asyncio.StreamWriter | None = None
        self._loop = asyncio.get_running_loop()
        self._next_sid = 0

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    @property
    def pieces_read(self) -> int:
        """How many pieces of what the socket gave were read, where their number is the strangers'; else 0."""
        return self._parser.pieces if isinstance(self._parser, PacedParser) else 0

    @property
    def server_info(self) -> Mapping[str, Any]:
        return dict(self._server_info)

    @property
    def address(self) -> str:
        url = self.connected_url
        return f"{url.hostname}:{url.port}" if url is not None else "nowhere"

    @property
    def discovered(self) -> list[str]:
        """Further servers of the cluster, as the server told."""
        return [f"{url.scheme}://{url.hostname}:{url.port}" for url in self.discovered_servers]

    def opened(self) -> None:
        """Begin to send; call once, when connected. Raises BusUnavailable when that is over already."""
        if self.is_closed:
            raise BusUnavailable("the connection broke at once")
        writer = getattr(self._transport, "_io_writer", None)
        if not isinstance(writer, asyncio.StreamWriter):
            raise StartupError("the NATS transport has no socket: give nats:// or tls:// URLs")
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Write soon, with all that others send in this turn of the loop. Raises BusUnavailable when closed."""
        if self._writer is None:
            raise BusUnavailable("not connected to NATS")
        if not self._out:
            self._loop.call_soon(self._write)
        self._out.append(data)
        self._out_bytes += len(data)

    def _write(self) -> None:
        # A closing transport takes no more, and uvloop's raises; the reading side reports the loss.
        if self._out and self._writer is not None and not self._writer.transport.is_closing():
            self._writer.write(b"".join(self._out) if len(self._out) > 1 else self._out[0])
        self._out.clear()
        self._out_bytes = 0

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the socket has not taken yet."""
        writer = self._writer
        return self._out_bytes + writer.transport.get_write_buffer_size() if writer is not None else 0

    @property
    def is_congested(self) -> bool:
        writer = self._writer
        return writer is not None and writer.transport.get_write_buffer_size() > _CONGESTED_BYTES

    async def drained(self) -> None:
        """Wait until the socket has taken most of what was written."""
        if self._writer is not None:
            await self._writer.drain()

    def add(self, subject: str, queue: str, handler: Handler) -> bytes:
        """Subscribe. Returns the id to give to `remove`."""
        self._next_sid += 1
        sid = b"w%d" % self._next_sid
        self._parser.handlers[sid] = handler
        self.send(b"SUB %b %b %b\r\n" % (subject.encode(), queue.encode(), sid))
        return sid

    def remove(self, sid: bytes) -> None:
        self.silence(sid)
        self._parser.handlers.pop(sid, None)

    def silence(self, sid: bytes) -> None:
        """Ask for no more messages; those on their way still reach their handler, until `remove`."""
        if sid in self._parser.handlers and self.is_open:
            self.send(b"UNSUB %b\r\n" % sid)

    async def ping(self) -> None:
        """A round trip: when it returns, the server has handled all that was sent before."""
        if self._writer is None:
            raise BusUnavailable("not connected to NATS")
        future: asyncio.Future[bool] = self._loop.create_future()
        self._write()
        self._writer.write(b"PING\r\n")
        self._pongs.append(future)
        await future

    def heard_pong(self) -> None:
        # nats-py's own handler breaks the read loop when the waiter has given up.
        self._pings_outstanding = 0
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)

    async def heard_message(self, subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """One that was under way when its subscription was given up; nothing subscribes past `add`."""

    async def heard_ping(self) -> None:
        self.send(b"PONG\r\n")

    async def heard_info(self, info: dict[str, Any]) -> None:
        await self._process_info(info)
        if info.get("ldm"):
            self._on_lame()

    async def heard_error(self, text: str) -> None:
        if "permissions violation" in text.lower():
            self._on_refused(text.strip("'"))
        else:
            await self._process_err(text.lower())

    def violation(self, error: ProtocolViolation) -> Exception:
        """nats-py's read loop ends the connection on its own error, and says nothing of why."""
        log.error("NATS does not keep to its protocol, ending the connection: %s", error.message)
        return ProtocolError(error.message)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._writer is not None:
            self._write()
            self._writer = None
            for future in self._pongs:
                if not future.done():
                    future.set_exception(BusUnavailable("the connection to NATS was lost"))
            self._pongs.clear()
            self._on_lost()
        await super()._close(status, do_cbs)

    async def hang_up(self) -> None:
        """Close, within a second, whatever state the other side is in."""
        transport = self._writer.transport if self._writer is not None else None
        try:
            async with asyncio.timeout(_HANG_UP_S):
                await self.close()
        except (OSError, RuntimeError, TimeoutError) as e:
            log.debug("closing the connection to NATS: %s", e)
        finally:
            if transport is not None:
                transport.abort()
