"""CPU time of the client's process for one model call: whole, and streamed in 50 pieces.

    python benchmarks/bedrock_cpu.py [--transport aiohttp|boto3] [--calls 2000] [--concurrency 16]

The server runs in a process of its own and answers with fixed bytes, so that only the client is measured.
"""

import argparse
import asyncio
import json
import multiprocessing
import struct
import time
from binascii import crc32
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.config.settings import BedrockSettings
from sidecar.models.call import ModelCall
from sidecar.models.content import Message
from sidecar.models.profile import Candidate, ModelProfile, Route
from sidecar.models.request import Params

PIECES = 50
USAGE = {"inputTokens": 12, "outputTokens": 200, "totalTokens": 212}


def frame(kind: str, payload: dict[str, Any]) -> bytes:
    body = json.dumps({**payload, "p": "abcdefghijklmnopqrstuvwxyz"}).encode()
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack("!I", crc32(prelude)) + headers + body
    return message + struct.pack("!I", crc32(message))


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Server(asyncio.Protocol):
    """Answers by the path: `converse` at once, `converse-stream` piece by piece, each a write of its own."""

    def __init__(self, pause_s: float) -> None:
        self._buffer = b""
        self._pause_s = pause_s
        body = json.dumps(
            {
                "output": {"message": {"role": "assistant", "content": [{"text": "word " * 100}]}},
                "stopReason": "end_turn",
                "usage": USAGE,
                "metrics": {"latencyMs": 5},
            }
        ).encode()
        self._whole = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-amzn-RequestId: r\r\nContent-Length: "
            + f"{len(body)}\r\n\r\n".encode()
            + body
        )
        self._head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\nx-amzn-RequestId: r\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self._pieces = [
            chunk(frame("messageStart", {"role": "assistant"})),
            *(
                chunk(frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "some words here "}}))
                for _ in range(PIECES)
            ),
            chunk(frame("contentBlockStop", {"contentBlockIndex": 0})),
            chunk(frame("messageStop", {"stopReason": "end_turn"}))
            + chunk(frame("metadata", {"usage": USAGE, "metrics": {"latencyMs": 5}}))
            + b"0\r\n\r\n",
        ]

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")
        )
        if len(body) < length:
            return
        self._buffer = body[length:]
        if b"converse-stream" in head.split(b"\r\n", 1)[0]:
            self._transport.write(self._head)
            self._write_next(0)
        else:
            self._transport.write(self._whole)

    def _write_next(self, place: int) -> None:
        self._transport.write(self._pieces[place])
        if place + 1 < len(self._pieces):
            asyncio.get_running_loop().call_later(self._pause_s, self._write_next, place + 1)


def run_server(pipe: Connection, pause_s: float) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Server(pause_s), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def make_call() -> ModelCall:
    model = ModelProfile(
        alias="model", model_id="us.anthropic.claude-sonnet-4-5-20250929-v1:0", family="claude", name="Model",
        routes=(Route(region="us-east-1", invoke_id="us.anthropic.claude-sonnet-4-5-20250929-v1:0"),),
    )  # fmt: skip
    return ModelCall(
        candidate=Candidate(profile=model, route=model.routes[0]),
        messages=(Message(role="user", content="What is JetStream? " * 20),),
        system="Answer in one sentence.",
        params=Params(max_tokens=512, temperature=0.2),
    )


async def measure(one: Callable[[], Awaitable[None]], calls: int, concurrency: int) -> tuple[float, float]:
    """CPU milliseconds and wall milliseconds a call."""
    left = calls

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one()

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return (time.process_time() - cpu) / calls * 1000, (time.perf_counter() - wall) / calls * 1000


async def bench(url: str, transport: Literal["aiohttp", "boto3"], calls: int, concurrency: int) -> None:
    manager = BedrockManager(BedrockSettings(endpoint_url=url, transport=transport))
    await manager.start()
    asked = make_call()

    async def whole() -> None:
        await manager.converse(asked)

    async def streamed() -> None:
        async for _ in manager.stream(asked):
            pass

    for name, one, count in (("converse", whole, calls), ("stream", streamed, calls // 4)):
        await measure(one, max(50, count // 10), concurrency)
        best = min([await measure(one, count, concurrency) for _ in range(3)])
        print(f"{transport:8} {name:9} {best[0]:6.3f} ms CPU {best[1]:6.3f} ms wall a call")
    await manager.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=("aiohttp", "boto3"), default="aiohttp")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--pause-ms", type=float, default=5.0, help="between the pieces of a stream")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=run_server, args=(there, options.pause_ms / 1000), daemon=True)
    server.start()
    work = bench(f"http://127.0.0.1:{here.recv()}", options.transport, options.calls, options.concurrency)
    if options.uvloop:
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)
    server.terminate()


if __name__ == "__main__":
    main()
