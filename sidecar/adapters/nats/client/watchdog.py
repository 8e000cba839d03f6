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


class Backoff:
    """Waits between attempts to connect: at once, then growing to `cap_s`, each cut by up to a half at random."""

    def __init__(self, *, base_s: float = 0.1, cap_s: float = 5.0) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._failures = 0

    @property
    def failures(self) -> int:
        return self._failures

    def reset(self) -> None:
        self._failures = 0

    def next_s(self) -> float:
        """How long to wait now; counts a failure."""
        self._failures += 1
        if self._failures == 1:
            return 0.0
        exponent = min(self._failures - 2, 16)
        full_s = min(self._cap_s, self._base_s * float(2**exponent))
        return full_s * _RANDOM.uniform(0.5, 1.0)
