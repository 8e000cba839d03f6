"""A wire that can be cut and slowed down, between a process and a server: TCP on the loopback interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sidecar.adapters.nats.embedded import HOST

CHUNK = 65536
# Whoever spoke over the wire has ended; their ends take a moment to come through.
END_S = 5.0


class Wire:
    """What goes in comes out, unless the wire is cut: then neither side hears of the other, not even its end."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._is_over = True
        self._server.close()
        # Connections that were accepted a moment ago have their tasks in the loop's next turns.
        await asyncio.sleep(0.05)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._whole.wait()
            if self._is_over:
                return
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
                ways = [
                    asyncio.create_task(self._carry(reader, far_writer)),
                    asyncio.create_task(self._carry(far_reader, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
                    await end(far_writer)
        finally:
            await end(writer)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()


async def end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    wire = Wire(port)
    await wire.start()
    try:
        yield wire
    finally:
        wire.heal()
        await wire.stop()
