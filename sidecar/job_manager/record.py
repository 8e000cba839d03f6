"""Writing to the bus until it is written: what must not be lost while NATS is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sidecar.errors import BusUnavailable, Conflict, SidecarError
from sidecar.job_manager import transitions
from sidecar.models.job import JobState
from sidecar.ports.bus import Clock, JobStore, StoredState

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 2.0

T = TypeVar("T")


async def keep_trying(what: str, attempt: Callable[[], Awaitable[T]], *, clock: Clock) -> T:
    """Repeat an idempotent `attempt` until the bus takes it. Other errors pass."""
    delay_s = FIRST_DELAY_S
    while True:
        try:
            return await attempt()
        except BusUnavailable as e:
            log.warning("%s: the bus is away, trying again", what, extra={"error": e.message})
            await clock.sleep(e.retry_after or delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)


class StateRecord:
    """A job's state document as its owner holds it, with the revision that the next write must replace."""

    def __init__(self, state: JobState, *, revision: int | None, store: JobStore, clock: Clock) -> None:
        self.state = state
        self.revision = revision
        self._store = store
        self._clock = clock
        self._unsure: list[JobState] = []

    async def write(self, state: JobState) -> int:
        """Replace the document by compare-and-set. Returns the new revision.

        A write whose acknowledgement got lost, or was not waited for because the task was cancelled, is
        recognised by reading back. Where an end was written so, it stands, and `self.state` is that one. Raises
        Conflict when somebody else wrote; `self.state` then stays what it was.
        """

        async def once() -> StoredState:
            try:
                return StoredState(state, await self._put(state))
            except (BusUnavailable, asyncio.CancelledError):
                self._unsure.append(state)
                raise
            except Conflict:
                return await self._put_over_own(state)

        written = await keep_trying("writing a job's state", once, clock=self._clock)
        self.state, self.revision = written
        self._unsure.clear()
        return written.revision

    async def _put(self, state: JobState) -> int:
        if self.revision is None:
            return await self._store.create(state)
        return await self._store.update(state, revision=self.revision)

    async def _put_over_own(self, state: JobState) -> StoredState:
        """After a conflict: go on from a write of our own that nobody confirmed. Raises Conflict else."""
        found = await self._store.get(state.tenant, state.job) if self._unsure else None
        if found is None or found.state not in self._unsure:
            raise Conflict(f"the state of job {state.job} was written by somebody else")
        if found.state == state or found.state.is_terminal:
            return found
        self.revision = found.revision
        return StoredState(state, await self._put(state))

    def begin_again(self, *, now: float) -> None:
        """The document is gone from the store (aged out or purged): the next write is its first."""
        self.state, self.revision = transitions.forgotten(self.state, now=now), None

    async def read(self) -> StoredState | None:
        """What the store holds now."""
        state = self.state
        return await keep_trying(
            "reading a job's state", lambda: self._store.get(state.tenant, state.job), clock=self._clock
        )

    @property
    def fence(self) -> int:
        """The revision that fences the job's events. Raises SidecarError before the first write."""
        if self.revision is None:
            raise SidecarError("the job has no state document yet")
        return self.revision
