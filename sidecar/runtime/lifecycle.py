"""Lifecycle of the process and of its parts: states, health, supervised tasks.

A part degrades rather than fails: an outage of Bedrock or NATS is a `degraded` health with its reason, and
work goes on with what is left. Only what makes going on pointless ends the process (`Lifecycle.fail`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

from sidecar.errors import BusUnavailable, SidecarError
from sidecar.runtime.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")


class Phase(Enum):
    """created → starting → running → draining → stopped; `failed` can follow any but stopped."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


_NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.CREATED: frozenset({Phase.STARTING, Phase.STOPPED, Phase.FAILED}),
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.DRAINING, Phase.STOPPED, Phase.FAILED}),
    Phase.RUNNING: frozenset({Phase.DRAINING, Phase.STOPPED, Phase.FAILED}),
    Phase.DRAINING: frozenset({Phase.STOPPED, Phase.FAILED}),
    Phase.FAILED: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}


_STEADY: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """This machine's time, as whoever sets its clock has it. What is decided about jobs goes by `ServerClock`."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def steady() -> float:
        """Seconds that nobody sets, and that go on while the machine sleeps, where the system counts those."""
        return time.clock_gettime(_STEADY) if _STEADY is not None else time.monotonic()

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @staticmethod
    def call_later(delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, callback)


class Health:
    """What is degraded now, and why: `set("bedrock", "throttled since …")`, `set("bedrock", None)`."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def set(self, subject: str, reason: str | None) -> None:
        before = self._reasons.get(subject)
        if reason == before:
            return
        if reason is None:
            self._reasons.pop(subject)
            log.info("recovered", extra={"subject": subject})
        else:
            self._reasons[subject] = reason
            log.warning("degraded", extra={"subject": subject, "reason": reason})

    @property
    def reasons(self) -> Mapping[str, str]:
        return dict(self._reasons)

    @property
    def is_degraded(self) -> bool:
        return bool(self._reasons)


class Lifecycle:
    """The phase of the process, and the one place where it is told to end."""

    def __init__(self) -> None:
        self.phase = Phase.CREATED
        self.health = Health()
        self.failure: BaseException | None = None
        self._ended = asyncio.Event()
        self._drain = asyncio.Event()

    def enter(self, phase: Phase) -> None:
        """Raises SidecarError for a transition that the table does not have."""
        if phase is self.phase:
            return
        if phase not in _NEXT[self.phase]:
            raise SidecarError(f"the process cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase
        log.info("lifecycle", extra={"phase": phase.value})

    @property
    def is_ready(self) -> bool:
        return self.phase is Phase.RUNNING

    def request_drain(self) -> None:
        """Ask for an orderly end. Asking again hurries it."""
        if self._drain.is_set():
            self._ended.set()
        self._drain.set()

    def fail(self, error: BaseException) -> None:
        """End the process because of `error`; the first one counts."""
        if self.failure is None:
            self.failure = error
            log.critical("fatal", exc_info=error)
        self._drain.set()
        self._ended.set()

    @property
    def is_ending(self) -> bool:
        """Whether the end was asked for."""
        return self._drain.is_set()

    async def wait_for_drain(self) -> None:
        await self._drain.wait()

    async def wait_for_hurry(self) -> None:
        await self._ended.wait()


class LoopLag:
    """How late the event loop comes to what is due, measured twice a second."""

    EVERY_S = 0.5

    def __init__(self) -> None:
        self._worst_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + self.EVERY_S, self._due, loop.time() + self.EVERY_S)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> float:
        """The worst delay in seconds since this was asked last."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s

    def _due(self, at: float) -> None:
        self._worst_s = max(self._worst_s, asyncio.get_running_loop().time() - at)
        self.start()


class Tasks:
    """Tasks of one owner: held by reference, watched, ended together.

    A task that ends by an exception is handed to `on_crash`; it is never lost in the event loop.
    """

    def __init__(self, on_crash: Callable[[BaseException], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_crash = on_crash

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        # Held in a set: the loop keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(error)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all have ended by themselves. False when some still run after `timeout_s`."""
        if not self._tasks:
            return True
        _, running = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not running

    async def cancel(self) -> None:
        """End them all. Cancelled itself, it has no more time for what they do at their end, and nor have they."""
        self._cancel()
        try:
            await self.wait()
        except asyncio.CancelledError:
            # What was held up by its own clean-up is told a second time, which ends that too.
            self._cancel()
            raise

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextmanager
def logged(what: str, **facts: Any) -> Iterator[None]:
    """Log a SidecarError of a periodic duty and go on: the next round tries again."""
    try:
        yield
    except SidecarError as e:
        log.warning("%s failed", what, extra={**facts, "error": e.message, "code": e.code})


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T], *, what: str) -> T:
    """The outcome of `work`; after `seconds` of `clock` BusUnavailable, though it may have happened."""
    task = asyncio.ensure_future(work)
    is_over = False

    def stop() -> None:
        nonlocal is_over
        is_over = True
        task.cancel()

    timer = clock.call_later(seconds, stop)
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        # Both ends look alike here: the time limit's is ours to translate, somebody else's must pass.
        if is_over and not (current is not None and current.cancelling()):
            raise BusUnavailable(f"{what} took more than {seconds:g} s") from None
        raise
    finally:
        timer.cancel()


class Beat:
    """Moments that many wait for together, so that what they then do costs one wake-up and one write for all.

    Moments are those of the wall clock, so that processes keep step as well.
    """

    def __init__(self, clock: Clock, *, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._next: asyncio.Event | None = None

    async def wait(self) -> None:
        """Until the next moment: at most `every_s`."""
        if self._next is None:
            self._next = asyncio.Event()
            self._clock.call_later(self._every_s - self._clock.now() % self._every_s, self._ring)
        await self._next.wait()

    def _ring(self) -> None:
        if self._next is not None:
            self._next.set()
            self._next = None


class Waker:
    """A nap that can be ended: `wait` lasts until `wake` or its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._nap: asyncio.Future[None] | None = None
        self._is_woken = False

    def wake(self) -> None:
        self._is_woken = True
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    async def wait(self, seconds: float) -> None:
        if not self._is_woken:
            nap = self._nap = asyncio.get_running_loop().create_future()

            def end() -> None:
                if not nap.done():
                    nap.set_result(None)

            timer = self._clock.call_later(seconds, end)
            try:
                await nap
            finally:
                timer.cancel()
        self._is_woken = False
