"""Proof that a connection is alive: nats-py can lose its reading task while it says that it is connected."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from sidecar.errors import SidecarError

_RANDOM = random.SystemRandom()


def jitter_s(most_s: float) -> float:
    """Any time up to `most_s`, so that many clients do not do the same thing at once."""
    return _RANDOM.uniform(0.0, most_s)


async def watch(
    ping: Callable[[], Awaitable[None]],
    lost: asyncio.Event,
    *,
    every_s: float,
    heard: Callable[[], int] = lambda: 0,
) -> str:
    """Ping until the connection is lost or does not answer within `every_s`. Returns what went wrong.

    `heard` counts what has been read: an answer that stands behind much else is on its way as long as that comes.
    """
    while True:
        try:
            async with asyncio.timeout(every_s):
                await lost.wait()
            return "the connection was closed"
        except TimeoutError:
            pass
        before = heard()
        try:
            async with asyncio.timeout(every_s):
                await ping()
        except TimeoutError:
            if heard() != before:
                continue
            return f"no answer to a ping within {every_s:g} s"
        except (SidecarError, OSError, RuntimeError) as e:
            return f"the ping failed: {e}"
