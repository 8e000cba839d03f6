"""A clock that stands still until a test moves it: hours of deadlines pass in milliseconds, always alike."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine, Sized
from typing import Any, TypeVar

T = TypeVar("T")

_EPOCH_S = 1_800_000_000.0
_ROUNDS = 64


class MemoryClock:
    """`Clock` twin with virtual time. Sleepers wake in order of their time, then of their call.

    Only what sleeps on this clock moves with it: code under test must take its timeouts from the clock too.
    """

    def __init__(self, *, epoch_s: float = _EPOCH_S) -> None:
        self._epoch_s = epoch_s
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._epoch_s + self._elapsed_s

    def monotonic(self) -> float:
        return self._elapsed_s

    steady = monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._order), wake))
        await wake

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "asyncio.Future[None]":
        wake = asyncio.get_running_loop().create_future()
        wake.add_done_callback(lambda done: None if done.cancelled() else callback())
        heapq.heappush(self._sleepers, (self._elapsed_s + max(delay_s, 0.0), next(self._order), wake))
        return wake

    @property
    def sleeping(self) -> int:
        """How many sleepers wait."""
        return sum(not wake.done() for _, _, wake in self._sleepers)

    @property
    def next_wake(self) -> float | None:
        """When the next sleeper wakes, on `monotonic`; None when nobody sleeps."""
        self._forget_gone()
        return self._sleepers[0][0] if self._sleepers else None

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        # How many callbacks wait is private to the loop, and unknown with uvloop: rounds must do there.
        waiting: Sized | None = getattr(asyncio.get_running_loop(), "_ready", None)
        rounds = 0
        while waiting or (rounds < _ROUNDS and waiting is None) or not rounds:
            await asyncio.sleep(0)
            rounds += 1

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking each sleeper at its own moment."""
        until = self._elapsed_s + seconds
        await self.settle()
        while (wake_at := self.next_wake) is not None and wake_at <= until:
            self._wake(wake_at)
            await self.settle()
        self._elapsed_s = until

    async def step(self) -> bool:
        """Go on to the next sleeper's moment. False when nobody sleeps."""
        await self.settle()
        wake_at = self.next_wake
        if wake_at is None:
            return False
        self._wake(wake_at)
        await self.settle()
        return True

    async def run(self, work: Coroutine[Any, Any, T], *, limit_s: float = 3600.0) -> T:
        """Run `work` to its end, letting as much time pass as it takes.

        Raises TimeoutError, and cancels the work, when it is not done `limit_s` later or nothing moves any more.
        """
        task = asyncio.ensure_future(work)
        until = self._elapsed_s + limit_s
        try:
            await self.settle()
            while not task.done():
                if self._elapsed_s > until or not await self.step():
                    raise TimeoutError(f"still waiting at {self._elapsed_s:.3f} s of virtual time")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    def _wake(self, wake_at: float) -> None:
        self._elapsed_s = max(self._elapsed_s, wake_at)
        while self._sleepers and self._sleepers[0][0] <= self._elapsed_s:
            _, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.set_result(None)

    def _forget_gone(self) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
