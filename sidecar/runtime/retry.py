"""Trying again while the other side is away, by tenacity, with the clock that the caller was given."""

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sidecar.errors import BusUnavailable, SidecarError
from sidecar.runtime.clock import Clock

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class RetryDelay:
    """The pauses between tries of `what`: from `next_s` on, each `factor` times the last one, `longest_s` at most.

    For loops that have more to do after a failure than to wait; else see `keep_trying`. `level` is the log's;
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

    def tell(self, error: SidecarError) -> None:
        log.log(self.level, "%s failed, trying again", self.what, extra={"error": error.message})

    def pause_s(self, error: SidecarError) -> float:
        """The pause after a try that failed with `error`: as long as the other side asked for where it said so."""
        pause_s = self.take_s()
        return getattr(error, "retry_after", None) or pause_s

    async def after(self, error: SidecarError) -> None:
        """Wait after a try that failed with `error`."""
        self.tell(error)
        await self.clock.sleep(self.pause_s(error))


async def keep_trying(what: str, attempt: Callable[[], Awaitable[T]], *, clock: Clock) -> T:
    """Repeat an idempotent `attempt` until the bus takes it. Other errors pass."""
    # The first try outside of tenacity, which costs 60 us to enter: nearly all of them succeed.
    try:
        return await attempt()
    except BusUnavailable as e:
        return await again(RetryDelay(clock, what), attempt, e)


async def again(delay: RetryDelay, attempt: Callable[[], Awaitable[T]], error: BusUnavailable) -> T:
    """Repeat what failed with `error`, until it does not fail for want of the bus."""
    from tenacity import AsyncRetrying, retry_if_exception_type

    first = [error]

    async def once() -> T:
        if first:
            raise first.pop()
        return await attempt()

    def pause_s(state: "RetryCallState") -> float:
        failed = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(failed, SidecarError):
            return 0.0
        delay.tell(failed)
        return delay.pause_s(failed)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(BusUnavailable), wait=pause_s, sleep=delay.clock.sleep, reraise=True
    )
    return await retrying(once)
