"""A NATS server that says whatever a test wants: to see what clients make of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sidecar.adapters.nats.embedded import HOST

WAIT_S = 30.0
_INFO = b'INFO {"server_id":"lying","version":"2.15.1","headers":true,"max_payload":1048576}\r\n'


class LyingServer:
    """Answers pings and remembers subscriptions. `say` writes to the client that connected last."""

    def __init__(self) -> None:
        self.sids: dict[bytes, bytes] = {}
        self.published: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.news = asyncio.Condition()
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def say(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def deliver(
        self, sid: bytes, subject: bytes, payload: bytes, *, reply: bytes = b"", header: bytes = b""
    ) -> None:
        where = b"%b %b" % (subject, sid) + (b" " + reply if reply else b"")
        if header:
            sizes = b"%d %d" % (len(header), len(header) + len(payload))
            self.say(b"HMSG %b %b\r\n%b%b\r\n" % (where, sizes, header, payload))
        else:
            self.say(b"MSG %b %d\r\n%b\r\n" % (where, len(payload), payload))

    async def subscription(self, subject: bytes) -> bytes:
        """The id under which the client subscribed to what begins with `subject`. Waits for it."""
        found: list[bytes] = []

        def is_there() -> bool:
            found[:] = [sid for sid, name in self.sids.items() if name.startswith(subject)]
            return bool(found)

        await self.until(is_there)
        return found[-1]

    async def until(self, is_so: object) -> None:
        assert callable(is_so)
        async with asyncio.timeout(WAIT_S), self.news:
            await self.news.wait_for(is_so)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._writer = writer
        self.sids.clear()
        writer.write(_INFO)
        try:
            with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
                while line := await reader.readline():
                    await self._hear(line.rstrip(b"\r\n").split(b" "), reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _hear(self, fields: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verb = fields[0].upper()
        if verb == b"PING":
            writer.write(b"PONG\r\n")
        elif verb == b"SUB":
            self.sids[fields[-1]] = fields[1]
        elif verb == b"UNSUB":
            self.sids.pop(fields[1], None)
        elif verb in (b"PUB", b"HPUB"):
            await reader.readexactly(int(fields[-1]) + 2)
            self.published.append((fields[1], fields[2]))
        async with self.news:
            self.news.notify_all()


@asynccontextmanager
async def lying_server() -> AsyncIterator[LyingServer]:
    server = LyingServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
