"""A server of bytes: reads one request, then does exactly what a test scripts, however broken."""

import asyncio
import json
import ssl
import struct
from binascii import crc32
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n"
    b"x-amzn-RequestId: request-1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def frame(payload: bytes | dict[str, Any], **headers: str) -> bytes:
    """An event-stream frame; header names are given with `_` for `-` and without their colon."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    block = b""
    for key, value in headers.items():
        name = ":" + key.replace("_", "-")
        block += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    prelude = struct.pack("!II", 16 + len(block) + len(body), len(block))
    prelude += struct.pack("!I", crc32(prelude))
    message = prelude + block + body
    return message + struct.pack("!I", crc32(message))


def event(kind: str, **payload: Any) -> bytes:
    return frame(
        {**payload, "p": "abcdefgh"}, event_type=kind, content_type="application/json", message_type="event"
    )


def exception(kind: str, message: str = "it went wrong", **payload: Any) -> bytes:
    return frame(
        {"message": message, **payload},
        exception_type=kind,
        content_type="application/json",
        message_type="exception",
    )


START = event("messageStart", role="assistant")
STOP = event("messageStop", stopReason="end_turn")
USAGE = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
METADATA = event("metadata", usage=USAGE, metrics={"latencyMs": 5})


def text(piece: str, index: int = 0) -> bytes:
    return event("contentBlockDelta", contentBlockIndex=index, delta={"text": piece})


def tool(use_id: str, name: str, arguments: str, index: int = 0) -> bytes:
    return (
        event("contentBlockStart", contentBlockIndex=index, start={"toolUse": {"toolUseId": use_id, "name": name}})
        + event("contentBlockDelta", contentBlockIndex=index, delta={"toolUse": {"input": arguments}})
        + event("contentBlockStop", contentBlockIndex=index)
    )


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer(content: list[dict[str, Any]], stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    """The body of a whole answer."""
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop,
        "usage": USAGE,
        "metrics": {"latencyMs": 5},
        **more,
    }


def response(body: bytes | dict[str, Any], *, status: int = 200, **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json", "content-length": str(len(data)), "connection": "close"}
    given |= {key.replace("_", "-"): value for key, value in headers.items()}
    head = "".join(f"{key}: {value}\r\n" for key, value in given.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + data


def sends(*pieces: bytes) -> Script:
    """Write the pieces and close."""

    async def script(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return script


def streams(*frames: bytes, is_ended: bool = True) -> Script:
    """A chunked stream of the frames, each in a chunk of its own."""
    end = [b"0\r\n\r\n"] if is_ended else []
    return sends(STREAM_HEAD, *(chunk(piece) for piece in frames), *end)


def then_hangs(script: Script) -> Script:
    async def hanging(writer: asyncio.StreamWriter) -> None:
        await script(writer)
        await writer.drain()
        await asyncio.Event().wait()

    return hanging


def then_resets(script: Script) -> Script:
    async def resetting(writer: asyncio.StreamWriter) -> None:
        await script(writer)
        await writer.drain()
        sock = writer.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER: close sends a reset
        writer.transport.abort()

    return resetting


class RawBedrock:
    """`disconnected` is set when the client has closed a connection on which an answer was under way."""

    def __init__(self) -> None:
        self.script: Script = sends()
        self.requests: list[bytes] = []
        self.received = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._exchange(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.disconnected.set()
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.requests.append(head + await reader.readexactly(length))
        self.received.set()
        answering = asyncio.ensure_future(self.script(writer))
        watching = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                self.disconnected.set()
            else:
                await answering
        finally:
            answering.cancel()
            watching.cancel()
            await asyncio.gather(answering, watching, return_exceptions=True)

    def on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self.handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def raw_bedrock(tls: ssl.SSLContext | None = None) -> AsyncIterator[RawBedrock]:
    raw = RawBedrock()
    server = await asyncio.start_server(raw.on_connect, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    raw.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield raw
    finally:
        server.close()
        await raw.stop()
