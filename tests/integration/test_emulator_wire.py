"""Faults on the wire, seen through a bare socket: exactly the intended breakage and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer

from sidecar.emulator import Emulator
from tests.support.emulator import NOVA, user

LONG_S = 60.0


class Wire(NamedTuple):
    """What came: `ending` is fin, reset, or complete (the transfer ended properly)."""

    status: int
    headers: dict[str, str]
    body: bytes
    ending: str

    def events(self) -> list[str]:
        buffer = EventStreamBuffer()
        buffer.add_data(self.body)
        return [e.headers.get(":event-type") or e.headers.get(":exception-type") or "error" for e in buffer]


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as running:
        yield running


async def open_call(emulator: Emulator, text: str, operation: str) -> tuple[Any, Any]:
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"messages": user(text)}).encode()
    head = f"POST /model/{NOVA.replace(':', '%3A')}/{operation} HTTP/1.1\r\nHost: {host}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


async def read_chunk(reader: asyncio.StreamReader) -> bytes | None:
    """The next chunk; None at the proper end. Raises IncompleteReadError where the connection ended before."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    data = await reader.readexactly(size + 2)
    return data[:-2] if size else None


async def call(emulator: Emulator, text: str, operation: str = "converse-stream") -> Wire:
    reader, writer = await open_call(emulator, text, operation)
    status, headers, body, ending = 0, {}, b"", "complete"
    try:
        async with asyncio.timeout(LONG_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            status = int(head[0].split()[1])
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
            if "content-length" in headers:
                wanted = int(headers["content-length"])
                while len(body) < wanted:
                    piece = await reader.read(65536)
                    if not piece:
                        raise asyncio.IncompleteReadError(body, wanted)
                    body += piece
            else:
                while (chunk := await read_chunk(reader)) is not None:
                    body += chunk
    except asyncio.IncompleteReadError:
        ending = "fin"
    except ConnectionResetError:
        ending = "reset"
    writer.close()
    return Wire(status, headers, body, ending)


async def test_a_stream_has_the_services_headers(emulator: Emulator) -> None:
    wire = await call(emulator, "[[tokens=4]]")
    assert wire.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert wire.headers["transfer-encoding"] == "chunked"
    assert wire.headers["x-amzn-requestid"]
    assert wire.events() == ["messageStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"]


async def test_a_refusal_has_the_services_headers(emulator: Emulator) -> None:
    wire = await call(emulator, "[[fault=throttling retry_after=1.5]]")
    assert wire.status == 429
    assert wire.headers["x-amzn-errortype"].split(":")[0] == "ThrottlingException"
    assert wire.headers["retry-after"] == "1.5"
    assert json.loads(wire.body) == {"message": "Too many tokens, please wait before trying again."}


@pytest.mark.parametrize(("fault", "ending"), [("cut", "complete"), ("close", "fin"), ("reset", "reset")])
async def test_streams_break_in_the_told_way(emulator: Emulator, fault: str, ending: str) -> None:
    wire = await call(emulator, f"[[fault={fault} at=3]]")
    assert wire.status == 200
    assert wire.ending == ending
    assert wire.events() == ["messageStart", "contentBlockDelta", "contentBlockDelta"]
    whole = (await call(emulator, "[[latency_ms=0 fault=stall s=0 at=3]]")).body
    is_inside_a_frame = len(wire.body) > len(b"".join(split_frames(whole)[:3]))
    assert is_inside_a_frame == (fault == "cut")


def split_frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize(("fault", "ending"), [("close", "fin"), ("reset", "reset")])
@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
async def test_connections_break_before_the_headers(
    emulator: Emulator, operation: str, fault: str, ending: str
) -> None:
    wire = await call(emulator, f"[[fault={fault} at=headers]]", operation)
    assert (wire.status, wire.body, wire.ending) == (0, b"", ending)


@pytest.mark.parametrize(("fault", "ending"), [("cut", "complete"), ("close", "fin"), ("reset", "reset")])
async def test_plain_replies_break_in_the_middle(emulator: Emulator, fault: str, ending: str) -> None:
    wire = await call(emulator, f"[[fault={fault}]]", "converse")
    assert wire.status == 200
    assert wire.ending == ending
    assert wire.body.startswith(b'{"metrics"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(wire.body)


@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
async def test_a_success_may_be_empty_or_html(emulator: Emulator, operation: str) -> None:
    empty = await call(emulator, "[[fault=empty]]", operation)
    assert (empty.status, empty.body, empty.ending) == (200, b"", "complete")
    page = await call(emulator, "[[fault=html]]", operation)
    assert page.headers["content-type"] == "text/html"
    assert page.body.startswith(b"<!DOCTYPE html>")


async def test_a_wrong_checksum_arrives(emulator: Emulator) -> None:
    with pytest.raises(ChecksumMismatch):
        (await call(emulator, "[[fault=bad_crc]]")).events()


async def test_a_huge_frame_has_the_told_size(emulator: Emulator) -> None:
    wire = await call(emulator, "[[tokens=1 fault=huge_frame bytes=2000000]]")
    assert max(len(frame) for frame in split_frames(wire.body)) > 2_000_000
    assert wire.events()[-1] == "metadata"


async def test_a_drip_brings_the_same_bytes(emulator: Emulator) -> None:
    slow = await call(emulator, "[[tokens=1 fault=drip bytes=7]]")
    assert slow.events() == ["messageStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"]


async def test_a_stall_holds_the_connection_open(emulator: Emulator) -> None:
    reader, writer = await open_call(emulator, "[[fault=stall at=2 s=600]]", "converse-stream")
    await reader.readuntil(b"\r\n\r\n")
    frames = b""
    while frames.count(b":event-type") < 2:
        frames += await read_chunk(reader) or b""
    rest = asyncio.ensure_future(reader.read(1))
    done, _ = await asyncio.wait([rest], timeout=0.2)
    assert not done
    assert emulator.active_calls == 1
    rest.cancel()
    writer.close()


@pytest.mark.parametrize("text", ["[[tokens=4000 tps=20]]", "[[fault=stall at=2]]", "[[latency_ms=600000]]"])
async def test_a_client_that_leaves_is_noted(emulator: Emulator, text: str) -> None:
    reader, writer = await open_call(emulator, text, "converse-stream")
    if "latency" not in text:
        await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(LONG_S):
        await emulator.wait_until(lambda e: e.active_calls == 1)
        writer.transport.abort()
        await emulator.wait_until(lambda e: e.active_calls == 0)
    [record] = emulator.calls
    assert record.aborted_at is not None
    assert record.aborted_at >= record.started_at
    assert record.output_tokens < 4_000
    assert emulator.counters()["total"]["aborted"] == 1


async def test_tokens_are_paced(emulator: Emulator) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    wire = await call(emulator, "[[tokens=40 tps=100 latency_ms=50 ttft_ms=50]]")
    assert wire.events()[-1] == "metadata"
    # A lower bound only: the machine may be slow, the model may not be fast.
    assert loop.time() - began >= 0.49


async def test_unknown_paths_and_bad_bodies_are_refused(emulator: Emulator) -> None:
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    for request, status in (
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /model/a.b/converse HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", b"400"),
        (b"POST /model/a.b/converse HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{", b"400"),
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        assert (await reader.readuntil(b"\r\n")).split()[1] == status
        writer.close()
