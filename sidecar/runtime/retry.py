"""Trying again while the other side is away: pauses that grow, by the clock that the caller was given."""

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sidecar.errors import BusUnavailable, SidecarError
from sidecar.runtime.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class RetryDelay:
    """The pauses between tries of `what`: from `next_s` on, each `factor` times the last one, `longest_s` at most.

    Made where the trying begins: a first try that succeeds pays for nothing else. `level` is that of the log;
    `spread` is the part of each pause that chance may take off, for what many replicas try at the same time.
    """

    clock: Clock
    what: str
    next_s: float = 0.05
    longest_s: float = 2.0
    factor: float = 2.0
    level: int = logging.WARNING
    spread: float = 0.0

    def take_s(self) -> float:
        """The next pause, in seconds; the one after it is longer."""
        pause_s = self.next_s
        self.next_s = min(pause_s * self.factor, self.longest_s)
        return pause_s * (1.0 - self.spread * random.random()) if self.spread else pause_s  # noqa: S311

    async def after(self, error: SidecarError) -> None:
        """Wait after a try that failed with `error`, as long as the other side asked for where it said so."""
        log.log(self.level, "%s failed, trying again", self.what, extra={"error": error.message})
        pause_s = self.take_s()
        await self.clock.sleep(getattr(error, "retry_after", None) or pause_s)


async def keep_trying(what: str, attempt: Callable[[], Awaitable[T]], *, clock: Clock) -> T:
    """Repeat an idempotent `attempt` until the bus takes it. Other errors pass."""
    delay = RetryDelay(clock, what)
    while True:
        try:
            return await attempt()
        except BusUnavailable as e:
            await delay.after(e)
