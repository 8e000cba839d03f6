"""One tenant that asks much more than it can be answered, over a connection of its own: bytes, not a client."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_REPLY = b"MSG f."
_ERROR_REPLY = b"HMSG f."
_PIECE = 1 << 18


class Flood:
    """`send` writes requests whose replies are read and counted, by whether they are errors."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._task = asyncio.create_task(self._count())
        self.heard: Counter[str] = Counter()
        self.heard_bytes = 0
        self.last_at = 0.0

    async def send(self, subject: str, count: int, *, payload: bytes = b"") -> None:
        """`{i}` in the subject is the number of the request."""
        for begin in range(0, count, 500):
            lines = [
                b"PUB %b f.%d %d\r\n%b\r\n" % (subject.replace("{i}", str(i)).encode(), i, len(payload), payload)
                for i in range(begin, min(begin + 500, count))
            ]
            self._writer.write(b"".join(lines))
            await self._writer.drain()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        self._writer.close()

    async def _count(self) -> None:
        rest = b""
        loop = asyncio.get_running_loop()
        while piece := await self._reader.read(_PIECE):
            self.last_at = loop.time()
            self.heard_bytes += len(piece)
            data = rest + piece
            self.heard["errors"] += data.count(_ERROR_REPLY)
            self.heard["replies"] += data.count(_REPLY) - data.count(_ERROR_REPLY)
            if b"PING\r\n" in data:
                self._writer.write(b"PONG\r\n")
            # The beginning of a reply may be cut in two.
            rest = data[-(len(_ERROR_REPLY) - 1) :]


@asynccontextmanager
async def flooding(url: str) -> AsyncIterator[Flood]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_PIECE)
    await reader.readline()
    user = f'"user":"{parts.username}","pass":"{parts.password}",' if parts.username else ""
    writer.write(f'CONNECT {{{user}"verbose":false,"headers":true}}\r\nSUB f.* 1\r\nPING\r\n'.encode())
    flood = Flood(reader, writer)
    try:
        yield flood
    finally:
        await flood.close()
