"""Nanoseconds a message: reading NATS's protocol, with and without the guard of the subscription, and dropping
requests of a tenant that is not heard.

    python -m benchmarks.wire_parser [--rounds 300]

The stream is what a replica hears: acknowledgements, reads with headers, requests with a reply subject, in pieces
as a socket gives them. `docs/decisions/strict-wire.md` has figures.
"""

import argparse
import asyncio
import time
from collections import Counter
from statistics import median

from sidecar.adapters.nats.client.subscription import dropping, guarded
from sidecar.adapters.nats.fair.deaf import dropper
from sidecar.wire.matching import Misdelivered
from sidecar.wire.parser import Parser

INBOX = b"_INBOX.0123456789abcdef012345."
PIECE = 16_384
HEADER = b"NATS/1.0\r\nNats-Stream: LLM_JOB\r\nNats-Subject: $KV.x\r\nNats-Sequence: 1\r\n\r\n"


class Receiver:
    """Nobody hears what has no handler."""

    max_payload = 1 << 20


def stream() -> tuple[list[bytes], int]:
    """The pieces, and how many messages they are."""
    messages: list[bytes] = []
    for i in range(400):
        ack = b'{"stream":"LLM_REQ","seq":%d}' % i
        messages.append(b"MSG %b%d w1 %d\r\n%b\r\n" % (INBOX, i, len(ack), ack))
        if i % 4 == 0:
            body = HEADER + b"x" * 600
            messages.append(b"HMSG %b%d w1 %d %d\r\n%b\r\n" % (INBOX, i, len(HEADER), len(body), body))
            messages.append(b"MSG llm.v1.get.acme.job%d w9 _INBOX_acme.abc.def 2\r\n{}\r\n" % i)
    data = b"".join(messages)
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)], len(messages)


def ignore(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
    """A handler that costs nothing."""


async def once(parser: Parser, pieces: list[bytes], count: int) -> float:
    begun = time.perf_counter_ns()
    for piece in pieces:
        await parser.parse(piece)
    return (time.perf_counter_ns() - begun) / count


def flood() -> tuple[list[bytes], int]:
    data = b"".join(b"MSG llm.v1.get.globex.j%d w9 _INBOX_globex.1 0\r\n\r\n" % i for i in range(1000))
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)], 1000


async def run(rounds: int) -> None:
    pieces, count = stream()
    plain, checked = (Parser(Receiver()) for _ in range(2))  # type: ignore[arg-type]
    plain.handlers.update({b"w1": ignore, b"w9": ignore})
    misdelivered = Misdelivered()
    checked.handlers[b"w1"] = guarded(f"{INBOX.decode()}*", ignore, misdelivered)
    checked.handlers[b"w9"] = guarded("llm.v1.get.*.*", ignore, misdelivered)
    deaf = Parser(Receiver())  # type: ignore[arg-type]
    drops = dropper({b"globex": Counter[str]()}, "get", position=3)
    deaf.handlers[b"w9"] = dropping(guarded("llm.v1.get.*.*", ignore, misdelivered), drops)
    dropped = median([await once(deaf, *flood()) for _ in range(rounds)])
    figures = [[await once(parser, pieces, count) for parser in (plain, checked)] for _ in range(rounds)]
    read, with_guard = (median(column) for column in zip(*figures, strict=True))
    print(f"{read:.0f} ns read, {with_guard:.0f} ns with the subscription's guard, {dropped:.0f} ns dropped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    asyncio.run(run(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
