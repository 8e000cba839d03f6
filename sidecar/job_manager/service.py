"""Who may speak for a job: claim, the registry of what runs here, cancellation, end."""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from typing import Any

from sidecar.errors import BusRefused, BusUnavailable, Conflict, JobCancelled
from sidecar.job_manager import transitions
from sidecar.job_manager.claiming import ClaimedElsewhere, crash_loop, is_last_chance, prevails
from sidecar.job_manager.contention import MOST_ROUNDS, Contention
from sidecar.job_manager.ending import Completion
from sidecar.job_manager.events import EventWriter
from sidecar.job_manager.job import OwnedJob
from sidecar.job_manager.keeping import KeepRule, RequestKeeper
from sidecar.job_manager.record import StateRecord
from sidecar.job_manager.succession import Appraise, RestartsSince, Takeover, inherited
from sidecar.job_manager.transitions import bound
from sidecar.models.base import rfc3339
from sidecar.models.event import Event, Status
from sidecar.models.job import Carried, JobState
from sidecar.models.prompt import PromptUse
from sidecar.models.request import JobRequest
from sidecar.models.result import Result
from sidecar.models.subjects import is_name
from sidecar.ports.bus import (
    Blobs,
    Clock,
    DeadLetters,
    Intake,
    JobStore,
    JournalStore,
    Publisher,
    Standing,
    StoredRequest,
    StoredState,
)
from sidecar.runtime.lifecycle import logged, within
from sidecar.runtime.retry import RetryDelay

log = logging.getLogger(__name__)

# What a job may take to be handed back: less than a process has for the whole of its farewell. One that is not
# handed back in time is taken over when this replica has said its last word, or counts as silent.
LEAVE_S = 1.0
# How long a job on its last chance waits until no other such job runs beside it.
ALONE_S = 60.0
# What is kept of a running job is written again after this share of the time that it is kept for.
KEEP_SHARE = 1 / 3
LOOK_SHARE = 1 / 12
LONGEST_LOOK_S = 60.0
# How long it is told that documents were found gone or written over.
DISTURBED_S = 60.0


class JobManager:
    """Owns the jobs that run in this process. `owner` is this replica's name."""

    def __init__(
        self,
        *,
        store: JobStore,
        publisher: Publisher,
        intake: Intake,
        dead: DeadLetters,
        blobs: Blobs,
        journal: JournalStore,
        clock: Clock,
        owner: str,
        max_attempts: int,
        gather_s: float,
        appraise: Appraise,
        restarts_since: RestartsSince,
        keep_rule: KeepRule,
    ) -> None:
        """`appraise` says what a lost owner's last call is taken to have cost; `restarts_since` how many replicas
        have started since a time; `keep_rule` which failed jobs' requests are kept.
        """
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self.keeper = RequestKeeper(dead=dead, intake=intake, store=store, clock=clock, rule=keep_rule)
        self.completion = Completion(
            publisher=publisher, intake=intake, keeper=self.keeper, blobs=blobs, clock=clock
        )
        self._journal = journal
        self._owner = owner
        self._max_attempts = max_attempts
        self._gather_s = gather_s
        self._succession = Takeover(
            publisher=publisher, journal=journal, clock=clock, appraise=appraise, restarts_since=restarts_since
        )
        # Of the jobs on their last chance one holds this: a process that dies then was brought down by that one.
        self._last_chance = asyncio.Lock()
        self._live: dict[tuple[str, str], OwnedJob] = {}
        self.counts: Counter[str] = Counter()
        self._disturbed_at: float | None = None
        self._contention = Contention(
            intake=intake,
            succession=self._succession,
            ending=self.completion,
            clock=clock,
            count=lambda verdict: self.counts.update((verdict,)),
            on_restored=self._on_restored,
        )

    @property
    def live(self) -> tuple[OwnedJob, ...]:
        return tuple(self._live.values())

    def cancel(self, tenant: str, job: str) -> bool:
        """Stop a job that runs here. False when it does not."""
        owned = self._live.get((tenant, job))
        if owned is None:
            return False
        owned.cancel()
        return True

    async def recheck(self) -> None:
        """Look for marks of cancellation that were not heard, for instance while NATS was away."""
        for owned in self.live:
            if owned.scope.reason is None and await self._store.is_cancelled(*owned.key):
                owned.cancel()

    async def keep_alive(self) -> float:
        """Write again what is kept of jobs that run here, before it ages. Returns when to look again (s).

        Raises BusUnavailable, BusRefused.
        """
        keeps_s = await self._store.keeps_s()
        if keeps_s is None:
            return LONGEST_LOOK_S
        for owned in self.live:
            age_s = self._clock.monotonic() - owned.written_at
            if not owned.is_held or age_s < keeps_s * KEEP_SHARE:
                continue
            owned.keep_alive(self._journal, keep_s=int(keeps_s))
            if isinstance(owned.scope.reason, JobCancelled):
                # It is about to end; should its owner go down first, the next one has to know.
                await self._store.mark_cancelled(*owned.key)
        return min(keeps_s * LOOK_SHARE, LONGEST_LOOK_S)

    async def keeps_s(self) -> float | None:
        """How long documents are kept after they were written; None: for good."""
        return await self._store.keeps_s()

    async def keep_queued(self, tenant: str, job: str) -> StoredState | None:
        """Write the document and the steps of a job again that waits, and nobody owns. The document as it is now.

        Raises Conflict where somebody else wrote meanwhile, BusUnavailable, BusRefused.
        """
        found, keeps_s = await self._store.get(tenant, job), await self.keeps_s()
        if found is None or found.state.state != "queued" or keeps_s is None:
            return found
        if found.state.attempt:
            for step in dict.fromkeys(await self._journal.read(tenant, job)):
                await self._journal.append(tenant, job, step, fence=found.revision, keep_s=int(keeps_s))
        state = transitions.refreshed(found.state, now=self._clock.now())
        return StoredState(state, await self._store.update(state, revision=found.revision))

    @property
    def restored(self) -> dict[str, int]:
        """How many documents of jobs were found `missing`, or `foreign`, since the start."""
        return {kind: self.counts[f"documents_{kind}"] for kind in ("missing", "foreign")}

    @property
    def disturbance(self) -> str | None:
        """What others did to documents of jobs in the last `DISTURBED_S`; None when nothing."""
        if self._disturbed_at is None or self._clock.monotonic() - self._disturbed_at > DISTURBED_S:
            return None
        return "documents of jobs are deleted or written over by somebody else: they are restored"

    async def claim(
        self,
        stored: StoredRequest,
        request: JobRequest,
        *,
        job: str,
        model: str | None = None,
        known: StoredState | None = None,
        granted_attempt: int | None = None,
        prompt: PromptUse | None = None,
    ) -> OwnedJob | None:
        """Make the job ours by compare-and-set. None: it is over, and nothing is left to do here.

        Raises ClaimedElsewhere when it is another's.

        `known` is the document as the scheduler wrote or read it last, `granted_attempt` the attempt it knew
        of (None: whatever is found may be taken over), `model` the alias of the model that is to run it, `prompt`
        the template that the job is made of where its document names none yet.
        """
        owned = OwnedJob(
            self._base(stored, job, known, request.metadata, prompt),
            request=request,
            headers=stored.headers,
            revision=known.revision if known else None,
            store=self._store,
            clock=self._clock,
            on_restored=self._on_restored,
        )
        self._live[owned.key] = owned
        # Looked for while the document is being written: a mark that is left later is heard, for the job is live.
        marked = asyncio.get_running_loop().create_task(self._is_cancelled(*owned.key))
        try:
            is_ours = await self._write_claim(owned, stored, granted_attempt, model)
            if is_ours and await marked:
                owned.cancel()
        except BaseException:
            self._forget(owned)
            raise
        finally:
            marked.cancel()
        if not is_ours:
            self._forget(owned)
            return None
        self._begin(owned)
        return owned

    def _begin(self, owned: OwnedJob) -> None:
        """The document is ours: speak for the job, unless it has taken too many owners down."""
        owned.is_held = True
        owned.speak_through(
            EventWriter(
                publisher=self._publisher,
                clock=self._clock,
                gather_s=self._gather_s,
                regain=owned.regain,
                on_lost=owned.scope.stop,
            )
        )
        if owned.state.silent:
            owned.is_last_chance = is_last_chance(owned.state, max_attempts=self._max_attempts)
            if (error := crash_loop(owned.state, max_attempts=self._max_attempts)) is not None:
                owned.scope.stop(error)

    async def wait_alone(self, owned: OwnedJob) -> None:
        """On its last chance a job runs beside no other such job, for a while at least: of those that went down
        together, each is then judged by itself. Holds until `release`.
        """
        if self._last_chance.locked():
            reason = "it was lost with its owners before: runs beside no other such job"
            await owned.wait_for(Status(state="waiting", waiting_for="slot", reason=reason))
        with logged("waiting for a last chance to be over", job=owned.state.job):
            await within(self._clock, ALONE_S, self._last_chance.acquire(), what="another job's last chance")
            owned.is_alone = True

    def _base(
        self,
        stored: StoredRequest,
        job: str,
        known: StoredState | None,
        metadata: dict[str, Any],
        prompt: PromptUse | None = None,
    ) -> JobState:
        """The document that the next write replaces, as far as it is known."""
        if known is not None:
            state = known.state
        else:
            state = transitions.queued(stored, job=job, now=self._clock.now(), metadata=metadata)
        return state if prompt is None else bound(state, prompt)

    def _on_restored(self, state: JobState, found: Standing) -> None:
        kind = "foreign" if found.revision else "missing"
        self.counts[f"documents_{kind}"] += 1
        self._disturbed_at = self._clock.monotonic()
        log.warning(
            "a job's document was deleted or written over by somebody else: it is restored",
            extra={"tenant": state.tenant, "job": state.job, "revision": found.revision},
        )

    async def _is_cancelled(self, tenant: str, job: str) -> bool:
        # A cancellation that cannot be read now may stand: the job is not begun on a guess.
        delay = RetryDelay(self._clock, "reading a cancellation")
        while True:
            try:
                return await self._store.is_cancelled(tenant, job)
            except BusUnavailable as e:
                await delay.after(e)

    async def _write_claim(
        self, record: StateRecord, stored: StoredRequest, granted_attempt: int | None, model: str | None
    ) -> bool:
        for _ in range(MOST_ROUNDS):
            try:
                if not record.state.is_terminal:
                    before = record.state
                    if before.state in ("running", "waiting"):
                        before = await self._succession.settle(before, stored)
                    await record.write(
                        transitions.claimed(before, owner=self._owner, now=self._clock.now(), model=model)
                    )
                    return True
            except Conflict:
                self.counts["claim_conflicts"] += 1
            if not await self._contention.settle(record, seq=stored.seq, granted_attempt=granted_attempt):
                return False
        raise Conflict(
            f"job {record.state.job} could not be claimed: its document is written over again and again"
        )

    async def record_queued(
        self, stored: StoredRequest, *, job: str, metadata: dict[str, Any], prompt: PromptUse | None = None
    ) -> StoredState | None:
        """Write that a job waits, and say so. None when that failed or the job is known: the claim will see."""
        state = self._base(stored, job, None, metadata, prompt)
        try:
            revision = await self._store.create(state)
        except (Conflict, BusUnavailable, BusRefused):
            return None
        return await self.say_queued(StoredState(state, revision), Status(state="queued"), n=1, metadata=metadata)

    async def say_queued(
        self, known: StoredState, status: Status, *, n: int, metadata: dict[str, Any]
    ) -> StoredState | None:
        """Publish event `n` of a job that nobody has claimed. None when it may be lost: it is not said again, and
        nothing after it, for its number would be missing.
        """
        state = known.state
        event = Event(
            job=state.job,
            tenant=state.tenant,
            type="status",
            attempt=state.attempt,
            n=n,
            time=rfc3339(self._clock.now()),
            metadata=metadata,
            data=status,
        )
        try:
            await self._publisher.publish(event, fence=known.revision)
        except (Conflict, BusUnavailable, BusRefused) as e:
            log.debug("an event of a queued job was not stored", extra={"job": state.job, "error": e.message})
            return None
        return known

    async def refuse(
        self,
        stored: StoredRequest,
        *,
        job: str,
        result: Result,
        metadata: dict[str, Any],
        known: StoredState | None,
        is_bereft: bool = False,
    ) -> bool:
        """End a job that never ran, with `result`; a second request with a known id is dropped instead.

        Returns whether it ended here. `is_bereft`: its request is gone, so most probably the job has ended, and is
        left as it is then. Raises Conflict when somebody writes over its document again and again.
        """
        if not is_name(stored.lane.tenant):
            await self.completion.turn_away(stored, job=job, result=result)
            return True
        record = StateRecord(
            self._base(stored, job, known, metadata),
            revision=known.revision if known else None,
            store=self._store,
            clock=self._clock,
            on_restored=self._on_restored,
        )
        if is_bereft and not await self._contention.settle(record, seq=stored.seq, granted_attempt=None):
            return False
        for _ in range(MOST_ROUNDS):
            with suppress(Conflict):
                if not record.state.is_terminal:
                    await self._commit_refusal(record, stored, result)
                    await self.completion.finish(record.state, metadata=metadata)
                    return True
            if not await self._contention.settle(record, seq=stored.seq, granted_attempt=None):
                return False
        raise Conflict(f"job {job} could not be ended: its document is written over again and again")

    async def _commit_refusal(self, record: StateRecord, stored: StoredRequest, result: Result) -> None:
        last = record.state.state
        record.state = await self._succession.settle(record.state, stored)
        if record.revision is not None:
            record.state = transitions.renumbered(record.state)
        whole = inherited(transitions.refusal(result, last), record.state.carried)
        await self.completion.commit(record, whole, n=1)

    async def leave(
        self,
        owned: OwnedJob,
        result: Result | None,
        *,
        carried: Carried | None = None,
        held_since: float | None = None,
    ) -> None:
        """The process stops: end the job if its result is there, else hand it back for anybody to take at once,
        with what is known of its calls so far. `held_since`: it has had nothing left to call since then.

        Gives up after `LEAVE_S` seconds: then the job counts as one of an owner that fell silent.
        """
        with logged("handing a job back", job=owned.state.job):
            handing = self._leave(owned, result, carried, held_since)
            await within(self._clock, LEAVE_S, handing, what="handing a job back")

    async def _leave(
        self, owned: OwnedJob, result: Result | None, carried: Carried | None, held_since: float | None
    ) -> None:
        # A write of ours that was under way may have happened: the next one goes on from it.
        with suppress(Conflict):
            await owned.progress.flush()
            if result is not None:
                await self.completion.commit(owned, result, n=owned.progress.said + 1)
            if owned.state.is_terminal:
                return await self.completion.finish(owned.state, metadata=owned.metadata)
            now = self._clock.now()
            await owned.write(
                transitions.handed_back(owned.state, now=now, carried=carried, held_since=held_since)
            )
            self.counts["handed_back"] += 1

    async def check(self, tenant: str, job: str) -> None:
        """Somebody says that a job which runs here is another's: if so, stop it at once."""
        owned = self._live.get((tenant, job))
        if owned is None:
            return
        found, _ = await owned.look()
        mine = owned.state
        if found is None or (found.owner, found.attempt) == (mine.owner, mine.attempt):
            return
        if prevails(found, over=mine):
            self.counts["disowned"] += 1
            owned.scope.stop(ClaimedElsewhere(found))

    def attempt_of(self, tenant: str, job: str) -> int | None:
        """The attempt of a job that was claimed here; None for others."""
        owned = self._live.get((tenant, job))
        return owned.state.attempt if owned is not None else None

    async def release(self, owned: OwnedJob) -> None:
        """The job is no longer in this process's hands, however it left them."""
        self._forget(owned)
        if owned.is_alone:
            owned.is_alone = False
            self._last_chance.release()
        await owned.progress.close()

    def _forget(self, owned: OwnedJob) -> None:
        if self._live.get(owned.key) is owned:
            del self._live[owned.key]
