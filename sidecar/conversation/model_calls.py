"""From a claimed job to a whole answer: calls the chosen model, and follows the coordinator when a call fails."""

import asyncio
from collections.abc import Sequence

import msgspec

from sidecar.conversation import usage
from sidecar.conversation.aiming import fit_to_candidate
from sidecar.conversation.run import JobRun
from sidecar.conversation.tenant_budget import TenantBudgets
from sidecar.conversation.troubles import Troubles
from sidecar.conversation.waiting import rooms_of, saying
from sidecar.coordinator.billing import BILLED, bounded
from sidecar.coordinator.fallback import Failure, Final, Held, Next, Opening, Retry, Wait
from sidecar.coordinator.health import Success, may_follow_request
from sidecar.coordinator.service import Coordinator
from sidecar.errors import CallTimeout, JobCancelled, JobHeld, SidecarError
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.content import ReasoningBlock, TextBlock
from sidecar.models.event import Status
from sidecar.models.profile import Candidate
from sidecar.models.result import Purpose
from sidecar.ports.bus import Clock, ModelClient
from sidecar.response_formatter.formatter import error_info

# A whole answer gives no sign of life while it is made; one that takes longer than at this rate has stalled.
SLOWEST_TOKENS_A_S = 10.0
# Characters that go through filters in one go.
LARGE_DELTA = 2_048


class ModelCaller:
    """Makes the model calls of jobs."""

    def __init__(
        self,
        *,
        coordinator: Coordinator,
        models: ModelClient,
        budgets: TenantBudgets,
        troubles: Troubles,
        clock: Clock,
        max_calls: int,
    ) -> None:
        """`max_calls`: how many calls that may be billed one turn gets, over all its candidates."""
        self._max_calls = max_calls
        self._troubles = troubles
        self._coordinator = coordinator
        self._models = models
        self._budgets = budgets
        self._clock = clock

    async def call(self, run: JobRun, call: ModelCall) -> ModelReply:
        """The answer to `call`, by its candidate or whichever follows it.

        Raises the error of the last call when the coordinator gives up, or the turn has used up its calls.
        """
        run.failures.clear()
        if not run.is_repair:
            run.counted = usage.counted_before(run) if run.job.state.attempt > 1 else 0
            if run.counted >= self._max_calls:
                raise usage.left_at_bound(run.facts, self._max_calls)
        candidate = call.candidate
        if candidate.route.pool != run.reservation.pool:
            candidate = await self._room(run, Next(candidate))
        while True:
            candidate = await self._enter(run, candidate)
            outcome = await self._attempt(run, call, candidate)
            if isinstance(outcome, ModelReply):
                return outcome
            place = max(run.facts.heard_chars, outcome.heard_chars)
            candidate = await self._follow(run, Failure(candidate, outcome, at=self._clock.now(), place=place))

    async def _enter(self, run: JobRun, candidate: Candidate) -> Candidate:
        """Whose breaker lets the job through, `candidate` if it can be; room in its quota is held."""
        while not (begun := self._coordinator.begin(candidate, now=self._clock.now(), caller=run.caller)):
            decision = self._coordinator.instead(
                run.plan.selection,
                tried=run.failures,
                now=self._clock.now(),
                deadline=run.deadline,
                can_hold=run.reservation.can_be_held,
                caller=run.caller,
            )
            if isinstance(decision, Final):
                raise decision.error
            if isinstance(decision, Held):
                raise self._held(run, decision)
            candidate = await self._room(run, decision)
        run.made = None
        run.purpose = None
        if run.failures or run.is_repair or begun == "probe":
            run.purpose = _purpose(run, candidate, is_probe=begun == "probe")
        return candidate

    async def _follow(self, run: JobRun, failure: Failure) -> Candidate:
        """Do what the coordinator says after a failure, before the next call. Raises the error of a final one."""
        if may_follow_request(failure.error):
            run.caller = run.caller._replace(is_clean=False)
        decision = self._coordinator.decide(
            failure.error,
            candidate=failure.candidate,
            tried=run.failures,
            selection=run.plan.selection,
            request=run.job.request,
            text_streamed=run.facts.has_streamed,
            deadline=run.deadline,
            now=self._clock.now(),
            can_hold=run.reservation.can_be_held,
            caller=run.caller,
            place=failure.place,
        )
        run.failures.append(failure)
        run.reservation.failed(failure.error)
        self._troubles.failed(failure.candidate, failure.error)
        if isinstance(decision, Final):
            raise decision.error
        if isinstance(decision, Held):
            raise self._held(run, decision)
        if run.counted >= self._max_calls:
            raise bounded(failure.error, "max_calls", max_calls=self._max_calls) from failure.error
        run.job.progress.say(
            Status(
                state="retrying",
                error=error_info(failure.error),
                next=decision.candidate.public_id,
                call=run.made,
                spent=usage.spent(run.facts),
            )
        )
        return await self._room(run, decision)

    def _held(self, run: JobRun, decision: Held) -> JobHeld:
        """The job has nothing left to call: its clock stands from its first failed call on."""
        for pool, _ in decision.shut:
            self._troubles.shut(pool)
        times = [failure.at for failure in run.failures if failure.at is not None]
        retry_after = getattr(run.failures[-1].error, "retry_after", None) if run.failures else None
        return JobHeld(decision.cause, since=min(times, default=self._clock.now()), retry_after=retry_after)

    async def _room(self, run: JobRun, decision: Next | Retry | Wait) -> Candidate:
        """Whichever candidate has room first: nothing is held until then, and nobody waited for alone.

        While none of them may be called the job waits here; from then on in its lane's order, for all of them.
        """
        now = self._clock.now()
        first = Opening(decision.candidate, now + (0.0 if isinstance(decision, Next) else decision.delay_s))
        openings = self._coordinator.openings(
            run.plan.selection,
            tried=run.failures,
            first=first,
            stays=isinstance(decision, Retry),
            now=now,
            caller=run.caller,
        )
        if first.at > now:
            # Before anything is said: that takes a write, and the slot is another's meanwhile.
            run.reservation.release()
            if isinstance(decision, Wait):
                estimate_ms = round(decision.delay_s * 1000)
                await run.job.wait_for(
                    Status(state="waiting", waiting_for="model", reason=decision.reason, estimate_ms=estimate_ms)
                )
            await self._clock.sleep(first.at - now)
        await run.reservation.move(rooms_of(openings, now=first.at), say=saying(run))
        return run.plan.candidate_on(run.reservation.pool)

    async def _attempt(self, run: JobRun, call: ModelCall, candidate: Candidate) -> ModelReply | SidecarError:
        """Make the call that was begun, by `candidate`. Returns the error where it failed; others' are raised."""
        fitting = await self._begin(run, call, candidate)
        if isinstance(fitting, SidecarError):
            return fitting
        facts, started = run.facts, self._clock.monotonic()
        try:
            reply = await (self._stream(run, fitting) if _is_streamed(run, fitting) else self._whole(run, fitting))
        except (asyncio.CancelledError, JobCancelled):
            self._coordinator.abandon(candidate, now=self._clock.now())
            seconds = self._clock.monotonic() - started
            usage.enter(run, fitting, usage.broke_off(run, None), outcome="cancelled", seconds=seconds)
            raise
        except SidecarError as e:
            self._coordinator.observe(candidate, e, now=self._clock.now(), caller=run.caller)
            bill, seconds = usage.broke_off(run, e), self._clock.monotonic() - started
            told = await run.filters.error(error_info(e))
            usage.enter(run, fitting, bill, outcome="error", seconds=seconds, error=told)
            if bill.toll.may_be_billed:
                await self._budgets.settle(run.job, facts)
            return e
        except Exception:
            # A mistake of our own: the call was made all the same, and is on the bill.
            seconds = self._clock.monotonic() - started
            usage.enter(run, fitting, usage.broke_off(run, None), outcome="error", seconds=seconds)
            raise
        seconds = self._clock.monotonic() - started
        bill = usage.CallBill(BILLED, reply.usage, reply.usage_basis)
        usage.enter(run, fitting, bill, outcome="ok", seconds=seconds)
        try:
            # Counted before the reservation ends: nothing in between looks as if it were free.
            await self._budgets.settle(run.job, facts)
        finally:
            run.reservation.used(reply.usage, seconds=seconds)
        self._learn(run, candidate, reply, seconds)
        return reply

    async def _begin(self, run: JobRun, call: ModelCall, candidate: Candidate) -> ModelCall | SidecarError:
        """The call as it fits the candidate, after saying who is called. An error where no answer can be paid."""
        now = self._clock.now()
        try:
            fitting = fit_to_candidate(run, call, candidate, now=now)
        except SidecarError as e:
            self._coordinator.abandon(candidate, now=now)
            run.facts.stop_reason = "budget"
            return e
        try:
            await self._announce(run, candidate)
        except BaseException:
            self._coordinator.abandon(candidate, now=self._clock.now())
            raise
        return fitting

    async def _announce(self, run: JobRun, candidate: Candidate) -> None:
        """Say which model runs the job now, in a new attempt where text had been streamed."""
        facts = run.facts
        if facts.has_streamed:
            await run.job.restart()
        facts.text.clear()
        facts.heard_chars, run.reply = 0, None
        if run.filters.gate is not None:
            run.filters.gate.reset()
        facts.has_streamed = False
        facts.stop_reason = None
        facts.model, facts.model_id = candidate.profile.alias, candidate.public_id
        await run.job.run_with(_running(candidate, run))

    async def _whole(self, run: JobRun, call: ModelCall) -> ModelReply:
        """A whole answer, in the time that it may take to begin and then to be written slowly."""
        limits = call.limits
        limit_s = limits.first_token_s + (call.params.max_tokens or 0) / SLOWEST_TOKENS_A_S
        if limit_s < limits.total_s:
            call = msgspec.structs.replace(call, limits=msgspec.structs.replace(limits, total_s=limit_s))
        try:
            reply = await self._models.converse(call)
        except CallTimeout as e:
            if e.limit != "total" or limit_s >= limits.total_s:
                raise
            raise CallTimeout(f"no answer within {limit_s:g} s", limit="first_token") from e
        run.reply = reply
        if run.job.request.stream:
            for index, block in enumerate(reply.content):
                if isinstance(block, TextBlock):
                    await self._say_whole(run, ModelDelta(index=index, text=block.text))
                elif isinstance(block, ReasoningBlock) and block.text:
                    await self._say_whole(run, ModelDelta(index=index, reasoning=block.text))
            await self._say_rest(run)
        return reply

    async def _stream(self, run: JobRun, call: ModelCall) -> ModelReply:
        facts = run.facts
        reply: ModelReply | None = None
        async for item in self._models.stream(call):
            if isinstance(item, ModelReply):
                run.reply = reply = item
                continue
            if facts.first_token_ms is None:
                facts.first_token_ms = facts.queued_ms + round(
                    1000 * (self._clock.monotonic() - run.job.started_at)
                )
            if said := item.text or item.reasoning:
                facts.heard_chars += len(said)
                if len(said) <= LARGE_DELTA:
                    self._say(run, item)
                else:
                    await self._say_whole(run, item)
                if (gate := run.filters.gate) is not None and gate.has_judges:
                    self._show(run, await gate.settle())
        if reply is None:
            raise SidecarError("the model client ended a stream without a reply")
        await self._say_rest(run)
        return reply

    def _say(self, run: JobRun, delta: ModelDelta) -> None:
        self._show(run, (delta,) if run.filters.gate is None else run.filters.gate.take(delta))

    async def _say_whole(self, run: JobRun, delta: ModelDelta) -> None:
        """A delta of any size. Filters give the same whatever the pieces; between two, others have their turn."""
        name = "text" if delta.text is not None else "reasoning"
        text = delta.text if delta.text is not None else delta.reasoning or ""
        for at in range(0, len(text), LARGE_DELTA):
            self._say(run, msgspec.structs.replace(delta, **{name: text[at : at + LARGE_DELTA]}))
            await asyncio.sleep(0)

    async def _say_rest(self, run: JobRun) -> None:
        """What filters held back until the answer was whole."""
        if run.filters.gate is not None:
            self._show(run, await run.filters.gate.finish())

    def _show(self, run: JobRun, deltas: Sequence[ModelDelta]) -> None:
        for delta in deltas:
            if delta.text:
                run.facts.text.append(delta.text)
            if run.job.request.stream:
                run.facts.has_streamed = True
                run.job.progress.delta(delta.index, text=delta.text, reasoning=delta.reasoning)

    def _learn(self, run: JobRun, candidate: Candidate, reply: ModelReply, seconds: float) -> None:
        first_token_s = None if reply.first_token_ms is None else reply.first_token_ms / 1000
        rate = reply.usage.output_tokens / seconds if seconds > 0 else None
        was_cached = reply.usage.cache_read_tokens or reply.usage.cache_write_tokens
        if self._troubles.found:
            self._troubles.answered(candidate)
        self._coordinator.observe(
            candidate,
            Success(first_token_s, rate),
            now=self._clock.now(),
            cached=run.plan.selection.prefixes if was_cached else (),
            caller=run.caller,
        )


def _is_streamed(run: JobRun, call: ModelCall) -> bool:
    """By a stream where deltas are wanted, or where limits are that only a stream can be held to."""
    request = run.job.request
    is_timed = request.first_token_timeout_s is not None or request.idle_timeout_s is not None
    return (request.stream or is_timed) and "streaming" in call.candidate.profile.capabilities


def _running(candidate: Candidate, run: JobRun) -> Status:
    """First with the reason of the choice and who was passed over, later with what went before."""
    selection, reason = run.plan.selection, run.plan.selection.reason
    rejected = None if run.failures or run.turns > 1 else selection.rejected
    if run.failures:
        last = run.failures[-1]
        reason = f"after {last.error.code} of {last.candidate.public_pool}"
    elif run.turns > 1:
        reason = f"turn {run.turns}"
    elif candidate.route.pool != selection.candidates[0].route.pool:
        reason = f"{reason}; {selection.candidates[0].public_pool} was not free"
    return Status(
        state="running",
        model=candidate.profile.alias,
        model_id=candidate.public_id,
        region=candidate.route.region,
        reason=reason,
        candidates=rejected,
        spent=usage.spent(run.facts) if run.failures else None,
    )


def _purpose(run: JobRun, candidate: Candidate, *, is_probe: bool) -> Purpose | None:
    """Why a call is made; None for the first of its turn."""
    if is_probe:
        return "probe"
    if run.failures:
        return "retry" if run.failures[-1].candidate.route.pool == candidate.route.pool else "fallback"
    return "repair" if run.is_repair else None
