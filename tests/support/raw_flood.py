"""A tenant that writes requests as fast as its socket takes them, in a process of its own, for some seconds.

    python -m tests.support.raw_flood nats://globex:p@127.0.0.1:4222 5 SUBJECT[=REPLY] …

Each subject in turn, 500 requests at once. It prints how many it sent.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.raw_tenant import raw_tenant

AT_ONCE = 500
ROOT = Path(__file__).parents[2]


async def flood(url: str, seconds: float, aims: Sequence[str]) -> int:
    """Returns how many requests were written."""
    sent = 0
    async with raw_tenant(url, "globex") as globex:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for aim in aims:
                subject, _, reply = aim.partition("=")
                await globex.write(subject.encode(), reply.encode() or b"_INBOX_globex.1", times=AT_ONCE)
                sent += AT_ONCE
        # Nothing was refused: all of it is what a tenant may do.
        assert not globex.errors, globex.errors[0]
    return sent


async def flooding(url: str, seconds: float, aims: Sequence[str]) -> int:
    """Run it as a process of its own. Returns how many requests it sent."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.raw_flood",
        url,
        str(seconds),
        *aims,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        said, _ = await process.communicate()
        return int(said)
    finally:
        if process.returncode is None:
            process.kill()


if __name__ == "__main__":
    print(asyncio.run(flood(sys.argv[1], float(sys.argv[2]), sys.argv[3:])))
