"""The way of a job, in order. Start reading here.

    request ──read──▶ admit ──scheduler──▶ claim ──▶ answer ──▶ format ──▶ end
                        └──▶ refuse                    ├─ model calls, fallback, deltas
                                                       └─ tool calls and the next turn, journalled

`RequestHandler` reads the queue and asks the scheduler; what is granted comes here. Each step is one part's work;
the parts do not know each other, and meet in this file.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from sidecar.config.settings import JobsSettings
from sidecar.conversation.model_calls import GrantedQuota
from sidecar.conversation.recovery import JournalRecovery
from sidecar.conversation.repair import Repairing
from sidecar.conversation.tenant_budget import TenantBudgets
from sidecar.conversation.tool_selection import has_named
from sidecar.endpoints.objects import Objects
from sidecar.errors import (
    BusRefused,
    BusUnavailable,
    Conflict,
    GivenUp,
    InvalidRequest,
    JobCancelled,
    SidecarError,
)
from sidecar.job_manager.claiming import ClaimedElsewhere
from sidecar.job_manager.job import OwnedJob
from sidecar.job_manager.limits import left_to_the_next_reading, time_limits
from sidecar.job_manager.service import JobManager
from sidecar.job_manager.transitions import bound
from sidecar.models.call import ModelReply
from sidecar.models.event import Status
from sidecar.models.facts import RunFacts
from sidecar.models.prompt import PromptUse
from sidecar.models.replica import ENDED, Outcome
from sidecar.models.request import JobRequest
from sidecar.models.result import Result, TerminalState
from sidecar.models.trace import within_trace
from sidecar.ports.bus import Clock, Lane, StoredRequest, StoredState
from sidecar.request_handler.decode import DecodedRequest
from sidecar.request_handler.planner import Planner
from sidecar.request_handler.prompts import Prompts
from sidecar.request_handler.reader import Later
from sidecar.response_formatter import formatter, structured
from sidecar.response_formatter.filters.chain import FilterChain
from sidecar.response_formatter.filters.policy import FilterPolicies
from sidecar.response_formatter.structured import StructuredAnswers
from sidecar.scheduler.tickets import Ticket, WaitReason

log = logging.getLogger(__name__)


class Pipeline:
    """Takes jobs through the parts. Knows the order and nothing else."""

    def __init__(
        self,
        *,
        asker: Planner,
        jobs: JobManager,
        conversation: Repairing,
        journals: JournalRecovery,
        objects: Objects,
        prompts: Prompts,
        spending: TenantBudgets,
        screening: FilterPolicies,
        answers: StructuredAnswers,
        on_ended: Callable[[DecodedRequest, Result], None],
        clock: Clock,
        settings: JobsSettings,
    ) -> None:
        self._asker = asker
        self._jobs = jobs
        self._conversation = conversation
        self._journals = journals
        self._objects = objects
        self._prompts = prompts
        self._spending = spending
        self._screening = screening
        self._answers = answers
        self._on_ended = on_ended
        self._clock = clock
        self._settings = settings

    def admit(self, opened: DecodedRequest) -> Ticket | Later:
        """Before the queue: can this job run at all, and where? Raises SidecarError with the refusal.

        What takes longer than a moment to find out is told later, and holds up nobody else's job.
        """
        request = opened.request
        if request is None or self._answers.is_checked_at_once(request.output):
            return self._admit_now(opened)
        return partial(self._admit_later, opened)

    def _admit_now(self, opened: DecodedRequest) -> Ticket:
        opened, _ = self._prompted(opened)
        if opened.request is not None:
            structured.check_now(opened.request.output)
        return self._ticket(opened)

    async def _admit_later(self, opened: DecodedRequest) -> Ticket:
        opened, _ = self._prompted(opened)
        if opened.request is not None and opened.request.output is not None:
            await self._answers.check(opened.stored.lane.tenant, opened.request.output)
        return self._ticket(opened)

    def _ticket(self, opened: DecodedRequest) -> Ticket:
        ticket = self._asker.ticket(opened)
        self._screening.admit(opened.stored.lane, opened.request)
        return ticket

    def max_queue(self, lane: Lane) -> int:
        """How many jobs of the lane the tenant may have, queued and running."""
        return self._asker.max_queue(lane)

    async def refuse(
        self, opened: DecodedRequest, error: SidecarError, *, known: StoredState | None = None
    ) -> None:
        """The end of a job that never runs: refused, expired or cancelled while it was queued."""
        await self._end_unrun(opened, error, known=known)

    async def bereave(self, ticket: Ticket) -> None:
        """The request of a granted job is gone from the queue: the job has ended, or else it ends now."""
        stored = StoredRequest(ticket.seq, ticket.lane, b"", {}, ticket.stored_at)
        error = GivenUp("its request was removed from the queue before the job had ended")
        await self._end_unrun(DecodedRequest(stored, ticket.job_id, None), error, known=None, is_bereft=True)

    async def _end_unrun(
        self, opened: DecodedRequest, error: SidecarError, *, known: StoredState | None, is_bereft: bool = False
    ) -> None:
        # What could not run as it was is rejected; what could have, but came too late or to grief, is not.
        has_own_end = _is_late(error) or isinstance(error, GivenUp)
        state: TerminalState = formatter.state_of(error) if has_own_end else "rejected"
        facts = RunFacts(queued_ms=self._since(opened.stored.stored_at))
        facts.total_ms = facts.queued_ms
        result = formatter.stopped(error, facts, state=state)
        with left_to_the_next_reading(opened.job), within_trace(opened.stored.headers):
            is_ended = await self._jobs.refuse(
                opened.stored,
                job=opened.job,
                result=result,
                metadata=opened.metadata,
                known=known,
                is_bereft=is_bereft,
            )
            if is_ended:
                self._on_ended(opened, result)
            if opened.request is not None and _is_late(error) and has_named(opened.request.tools):
                # It may have run before, and have left children.
                await self._journals.close(opened.stored.lane.tenant, opened.job, None)

    async def record_queued(self, opened: DecodedRequest) -> StoredState | None:
        """The document of a job that has to wait."""
        return await self._jobs.record_queued(
            opened.stored, job=opened.job, metadata=opened.metadata, prompt=self._prompt_of(opened)
        )

    async def record_blocked(
        self, opened: DecodedRequest, known: StoredState, *, blocked: WaitReason, n: int
    ) -> StoredState | None:
        """Why a queued job waits, as its event `n`."""
        estimate_ms = None if blocked.estimate_s is None else round(1000 * blocked.estimate_s)
        status = Status(state="waiting", waiting_for=blocked.reason, estimate_ms=estimate_ms)
        return await self._jobs.say_queued(known, status, n=n, metadata=opened.metadata)

    async def run(self, opened: DecodedRequest, share: GrantedQuota, *, known: StoredState | None) -> Outcome:
        """A granted job, from the claim to its end, or to where it leaves this replica's hands."""
        request = opened.request
        if request is None:
            raise SidecarError(f"job {opened.job} was granted without a request")
        outcome = ENDED
        try:
            with left_to_the_next_reading(opened.job), within_trace(opened.stored.headers):
                outcome = await self._claimed(opened, request, share, known)
        except Exception:
            # One job must not end the process: the next one would be granted it, and end too.
            log.exception("a job could not be run", extra={"job": opened.job})
            outcome = Outcome(kind="returned", attempt=share.granted_attempt)
        return outcome

    async def _claimed(
        self, opened: DecodedRequest, request: JobRequest, share: GrantedQuota, known: StoredState | None
    ) -> Outcome:
        try:
            job = await self._jobs.claim(
                opened.stored,
                request,
                job=opened.job,
                model=self._asker.model_of(share.pool),
                known=known,
                granted_attempt=share.granted_attempt,
                prompt=self._prompt_of(opened),
            )
        except ClaimedElsewhere as e:
            return Outcome(kind="taken", attempt=e.attempt, owner=e.owner)
        except Conflict as e:
            log.warning("a job could not be claimed", extra={"job": opened.job, "error": e.message})
            return Outcome(kind="returned", attempt=share.granted_attempt)
        if job is None:
            return ENDED
        facts = RunFacts(queued_ms=self._since(opened.stored.stored_at))
        if job.state.carried is not None:
            facts.take_up(job.state.carried)
        try:
            return await self._run(job, opened, share, facts)
        finally:
            await self._jobs.release(job)

    async def _run(self, job: OwnedJob, opened: DecodedRequest, share: GrantedQuota, facts: RunFacts) -> Outcome:
        result: Result | None = None
        try:
            result = await self._result(job, opened, share, facts)
            await self._spending.settle(job, facts)
            await self._jobs.end(job, result)
            self._on_ended(opened, result)
            if has_named(job.request.tools):
                await self._journals.close(*job.key, job.journal)
        except Conflict as e:
            log.warning("lost a job to another owner", extra={"job": opened.job, "error": e.message})
            return Outcome(kind="taken", attempt=job.state.attempt)
        except asyncio.CancelledError:
            # The process stops: nobody should have to wait until this owner counts as silent.
            self._spending.count(job, facts)
            await self._jobs.leave(job, result, carried=facts.carried)
            raise
        except (BusRefused, BusUnavailable):
            raise
        except Exception:
            log.exception("a job could not be ended", extra={"job": opened.job})
            await self._jobs.leave(job, result, carried=facts.carried)
            if not job.state.is_terminal:
                return Outcome(kind="returned", attempt=job.state.attempt)
        return ENDED

    async def _result(self, job: OwnedJob, opened: DecodedRequest, share: GrantedQuota, facts: RunFacts) -> Result:
        """The job's one result, whatever happens on the way to it."""
        screen = self._screening.screen(opened.stored.lane, job.request, job=opened.job)
        job.gate, job.progress.screen_tool = screen.gate, screen.screen_tool
        try:
            async with job.scope:
                with time_limits(job, default_s=self._settings.timeout_s) as deadline:
                    async with self._jobs.apart(job):
                        reply = await self._reply(job, opened, share, facts, deadline, screen)
                    facts.total_ms = self._since(opened.stored.stored_at)
                    result = formatter.answered(reply, facts)
                    if job.request.output is not None:
                        result = await self._answers.checked(job.state.tenant, result, job.request.output)
                    result = await screen.answered(result)
            if screen.is_withheld and facts.has_streamed:
                await job.restart()
            return result
        except Conflict:
            raise
        except SidecarError as e:
            facts.total_ms = self._since(opened.stored.stored_at)
            return screen.stopped(formatter.stopped(e, facts))
        except Exception:
            log.exception("a job met an error of our own", extra={"job": opened.job})
            facts.total_ms = self._since(opened.stored.stored_at)
            return screen.stopped(formatter.stopped(SidecarError("the sidecar failed; its log says how"), facts))

    async def _reply(
        self,
        job: OwnedJob,
        opened: DecodedRequest,
        share: GrantedQuota,
        facts: RunFacts,
        deadline: float,
        screen: FilterChain,
    ) -> ModelReply:
        opened = await self._filled_in(job, opened)
        call, selection = self._asker.call(opened, pool=share.pool, deadline=deadline, facts=facts)
        call = await screen.input(await self._objects.filled(call, tenant=job.state.tenant))
        return await self._conversation.answer(
            job, call, selection=selection, share=share, facts=facts, deadline=deadline
        )

    def _prompted(self, opened: DecodedRequest) -> tuple[DecodedRequest, PromptUse | None]:
        """The request with messages in place of a template's name. Raises InvalidRequest."""
        if opened.request is None or opened.request.prompt is None:
            return opened, None
        request, use = self._prompts.rendered(opened.stored.lane.tenant, opened.request)
        return msgspec.structs.replace(opened, request=request), use

    def _prompt_of(self, opened: DecodedRequest) -> PromptUse | None:
        """The template that a job is made of; None where the job says itself, when it runs, what is wrong."""
        try:
            return self._prompted(opened)[1]
        except InvalidRequest:
            return None

    async def _filled_in(self, job: OwnedJob, opened: DecodedRequest) -> DecodedRequest:
        """The request as its model gets it, made of exactly the template that the job was admitted with."""
        if opened.request is None or opened.request.prompt is None:
            return opened
        request, use = await self._prompts.rendered_as(job.state.tenant, opened.request, job.state.prompt)
        job.request = request
        job.record.state = bound(job.state, use)
        return msgspec.structs.replace(opened, request=request)

    def _since(self, epoch_s: float) -> int:
        return max(0, round((self._clock.now() - epoch_s) * 1000))


def _is_late(error: SidecarError) -> bool:
    return isinstance(error, JobCancelled) or error.code == "deadline_exceeded"
