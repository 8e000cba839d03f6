"""Writing to the bus until it is written: what must not be lost while NATS is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sidecar.errors import BusUnavailable, Conflict, SidecarError
from sidecar.job_manager import transitions
from sidecar.job_manager.claiming import prevails
from sidecar.models.job import JobState
from sidecar.ports.bus import Clock, JobStore, Standing, StoredState

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 2.0
# Against somebody who writes faster than that an owner gives up.
MOST_RESTORES = 50

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
    """A job's state document as its owner holds it, with the revision that the next write must replace.

    Strangers may delete the document, purge it, write over it, and it ages. Once this `is_held`, whatever does not
    take the job away (see `claiming.prevails`) is replaced by the owner's own document, and `on_restored` is told.
    """

    def __init__(
        self,
        state: JobState,
        *,
        revision: int | None,
        store: JobStore,
        clock: Clock,
        on_restored: Callable[[JobState, Standing], None] = lambda state, found: None,
    ) -> None:
        """`revision` None: the job has no document yet, as far as is known."""
        self.state = state
        self.revision = revision
        self.is_held = False
        self.written_at = clock.monotonic()
        self._store = store
        self._clock = clock
        self._on_restored = on_restored
        self._unsure: list[JobState] = []
        # Two writers of one job (its own steps, and what keeps its document alive) must not meet.
        self._writing = asyncio.Lock()

    async def write(self, state: JobState) -> int:
        """Replace the document by compare-and-set. Returns the new revision.

        A write whose acknowledgement got lost, or was not waited for because the task was cancelled, is
        recognised by reading back. Where an end was written so, it stands, and `self.state` is that one. Raises
        Conflict when the job is somebody else's; `self.state` then stays what it was.
        """
        async with self._writing:
            return await self._write(lambda: self._replace(state))

    async def regain(self) -> int:
        """The document again, after the server refused what its revision fences. Returns the revision.

        Raises Conflict when the job is somebody else's.
        """
        async with self._writing:
            return await self._write(lambda: self._put_over(self.state))

    async def refresh(self) -> int:
        """Write the document again, so that it does not age before its job has ended. Returns the revision."""
        async with self._writing:
            if self.state.is_terminal:
                return self.fence
            state = transitions.refreshed(self.state, now=self._clock.now())
            return await self._write(lambda: self._replace(state))

    async def _write(self, once: Callable[[], Awaitable[StoredState]]) -> int:
        self.state, self.revision = written = await keep_trying("writing a job's state", once, clock=self._clock)
        self.written_at = self._clock.monotonic()
        self._unsure.clear()
        return written.revision

    async def _replace(self, state: JobState) -> StoredState:
        try:
            return StoredState(state, await self._put(state))
        except Conflict:
            return await self._put_over(state)

    async def _put(self, state: JobState) -> int:
        try:
            if self.revision is None:
                return await self._store.create(state)
            return await self._store.update(state, revision=self.revision)
        except (BusUnavailable, asyncio.CancelledError):
            self._unsure.append(state)
            raise

    async def _put_over(self, state: JobState) -> StoredState:
        """After a conflict: go on from a write of our own that nobody confirmed; as an owner also over what is no
        document of this job, or an older one. Raises Conflict else.
        """
        if not self.is_held and not self._unsure:
            raise Conflict(f"the state of job {state.job} was written by somebody else")
        for _ in range(MOST_RESTORES):
            found = await self._store.look(state.tenant, state.job)
            if found.state is not None and (found.state == state or found.state in self._unsure):
                if found.state == state or found.state.is_terminal:
                    return StoredState(found.state, found.revision)
            elif not self.is_held or (found.state is not None and prevails(found.state, over=self.state)):
                raise Conflict(f"the state of job {state.job} was written by somebody else")
            elif found.state != self.state:
                self._on_restored(state, found)
            self.revision = found.revision
            try:
                return StoredState(state, await self._put(state))
            except Conflict:
                log.debug("a job's document was written over meanwhile", extra={"job": state.job})
        raise Conflict(f"the state of job {state.job} is written over again and again")

    def begin_again(self, state: JobState, *, over: int) -> None:
        """The document is gone (aged, deleted, written over): the next write puts one over what stands there."""
        self.state, self.revision = state, over

    def take(self, found: StoredState) -> None:
        """Go on from a document that another wrote."""
        self.state, self.revision = found

    async def look(self) -> Standing:
        """What stands in the store now."""
        state = self.state
        return await keep_trying(
            "reading a job's state", lambda: self._store.look(state.tenant, state.job), clock=self._clock
        )

    @property
    def fence(self) -> int:
        """The revision that fences the job's events. Raises SidecarError before the first write."""
        if self.revision is None:
            raise SidecarError("the job has no state document yet")
        return self.revision
