"""The way of a job, in order. Start reading here.

    request ──read──▶ admit ──scheduler──▶ claim ──▶ plan ──▶ turns ──▶ repair ──▶ format ──▶ end
                        └──▶ refuse                             ├─ model calls, fallback, deltas
                                                                └─ tool calls and the next turn, journalled

The cluster reads the queue and asks the scheduler; what is granted comes to `run`. Each step is the work of one
part, takes the run and returns a value; no step calls the next.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from sidecar.config.settings import JobsSettings
from sidecar.conversation.recovery import JournalRecovery
from sidecar.conversation.reservation import JobReservation
from sidecar.conversation.run import ConversationPlan, JobRun
from sidecar.conversation.tenant_budget import TenantBudgets
from sidecar.conversation.tool_selection import has_named
from sidecar.conversation.troubles import Troubles
from sidecar.conversation.turns import Conversation
from sidecar.coordinator.health import Caller
from sidecar.endpoints.objects import Objects
from sidecar.errors import (
    BusRefused,
    BusUnavailable,
    Conflict,
    GivenUp,
    HeldTooLong,
    InvalidRequest,
    JobCancelled,
    JobHeld,
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
from sidecar.models.holds import said_of
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
from sidecar.response_formatter.filters.input_check import InputCheck
from sidecar.response_formatter.filters.policy import FilterPolicies
from sidecar.response_formatter.structured import StructuredAnswers
from sidecar.scheduler.tickets import Ticket, WaitReason

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Leaving:
    """How a granted job leaves its worker, as the scheduler is told: ended, unless something says otherwise."""

    outcome: Outcome = ENDED


@contextmanager
def contained(job: str, reservation: JobReservation, leaving: Leaving) -> Iterator[None]:
    """What becomes of a grant that was not carried out. One job must not end the process: the next one would be
    granted it, and end too.
    """
    try:
        yield
    except ClaimedElsewhere as e:
        leaving.outcome = Outcome(kind="taken", attempt=e.attempt, owner=e.owner)
    except Conflict as e:
        log.warning("a job could not be claimed", extra={"job": job, "error": e.message})
        leaving.outcome = Outcome(kind="returned", attempt=reservation.granted_attempt)
    except (BusRefused, BusUnavailable) as e:
        # The request still stands, so the next reconcile takes it up again.
        log.error("the bus refused a job's records", extra={"job": job, "error": e.message})
    except Exception:
        log.exception("a job could not be run", extra={"job": job})
        leaving.outcome = Outcome(kind="returned", attempt=reservation.granted_attempt)


class Pipeline:
    """Takes jobs through the parts, step by step."""

    def __init__(
        self,
        *,
        planner: Planner,
        jobs: JobManager,
        turns: Conversation,
        journals: JournalRecovery,
        objects: Objects,
        prompts: Prompts,
        budgets: TenantBudgets,
        filters: FilterPolicies,
        answers: StructuredAnswers,
        troubles: Troubles,
        on_ended: Callable[[DecodedRequest, Result], None],
        clock: Clock,
        settings: JobsSettings,
    ) -> None:
        self._planner = planner
        self._troubles = troubles
        self._jobs = jobs
        self._turns = turns
        self._journals = journals
        self._objects = objects
        self._prompts = prompts
        self._budgets = budgets
        self._filters = filters
        self._answers = answers
        self._on_ended = on_ended
        self._clock = clock
        self._settings = settings

    def admit(self, decoded: DecodedRequest) -> Ticket | Later:
        """Before the queue: can this job run at all, and where? Raises SidecarError with the refusal.

        What takes longer than a moment to find out is told later, and holds up nobody else's job.
        """
        request = decoded.request
        if request is None:
            raise SidecarError(f"job {decoded.job} has no request")
        if request.output is not None or request.prompt is not None:
            if not self._is_plain(decoded.stored.lane.tenant, request):
                return partial(self._admit_later, decoded, request)
            structured.check_now(request.output)
        use: PromptUse | None = None
        if request.prompt is not None:
            request, use = self._prompts.rendered(decoded.stored.lane.tenant, request)
        ticket = self._planner.ticket(decoded, request, use)
        check = self._filters.check(decoded.stored.lane, request)
        if check is None:
            return ticket
        if check.is_done_at_once:
            check.now()
            return ticket
        return partial(self._checked, decoded.stored.lane, ticket, check)

    def _is_plain(self, tenant: str, request: JobRequest) -> bool:
        return (request.output is None or self._answers.is_checked_at_once(request.output)) and (
            request.prompt is None or self._prompts.is_filled_in_at_once(tenant, request)
        )

    async def _admit_later(self, decoded: DecodedRequest, request: JobRequest) -> Ticket:
        lane, use = decoded.stored.lane, None
        if request.output is not None:
            await self._answers.check(lane.tenant, request.output)
        if request.prompt is not None:
            request, use = await self._prompts.rendered_later(lane.tenant, request)
        ticket = self._planner.ticket(decoded, request, use)
        check = self._filters.check(lane, request)
        return ticket if check is None else await self._checked(lane, ticket, check)

    async def _checked(self, lane: Lane, ticket: Ticket, check: InputCheck) -> Ticket:
        await self._filters.check_later(lane, check)
        return ticket

    async def refuse(
        self, decoded: DecodedRequest, error: SidecarError, *, known: StoredState | None = None
    ) -> None:
        """The end of a job that never runs: refused, expired or cancelled while it was queued."""
        await self._end_unrun(decoded, error, known=known)

    async def bereave(self, ticket: Ticket) -> None:
        """The request of a granted job is gone from the queue: the job has ended, or else it ends now."""
        stored = StoredRequest(ticket.seq, ticket.lane, b"", {}, ticket.stored_at)
        error = GivenUp("its request was removed from the queue before the job had ended")
        await self._end_unrun(DecodedRequest(stored, ticket.job_id, None), error, known=None, is_bereft=True)

    async def _end_unrun(
        self, decoded: DecodedRequest, error: SidecarError, *, known: StoredState | None, is_bereft: bool = False
    ) -> None:
        # What could not run as it was is rejected; what could have, but came too late or to grief, is not.
        has_own_end = _is_late(error) or isinstance(error, GivenUp | HeldTooLong)
        state: TerminalState = formatter.state_of(error) if has_own_end else "rejected"
        facts = RunFacts(queued_ms=self._since(decoded.stored.stored_at))
        facts.total_ms = facts.queued_ms
        result = formatter.stopped(error, facts, state=state)
        result = await self._filters.refused(decoded.stored.lane, decoded.request, result, job=decoded.job)
        with left_to_the_next_reading(decoded.job), within_trace(decoded.stored.headers):
            is_ended = await self._jobs.refuse(
                decoded.stored,
                job=decoded.job,
                result=result,
                metadata=decoded.metadata,
                known=known,
                is_bereft=is_bereft,
            )
            if is_ended:
                self._on_ended(decoded, result)
            if decoded.request is not None and _is_late(error) and has_named(decoded.request.tools):
                # It may have run before, and have left children.
                await self._journals.close(decoded.stored.lane.tenant, decoded.job, None)

    async def record_queued(self, decoded: DecodedRequest) -> StoredState | None:
        """The document of a job that has to wait."""
        return await self._jobs.record_queued(
            decoded.stored,
            job=decoded.job,
            metadata=decoded.metadata,
            prompt=await self._prompt_of(decoded) if _has_template(decoded) else None,
        )

    async def record_progress(
        self, known: StoredState, *, ahead: int, estimate_ms: int | None, n: int
    ) -> StoredState | None:
        """Where a queued job stands, as its event `n`."""
        status = Status(state="queued", ahead=ahead, estimate_ms=estimate_ms)
        return await self._jobs.say_queued(known, status, n=n, metadata=known.state.metadata)

    async def record_blocked(
        self, decoded: DecodedRequest, known: StoredState, *, blocked: WaitReason, n: int
    ) -> StoredState | None:
        """Why a queued job waits, as its event `n`."""
        estimate_ms = None if blocked.estimate_s is None else round(1000 * blocked.estimate_s)
        status = Status(state="waiting", waiting_for=blocked.reason, reason=blocked.why, estimate_ms=estimate_ms)
        return await self._jobs.say_queued(known, status, n=n, metadata=decoded.metadata)

    async def keeps_s(self) -> float | None:
        """How long documents of jobs are kept; None: for good."""
        return await self._jobs.keeps_s()

    async def keep_queued(
        self, ticket: Ticket, record: "asyncio.Task[StoredState | None] | None"
    ) -> StoredState | None:
        """What is kept of a waiting job, written again before it ages."""
        known = record.result() if record is not None and not record.cancelled() else None
        kept: StoredState | None = None
        with left_to_the_next_reading(ticket.job_id):
            kept = await self._jobs.keep_queued(ticket.lane.tenant, ticket.job_id)
        # What cannot be told on under the right number is not told on.
        return kept if known is not None else None

    async def run(
        self, decoded: DecodedRequest, reservation: JobReservation, *, known: StoredState | None
    ) -> Outcome:
        """A granted job, from the claim to its end, or to where it leaves this replica's hands."""
        request = decoded.request
        if request is None:
            raise SidecarError(f"job {decoded.job} was granted without a request")
        leaving = Leaving()
        with contained(decoded.job, reservation, leaving), within_trace(decoded.stored.headers):
            job = await self._jobs.claim(
                decoded.stored,
                request,
                job=decoded.job,
                model=self._planner.model_of(reservation.pool),
                known=known,
                granted_attempt=reservation.granted_attempt,
                prompt=None if request.prompt is None else await self._prompt_of(decoded),
            )
            if job is None:
                return ENDED
            run = self._begun(decoded, job, reservation)
            async with self._held(run, leaving):
                async with self._stoppable(run):
                    job.scope.check()
                    if job.is_last_chance:
                        await self._jobs.wait_alone(job)
                    run.plan = await self._planned(run, decoded)
                    reply = await self._turns.until_answered(run)
                    reply = await self._turns.repaired(run, reply)
                    run.result = await self._formatted(run, reply)
                result = run.ended
                await self._budgets.settle(job, run.facts)
                # The order is the promise: from the first write on the job is over, from the second on its client
                # knows, and only then is forgotten what would have made another replica run it.
                await job.progress.flush()
                await self._jobs.completion.commit(job, result, n=job.progress.said + 1)
                await self._jobs.completion.announce(job.state, metadata=job.metadata)
                await self._jobs.completion.delete(job.state.request_seq)
                self._on_ended(decoded, result)
                if run.has_tools:
                    await self._journals.close(*job.key, job.journal if job.is_journal_read else None)
        return leaving.outcome

    def _begun(self, decoded: DecodedRequest, job: OwnedJob, reservation: JobReservation) -> JobRun:
        filters = self._filters.screen(decoded.stored.lane, job.request, job=decoded.job)
        job.progress.screen_event = filters.screen_event
        if filters.screen_event is not None:
            filters.know(job.request)
        facts = RunFacts(queued_ms=self._since(decoded.stored.stored_at))
        if job.state.carried is not None:
            facts.take_up(job.state.carried)
        return JobRun(
            job=job,
            reservation=reservation,
            filters=filters,
            facts=facts,
            stored_at=decoded.stored.stored_at,
            has_tools=has_named(job.request.tools),
            caller=Caller(job.state.tenant, job.state.job),
        )

    @asynccontextmanager
    async def _held(self, run: JobRun, leaving: Leaving) -> AsyncIterator[None]:
        """What becomes of a job of ours that does not come to its end here: it is handed on, or was lost."""
        job, facts = run.job, run.facts
        try:
            yield
        except Conflict as e:
            log.warning("lost a job to another owner", extra={"job": job.state.job, "error": e.message})
            leaving.outcome = Outcome(kind="taken", attempt=job.state.attempt)
        except JobHeld as e:
            job.progress.say(Status(state="waiting", waiting_for="model", reason=said_of(e.cause)))
            self._budgets.count(job, facts)
            await self._jobs.leave(job, None, carried=facts.carried, held_since=e.since)
            leaving.outcome = Outcome(
                kind="returned", attempt=job.state.attempt, held=e.cause, retry_after_s=e.retry_after
            )
        except asyncio.CancelledError:
            # The process stops: nobody should have to wait until this owner counts as silent.
            self._budgets.count(job, facts)
            await self._jobs.leave(job, run.result, carried=run.filters.carried(facts.carried))
            raise
        except (BusRefused, BusUnavailable):
            raise
        except Exception:
            log.exception("a job could not be ended", extra={"job": job.state.job})
            await self._jobs.leave(job, run.result, carried=run.filters.carried(facts.carried))
            if not job.state.is_terminal:
                leaving.outcome = Outcome(kind="returned", attempt=job.state.attempt)
        finally:
            await self._jobs.release(job)

    @asynccontextmanager
    async def _stoppable(self, run: JobRun) -> AsyncIterator[None]:
        """Work that cancellation and time limits can stop. Whatever ends it becomes the job's one result."""
        job, error = run.job, None
        try:
            async with job.scope:
                with time_limits(job, default_s=self._settings.timeout_s) as run.deadline:
                    yield
            if run.filters.is_withheld and run.facts.has_streamed:
                await job.restart()
            return
        except (Conflict, JobHeld):
            raise
        except SidecarError as e:
            if e.hold is not None and run.reservation.can_be_held:
                # Whatever it was that could not be called: a guardrail before or after the model, say.
                self._troubles.met(e, region=run.reservation.pool.rpartition("@")[2])
                raise JobHeld(e.hold, since=self._clock.now()) from e
            error = e
        except Exception:
            log.exception("a job met an error of our own", extra={"job": job.state.job})
            error = SidecarError("the sidecar failed; its log says how")
        run.facts.total_ms = self._since(run.stored_at)
        run.result = await run.filters.stopped(formatter.stopped(error, run.facts))

    async def _planned(self, run: JobRun, decoded: DecodedRequest) -> ConversationPlan:
        """What the models are asked, as they may see it."""
        request = await self._filled_in(run.job, decoded)
        plan = self._planner.plan(
            decoded, request, pool=run.reservation.pool, deadline=run.deadline, facts=run.facts
        )
        plan.call = await self._objects.filled(plan.call, tenant=run.job.state.tenant)
        if not run.filters.is_input_plain:
            plan.call = await run.filters.input(plan.call)
        return plan

    async def _formatted(self, run: JobRun, reply: ModelReply) -> Result:
        """The whole answer as the client may see it, held against its schema."""
        run.facts.total_ms = self._since(run.stored_at)
        result = formatter.answered(reply, run.facts)
        if run.job.request.output is not None:
            result = await self._answers.checked(run.job.state.tenant, result, run.job.request.output)
        return await run.filters.answered(result)

    async def _prompt_of(self, decoded: DecodedRequest) -> PromptUse | None:
        """The template that a job is made of; None where the job says itself, when it runs, what is wrong."""
        request = decoded.request
        if request is None or request.prompt is None:
            return None
        if decoded.plan is not None:
            return decoded.plan.prompt
        try:
            return (await self._prompts.rendered_later(decoded.stored.lane.tenant, request))[1]
        except InvalidRequest:
            return None

    async def _filled_in(self, job: OwnedJob, decoded: DecodedRequest) -> JobRequest:
        """The request as its model gets it, made of exactly the template that the job was admitted with."""
        request, plan = job.request, decoded.plan
        if request.prompt is None:
            return request
        if plan is not None and plan.prompt == job.state.prompt and plan.request.prompt is None:
            job.request = plan.request
        else:
            job.request, use = await self._prompts.rendered_as(job.state.tenant, request, job.state.prompt)
            job.state = bound(job.state, use)
        return job.request

    def _since(self, epoch_s: float) -> int:
        return max(0, round((self._clock.now() - epoch_s) * 1000))


def _has_template(decoded: DecodedRequest) -> bool:
    return decoded.request is not None and decoded.request.prompt is not None


def _is_late(error: SidecarError) -> bool:
    return isinstance(error, JobCancelled) or error.code == "deadline_exceeded"
