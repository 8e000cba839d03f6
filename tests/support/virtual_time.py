"""Virtual time for a whole event loop: hours of deadlines pass in milliseconds, always alike.

Everything that waits on the loop (timers, `asyncio.timeout`, sleeps) moves with it, also in code that never heard
of a clock of ours. Time stands still while anything can run and jumps to the next timer when nothing can.
"""

import asyncio
import math
import os
import time
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
_POLL_EVERY = 64
_DEADLOCK_S = 30.0
_PATIENCE_S = float(os.environ.get("VIRTUAL_PATIENCE_S", "300"))


class LoopTime:
    """The time of one loop, taken over from the machine's: instead of waiting in its selector it moves on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        selector = getattr(loop, "_selector", None)
        if selector is None:
            raise RuntimeError("virtual time needs asyncio's own event loop")
        self.now = 0.0
        self._began = time.perf_counter()
        self._wait: Callable[[float | None], list[Any]] = selector.select
        self._settlers: list[asyncio.Future[None]] = []
        self._rounds = 0
        selector.select = self._select
        self._loop = weakref.ref(loop)
        loop._clock_resolution = math.ulp(self.now)  # type: ignore[attr-defined]
        loop.time = self._time  # type: ignore[method-assign]

    def be_patient(self) -> None:
        """Something new begins, and may take its own while of real time."""
        self._began = time.perf_counter()

    def _time(self) -> float:
        return self.now

    def _select(self, timeout: float | None = None) -> list[Any]:
        """What the loop waits in: `timeout` is 0 while callbacks are ready, None when no timer is set."""
        if timeout is not None and timeout <= 0:
            # Sockets and threads are rare here; looking for them each time would cost a system call a round.
            self._rounds += 1
            if self._rounds % _POLL_EVERY:
                return []
            if time.perf_counter() - self._began > _PATIENCE_S:
                raise RuntimeError(f"{self.now:.0f} s of virtual time have taken {_PATIENCE_S:.0f} s: a hang?")
            return self._wait(0)
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
        self._move_on(timeout)
        return []

    def _move_on(self, seconds: float) -> None:
        """To the moment of a timer, or up to a nanosecond later: sums of steps come out as they were meant."""
        then = self.now + seconds
        rounded = round(then, 9)
        self.now = rounded if rounded >= then else then
        # A timer fires when its moment has come and not before: what finds that it is early would set another one
        # for no time at all, and so on for ever.
        self._loop()._clock_resolution = math.ulp(self.now)  # type: ignore[attr-defined,union-attr]

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
    """`Clock` of a loop with virtual time: the running one, from the clock's first use on.

    `skew_s` may be set at any time: how far `now` is off, as when a machine's clock is stepped.
    """

    def __init__(self, *, epoch_s: float = EPOCH_S) -> None:
        self._epoch_s = epoch_s
        self._kept: LoopTime | None = None
        self._began = 0.0
        self.skew_s = 0.0
        with suppress(RuntimeError):
            self._attach()

    def _attach(self) -> LoopTime:
        if self._kept is None:
            self._kept = loop_time(asyncio.get_running_loop())
            self._kept.be_patient()
            self._began = self._kept.now
        return self._kept

    def now(self) -> float:
        return self._epoch_s + self.skew_s + self.monotonic()

    def monotonic(self) -> float:
        return self._kept.now - self._began if self._kept is not None else 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(self._delay(seconds))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._delay(delay_s), callback)

    def _delay(self, seconds: float) -> float:
        """At least what moves the loop's time on: differences of moments can be smaller."""
        return max(seconds, math.ulp(self._attach().now)) if seconds > 0 else 0.0

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        await self._attach().settle()

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, each timer firing at its own moment."""
        until = self._attach().now + seconds
        await self.settle()
        loop = asyncio.get_running_loop()
        passed = loop.create_future()
        loop.call_at(until, passed.set_result, None)
        await passed
        await self.settle()

    async def run(self, work: Coroutine[Any, Any, T], *, limit_s: float = 3600.0) -> T:
        """Run `work` to its end. Raises TimeoutError, and cancels it, when that takes more than `limit_s`."""
        self._attach()
        async with asyncio.timeout(limit_s):
            return await work
