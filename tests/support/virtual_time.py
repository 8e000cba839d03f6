"""Virtual time for a whole event loop: hours of deadlines pass in milliseconds, always alike.

Everything that waits on the loop (timers, `asyncio.timeout`, sleeps) moves with it, also in code that never heard
of a clock of ours. Time stands still while anything can run and jumps to the next timer when nothing can.
"""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
_POLL_EVERY = 64
_DEADLOCK_S = 30.0


class LoopTime:
    """The time of one loop, taken over from the machine's: instead of waiting in its selector it moves on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        selector = getattr(loop, "_selector", None)
        if selector is None:
            raise RuntimeError("virtual time needs asyncio's own event loop")
        self.now = 0.0
        self._wait: Callable[[float | None], list[Any]] = selector.select
        self._settlers: list[asyncio.Future[None]] = []
        self._rounds = 0
        selector.select = self._select
        loop.time = self._time  # type: ignore[method-assign]

    def _time(self) -> float:
        return self.now

    def _select(self, timeout: float | None = None) -> list[Any]:
        """What the loop waits in: `timeout` is 0 while callbacks are ready, None when no timer is set."""
        if timeout is not None and timeout <= 0:
            # Sockets and threads are rare here; looking for them each time would cost a system call a round.
            self._rounds += 1
            return self._wait(0) if self._rounds % _POLL_EVERY == 0 else []
        events = self._wait(0)
        if events:
            return events
        if self._settlers:
            for waiter in self._settlers:
                if not waiter.done():
                    waiter.set_result(None)
            self._settlers.clear()
            return []
        if timeout is None:
            events = self._wait(_DEADLOCK_S)
            if not events:
                raise RuntimeError("nothing is left that could ever wake this loop")
            return events
        # Rounded, so that sums of steps come out as the timers were set.
        self.now = round(self.now + timeout, 9)
        return []

    async def settle(self) -> None:
        """Until nothing can run without time passing."""
        waiter = asyncio.get_running_loop().create_future()
        self._settlers.append(waiter)
        await waiter


_TIMES: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopTime]" = weakref.WeakKeyDictionary()


def loop_time(loop: asyncio.AbstractEventLoop) -> LoopTime:
    """The virtual time of a loop, which has it from the first call on, for the rest of its life."""
    found = _TIMES.get(loop)
    if found is None:
        found = _TIMES[loop] = LoopTime(loop)
    return found


class VirtualClock:
    """`Clock` of a loop with virtual time; making one gives the loop that time.

    `skew_s` may be set at any time: how far `now` is off, as when a machine's clock is stepped.
    """

    def __init__(self, *, epoch_s: float = EPOCH_S, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._time = loop_time(self._loop)
        self._began = self._time.now
        self._epoch_s = epoch_s
        self.skew_s = 0.0

    def now(self) -> float:
        return self._epoch_s + self.skew_s + self.monotonic()

    def monotonic(self) -> float:
        return self._time.now - self._began

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(delay_s, 0.0), callback)

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        await self._time.settle()

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, each timer firing at its own moment."""
        until = self._time.now + seconds
        await self.settle()
        passed = self._loop.create_future()
        self._loop.call_at(until, passed.set_result, None)
        await passed
        await self.settle()

    async def run(self, work: Coroutine[Any, Any, T], *, limit_s: float = 3600.0) -> T:
        """Run `work` to its end. Raises TimeoutError, and cancels it, when that takes more than `limit_s`."""
        async with asyncio.timeout(limit_s):
            return await work
