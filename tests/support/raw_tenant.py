"""A tenant without a client library: its own TCP connection, on which it writes what no library would."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

ANSWER_S = 30.0
SEPARATORS = (
    *(
        bytes([code])
        for code in (*range(0x01, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F, 0x80, 0x85, 0xA0, 0xFF)
    ),
    b"\xc2\x85",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\xe3\x80\x80",
    b"\xed\xa0\x80",
)
"""What some language or other takes for white space, and what is no UTF-8: all of it passes the server."""


class RawTenant:
    """Speaks NATS's protocol by hand. `errors` are the server's `-ERR` lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tenant: str) -> None:
        self.tenant = tenant
        self.errors: list[bytes] = []
        self.deliveries: list[bytes] = []
        self._reader = reader
        self._writer = writer
        self._pongs: asyncio.Queue[None] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    def publish(self, subject: bytes, payload: bytes = b"", *, reply: bytes = b"", header: bytes = b"") -> None:
        where = subject + (b" " + reply if reply else b"")
        if header:
            sizes = b"%d %d" % (len(header), len(header) + len(payload))
            self._writer.write(b"HPUB %b %b\r\n%b%b\r\n" % (where, sizes, header, payload))
        else:
            self._writer.write(b"PUB %b %d\r\n%b\r\n" % (where, len(payload), payload))

    async def write(self, subject: bytes, reply: bytes, *, times: int) -> None:
        """Publish something empty so often, as fast as the socket takes it."""
        self._writer.write(b"PUB %b %b 0\r\n\r\n" % (subject, reply) * times)
        await self._writer.drain()

    def subscribe(self, subject: bytes, sid: bytes) -> None:
        self._writer.write(b"SUB %b %b\r\n" % (subject, sid))

    async def flush(self) -> None:
        """Return when the server has handled all that was written. Raises TimeoutError."""
        self._writer.write(b"PING\r\n")
        await self._writer.drain()
        async with asyncio.timeout(ANSWER_S):
            await self._pongs.get()

    async def close(self) -> None:
        self._listening.cancel()
        self._writer.close()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        while line := await self._reader.readline():
            verb = line[:4]
            if verb == b"PING":
                self._writer.write(b"PONG\r\n")
            elif verb == b"PONG":
                self._pongs.put_nowait(None)
            elif verb == b"-ERR":
                self.errors.append(line)
            elif verb in (b"MSG ", b"HMSG"):
                await self._reader.readexactly(int(line.split(b" ")[-1]) + 2)
                self.deliveries.append(line)


@asynccontextmanager
async def raw_tenant(url: str, tenant: str) -> AsyncIterator[RawTenant]:
    """Connected as the user of a URL."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    await reader.readline()
    options = {"user": at.username, "pass": at.password, "headers": True, "no_responders": True, "verbose": False}
    writer.write(b"CONNECT %b\r\n" % json.dumps(options).encode())
    speaker = RawTenant(reader, writer, tenant)
    try:
        await speaker.flush()
        yield speaker
    finally:
        await speaker.close()


class Publish(NamedTuple):
    """One command of a hostile tenant, within its permissions."""

    subject: bytes
    reply: bytes
    header: bytes
    payload: bytes


class Hostile:
    """Commands by chance, the same for the same seed."""

    def __init__(self, tenant: str, seed: int) -> None:
        self._own = tenant.encode()
        self._chance = random.Random(seed)

    def next(self) -> Publish:
        reply = self._reply() if self._chance.random() < 0.7 else b""
        header = self._header() if self._chance.random() < 0.5 else b""
        return Publish(self._subject(), reply, header, self._payload())

    def _subject(self) -> bytes:
        verb, tokens = self._chance.choice(
            [
                (b"request", 2),
                (b"request", 2),
                (b"ask", 2),
                (b"get", 2),
                (b"cancel", 2),
                (b"replay", 2),
                (b"tools", 2),
                (b"objects", 2),
                (b"jobs", 1),
                (b"models", 1),
            ]
        )
        known = {b"request": b"standard", b"ask": b"standard", b"tools": b"list", b"objects": b"get"}.get(
            verb, b"j"
        )
        last = self._chance.choice([known, self._odd(), self._odd()])
        return b".".join([b"llm.v1", verb, self._own, *[last] * (tokens - 1)])

    def _odd(self) -> bytes:
        """One token that reads like more: fields of a message's line, between bytes that might separate them."""
        between = self._chance.choice(SEPARATORS)
        sid = b"w%d" % self._chance.randint(1, 40)
        filler = b"f" * self._chance.randint(0, 40)
        number = b"%d" % self._chance.randint(1, 3000)
        forms = [
            [filler + number, sid],
            [filler + number, sid, sid],
            [filler, sid, b"5"],
            [b"", sid, filler],
            [filler, b"MSG", sid, b"0"],
            [filler + between * 3, sid, b""],
        ]
        return between.join(self._chance.choice(forms)).replace(b".", b"_") or b"x"

    def _reply(self) -> bytes:
        own = b"_INBOX_" + self._own + b"."
        return self._chance.choice(
            [
                own + self._odd(),
                own + b"x",
                b"_INBOX." + self._odd(),
                self._odd(),
                b"llm.v1.job.acme." + self._odd(),
            ]
        )

    def _header(self) -> bytes:
        odd = self._odd()
        chance = self._chance
        return chance.choice(
            [
                b"NATS/1.0\r\nLlm-Job-Id: %b\r\n\r\n" % odd,
                b"NATS/1.0\r\nLlm-Job-Id: h%d%b\r\n\r\n" % (chance.randint(0, 9), chance.choice(SEPARATORS)),
                b"NATS/1.0\r\n%b: x\r\ntraceparent: %b\r\n\r\n" % (odd, odd),
                b"NATS/1.0\r\nNats-Stream: LLM_REQ\r\nNats-Sequence: 1\r\nNats-Subject: a.b\r\n\r\n",
                b"NATS/1.0 %d %b\r\n\r\n" % (chance.choice([100, 204, 404, 408, 409, 503]), odd),
                b"NATS/1.0 503\r\n\r\n",
                b"NATS/1.0 404\r\nLlm-Job-Id: s%d\r\n\r\n" % chance.randint(0, 99),
                b"NATS/1.0\n\n%b" % odd,
                b"NATS/1.0",
                # Not of one byte: nats-server up to 2.15.1 ends itself where a stream republishes such a message.
                chance.randbytes(chance.randint(2, 40)),
                b"\r\n",
                b"abc",
                b"\r\n\r\n",
                b"NATS/1.0\r\n" + b"A: b\r\n" * 200 + b"\r\n",
            ]
        )

    def _payload(self) -> bytes:
        chance = self._chance
        return chance.choice(
            [
                b"",
                b'{"stream":"KV_LLM_JOB","seq":%d}' % chance.randint(1, 99),
                b'{"balance":-999999}',
                b'{"messages":[{"role":"user","content":"[[tokens=1]] x"}],"model":"claude-sonnet-4-5"}',
                b"\r\nMSG llm.v1.job.acme.x w1 2\r\nhi\r\n",
                chance.randbytes(chance.randint(0, 60)),
            ]
        )
