"""A job's state document in its owner's hands: written by compare-and-set until it is written."""

import asyncio
import logging
from collections.abc import Callable

from sidecar.errors import BusUnavailable, Conflict, SidecarError
from sidecar.job_manager import transitions
from sidecar.job_manager.claiming import prevails
from sidecar.models.job import JobState
from sidecar.ports.bus import Clock, JobStore, Standing, StoredState
from sidecar.runtime.retry import RetryDelay, keep_trying

log = logging.getLogger(__name__)

# Against somebody who writes faster than that an owner gives up.
MOST_RESTORES = 50


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
        self.key = (state.tenant, state.job)
        self.revision = revision
        self.is_held = False
        self.written_at = clock.monotonic()
        self._store = store
        self._clock = clock
        self._on_restored = on_restored
        self._unsure: list[JobState] = []
        # Two writers of one job (its own steps, and what keeps its document alive) must not meet.
        self._writing = asyncio.Lock()

    async def write(self, state: JobState, *, only_after: JobState | None = None, is_refused: bool = False) -> int:
        """Replace the document by compare-and-set. Returns the new revision.

        A write whose acknowledgement got lost, or was not waited for because the task was cancelled, is
        recognised by reading back. Where an end was written so, it stands, and `self.state` is that one. Raises
        Conflict when the job is somebody else's; `self.state` then stays what it was.

        `only_after`: nothing is written where another document than that one stands by now. `is_refused`: the
        server has refused to write over the revision that is known.
        """
        # One write at a time: each is fenced by the revision of the one before, and two in flight would refuse
        # each other.
        async with self._writing:
            if only_after is not None and only_after is not self.state:
                return self.fence
            delay, refusals = RetryDelay(self._clock, "writing a job's state"), int(is_refused)
            while True:
                if refusals and (own := await self._look_for_own(state, refusals)) is not None:
                    return self._written(own.state, own.revision)
                try:
                    if self.revision is None:
                        return self._written(state, await self._store.create(state))
                    return self._written(state, await self._store.update(state, revision=self.revision))
                except Conflict:
                    refusals += 1
                except asyncio.CancelledError:
                    # The server may have taken it: what stands there next time may be our own.
                    self._unsure.append(state)
                    raise
                except BusUnavailable as e:
                    self._unsure.append(state)
                    await delay.after(e)

    async def regain(self) -> int:
        """The document again, after the server refused what its revision fences. Returns the revision.

        Raises Conflict when the job is somebody else's.
        """
        return await self.write(self.state, only_after=self.state, is_refused=True)

    async def refresh(self) -> int:
        """Write the document again, so that it does not age before its job has ended. Returns the revision."""
        if self.state.is_terminal:
            return self.fence
        state = transitions.refreshed(self.state, now=self._clock.now())
        return await self.write(state, only_after=self.state)

    def _written(self, state: JobState, revision: int) -> int:
        self.state, self.revision = state, revision
        self.written_at = self._clock.monotonic()
        self._unsure.clear()
        return revision

    async def _look_for_own(self, state: JobState, refusals: int) -> StoredState | None:
        """After a refusal: the document, where it is `state`, or an end that was written here and that nobody
        confirmed. None: the next write goes over what stands there, be it an earlier write of our own or, for an
        owner, what is no document of this job, or an older one. Raises Conflict else.
        """
        if not self.is_held and not self._unsure:
            raise Conflict(f"the state of job {state.job} was written by somebody else")
        if refusals > MOST_RESTORES:
            raise Conflict(f"the state of job {state.job} is written over again and again")
        found = await self.look()
        if found.state is not None and (found.state == state or found.state in self._unsure):
            if found.state == state or found.state.is_terminal:
                return StoredState(found.state, found.revision)
        elif not self.is_held or (found.state is not None and prevails(found.state, over=self.state)):
            raise Conflict(f"the state of job {state.job} was written by somebody else")
        elif found.state != self.state:
            self._on_restored(state, found)
        self.revision = found.revision
        return None

    def begin_again(self, state: JobState, *, over: int) -> None:
        """The document is gone (aged, deleted, written over): the next write puts one over what stands there."""
        self.state, self.revision = state, over

    def take(self, found: StoredState) -> None:
        """Go on from a document that another wrote."""
        self.state, self.revision = found

    async def look(self) -> Standing:
        """What stands in the store now."""
        tenant, job = self.key
        return await keep_trying("reading a job's state", lambda: self._store.look(tenant, job), clock=self._clock)

    @property
    def fence(self) -> int:
        """The revision that fences the job's events. Raises SidecarError before the first write."""
        if self.revision is None:
            raise SidecarError("the job has no state document yet")
        return self.revision
