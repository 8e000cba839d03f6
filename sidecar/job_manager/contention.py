"""After a refused write of whoever does not own the job yet: what stands at its key, and what follows from it."""

import logging
from collections.abc import Callable

import msgspec

from sidecar.errors import Conflict
from sidecar.job_manager import transitions
from sidecar.job_manager.claiming import Claim, ClaimedElsewhere, judge
from sidecar.job_manager.ending import Completion
from sidecar.job_manager.record import StateRecord
from sidecar.job_manager.succession import Takeover
from sidecar.models.event import Event
from sidecar.models.job import JobState
from sidecar.models.result import Result
from sidecar.models.subjects import HEADER_JOB_ID
from sidecar.ports.bus import Clock, Intake, Standing, StoredState
from sidecar.runtime.retry import keep_trying

log = logging.getLogger(__name__)

# So often a claim may lose against others: beyond that somebody writes who is none of us.
MOST_ROUNDS = 50


class Contention:
    """Decides between this replica and whatever else wrote the document. `count` counts verdicts by name."""

    def __init__(
        self,
        *,
        intake: Intake,
        succession: Takeover,
        ending: Completion,
        clock: Clock,
        count: Callable[[str], None],
        on_restored: Callable[[JobState, Standing], None],
    ) -> None:
        self._intake = intake
        self._succession = succession
        self._ending = ending
        self._clock = clock
        self._count = count
        self._on_restored = on_restored

    async def settle(self, record: StateRecord, *, seq: int, granted_attempt: int | None) -> bool:
        """Make way for the next write of `record`, whose request is `seq`. False: nothing is left to do here.

        Raises ClaimedElsewhere when another replica claimed the job after `granted_attempt` (None: whatever is
        found may be taken over).
        """
        found = await record.look()
        if found.state is None:
            return await self._begin_again(record, found, granted_attempt or 0)
        state = found.state
        verdict = judge(
            state,
            request_seq=seq,
            granted_attempt=state.attempt if granted_attempt is None else granted_attempt,
        )
        if verdict is Claim.DROP and not state.is_terminal and not await self._stands(state):
            verdict = Claim.TAKE
            state = msgspec.structs.replace(state, request_seq=seq)
        if verdict is Claim.TAKE:
            record.take(StoredState(state, found.revision))
            return True
        self._count(f"claim_{verdict.value}")
        if verdict is Claim.LEAVE:
            raise ClaimedElsewhere(state)
        if verdict is Claim.FINISH:
            await self._ending.repeat(state)
        else:
            log.info("a second request with a known job id was dropped", extra={"job": state.job, "seq": seq})
            await self._ending.delete(seq)
        return False

    async def _begin_again(self, record: StateRecord, found: Standing, granted_attempt: int) -> bool:
        """The job has no document, though it may have had one: its events tell how far it had come."""
        known = record.state
        self._on_restored(known, found)
        events = await self._succession.events(known)
        said = next((event for event in events if isinstance(event.data, Result)), None)
        if said is not None:
            return not await self._end_again(record, found, said)
        # Numbers of events count within an attempt: none that was begun may be begun a second time.
        attempt = max(known.attempt, granted_attempt, *(event.attempt for event in events), 0)
        now = self._clock.now()
        record.begin_again(transitions.forgotten(known, attempt=attempt, now=now), over=found.revision)
        return True

    async def _end_again(self, record: StateRecord, found: Standing, said: Event) -> bool:
        """The result has been said: the document is made to say it again, and the request goes. False when
        somebody wrote meanwhile.
        """
        state = transitions.found_ended(record.state, said)
        record.begin_again(record.state, over=found.revision)
        try:
            await record.write(state)
        except Conflict:
            return False
        await self._ending.delete(state.request_seq)
        return True

    async def _stands(self, state: JobState) -> bool:
        """Whether the request that a live document names is there. It is deleted after the job's end only."""
        seq = state.request_seq
        # Only an answer of the stream may call a request gone: trouble with the bus is waited out.
        stored = await keep_trying("reading a request", lambda: self._intake.get(seq), clock=self._clock)
        if stored is None or stored.lane.tenant != state.tenant:
            return False
        return state.job in (stored.headers.get(HEADER_JOB_ID), f"s{seq}")
