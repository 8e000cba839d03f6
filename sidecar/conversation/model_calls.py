"""From a claimed job to a whole answer: calls the chosen model, and follows the coordinator when a call fails."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from sidecar.conversation import usage
from sidecar.conversation.aiming import aimed
from sidecar.conversation.tenant_budget import TenantBudgets
from sidecar.coordinator.fallback import Failure, Final, Retry, Wait
from sidecar.coordinator.health import Success
from sidecar.coordinator.service import Coordinator, Selection
from sidecar.errors import CallTimeout, JobCancelled, SidecarError
from sidecar.job_manager.job import OwnedJob
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.content import ReasoningBlock, TextBlock
from sidecar.models.event import Status
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate
from sidecar.models.result import Usage
from sidecar.ports.bus import Clock, ModelClient
from sidecar.response_formatter.formatter import error_info

# A whole answer gives no sign of life while it is made; one that takes longer than at this rate has stalled.
SLOWEST_TOKENS_A_S = 10.0


class GrantedQuota(Protocol):
    """The job's part of the quota, as the scheduler granted it."""

    @property
    def pool(self) -> str: ...

    @property
    def granted_attempt(self) -> int:
        """The job's last attempt that the scheduler knew of when it granted the job."""
        ...

    async def move(self, pool: str) -> None:
        """Give the first pool's debit back, then wait for room in `pool`."""
        ...

    async def rest(self, seconds: float, *, pool: str) -> None:
        """Wait for `seconds` without holding a slot, then for room in `pool`."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether room for a call is held; not after `used` or `release`, until `next_turn`."""
        ...

    @property
    def holds_slot(self) -> bool: ...

    def release(self) -> None:
        """Give slot and quota back while the job waits for something else than a model."""
        ...

    async def next_turn(self, *, input_tokens: int, max_tokens: int) -> None:
        """Wait for room for the job's next model call, ahead of queued jobs of its class."""
        ...

    def failed(self, error: SidecarError) -> None:
        """Tell the limiter about a refusal by the pool in use."""
        ...

    def used(self, usage: Usage, *, seconds: float) -> None:
        """Settle the debit with what the call really took."""
        ...


class _Run(msgspec.Struct, kw_only=True):
    """One turn of a job on its way to an answer. `call` is what it asks for, of no particular candidate."""

    job: OwnedJob
    call: ModelCall
    selection: Selection
    share: GrantedQuota
    facts: RunFacts
    deadline: float
    turn: int = 1
    failures: list[Failure] = []


class ModelCaller:
    """Makes the model calls of jobs."""

    def __init__(
        self, *, coordinator: Coordinator, models: ModelClient, spending: TenantBudgets, clock: Clock
    ) -> None:
        self._coordinator = coordinator
        self._models = models
        self._spending = spending
        self._clock = clock

    async def answer(
        self,
        job: OwnedJob,
        call: ModelCall,
        *,
        selection: Selection,
        share: GrantedQuota,
        facts: RunFacts,
        deadline: float,
        turn: int = 1,
    ) -> ModelReply:
        """The answer to `call`, by its candidate or whichever follows it. `deadline`: seconds since 1970.

        `turn` counts the job's model turns. Raises the error of the last call when the coordinator gives up.
        """
        run = _Run(job=job, call=call, selection=selection, share=share, facts=facts, deadline=deadline, turn=turn)
        candidate = call.candidate
        while True:
            candidate = await self._enter(run, candidate)
            outcome = await self._once(run, candidate)
            if isinstance(outcome, ModelReply):
                return outcome
            candidate = await self._follow(run, Failure(candidate, outcome))

    async def _enter(self, run: _Run, candidate: Candidate) -> Candidate:
        """Whose breaker lets the job through, `candidate` if it can be; room in its quota is held."""
        while True:
            pool = candidate.route.pool
            if self._coordinator.may_call(candidate, now=self._clock.now()):
                if pool != run.share.pool:
                    await run.share.move(pool)
                if self._coordinator.begin(candidate, now=self._clock.now()):
                    return candidate
            decision = self._coordinator.instead(
                run.selection, tried=run.failures, now=self._clock.now(), deadline=run.deadline
            )
            if isinstance(decision, Final):
                raise decision.error
            candidate = decision.candidate
            if isinstance(decision, Wait):
                await self._wait(run, decision)

    async def _follow(self, run: _Run, failure: Failure) -> Candidate:
        """Do what the coordinator says after a failure, before the next call. Raises the error of a final one."""
        decision = self._coordinator.decide(
            failure.error,
            candidate=failure.candidate,
            tried=run.failures,
            selection=run.selection,
            request=run.job.request,
            text_streamed=run.facts.has_streamed,
            deadline=run.deadline,
            now=self._clock.now(),
        )
        run.failures.append(failure)
        run.share.failed(failure.error)
        if isinstance(decision, Final):
            raise decision.error
        run.job.progress.status(
            Status(state="retrying", error=error_info(failure.error), next=decision.candidate.public_id)
        )
        if isinstance(decision, Wait):
            await self._wait(run, decision)
        elif isinstance(decision, Retry):
            await self._clock.sleep(decision.delay_s)
        return decision.candidate

    async def _wait(self, run: _Run, decision: Wait) -> None:
        estimate_ms = round(decision.delay_s * 1000)
        await run.job.wait_for(
            Status(state="waiting", waiting_for="model", reason=decision.reason, estimate_ms=estimate_ms)
        )
        await run.share.rest(decision.delay_s, pool=decision.candidate.route.pool)

    async def _once(self, run: _Run, candidate: Candidate) -> ModelReply | SidecarError:
        """Make the call that was begun. Returns the error where it failed; others' errors are raised."""
        try:
            call = self._aim(run, candidate)
            if isinstance(call, ModelCall):
                await self._announce(run, candidate)
        except BaseException:
            self._coordinator.abandon(candidate, now=self._clock.now())
            raise
        return await self._made(run, call) if isinstance(call, ModelCall) else call

    def _aim(self, run: _Run, candidate: Candidate) -> ModelCall | SidecarError:
        try:
            return aimed(
                run.call,
                candidate,
                coordinator=self._coordinator,
                request=run.job.request,
                job_class=run.job.state.job_class,
                facts=run.facts,
                deadline=run.deadline,
                now=self._clock.now(),
            )
        except SidecarError as e:
            self._coordinator.abandon(candidate, now=self._clock.now())
            run.facts.stop_reason = "budget"
            return e

    async def _announce(self, run: _Run, candidate: Candidate) -> None:
        """Say which model runs the job now, in a new attempt where text had been streamed."""
        facts = run.facts
        if facts.has_streamed:
            await run.job.restart()
        facts.text.clear()
        facts.heard_chars = 0
        if run.job.gate is not None:
            run.job.gate.reset()
        facts.has_streamed = False
        facts.stop_reason = None
        facts.model, facts.model_id = candidate.profile.alias, candidate.public_id
        await run.job.run_with(_running(candidate, run))

    async def _made(self, run: _Run, call: ModelCall) -> ModelReply | SidecarError:
        started, facts = self._clock.monotonic(), run.facts
        try:
            reply = await self._reply(run, call)
        except asyncio.CancelledError:
            self._coordinator.abandon(call.candidate, now=self._clock.now())
            usage.note(call, facts, outcome="cancelled", seconds=self._clock.monotonic() - started)
            usage.guess(call, facts, coordinator=self._coordinator)
            raise
        except JobCancelled:
            raise
        except SidecarError as e:
            seconds = self._clock.monotonic() - started
            self._coordinator.observe(call.candidate, e, now=self._clock.now())
            usage.note(call, facts, outcome="error", seconds=seconds, error=error_info(e))
            if facts.has_streamed or facts.heard_chars:
                usage.guess(call, facts, coordinator=self._coordinator)
            return e
        seconds = self._clock.monotonic() - started
        usage.note(call, facts, outcome="ok", seconds=seconds)
        usage.count(call, reply, facts, coordinator=self._coordinator)
        try:
            await self._spending.settle(run.job, facts)
        finally:
            run.share.used(reply.usage, seconds=seconds)
        self._learn(run, call.candidate, reply, seconds)
        return reply

    async def _reply(self, run: _Run, call: ModelCall) -> ModelReply:
        """By a stream where deltas are wanted, or where limits are that only a stream can be held to."""
        request = run.job.request
        is_timed = request.first_token_timeout_s is not None or request.idle_timeout_s is not None
        if "streaming" in call.candidate.profile.capabilities and (request.stream or is_timed):
            reply = await self._stream(run, call)
            await self._say_rest(run)
            return reply
        reply = await self._converse(call)
        if request.stream:
            for index, block in enumerate(reply.content):
                if isinstance(block, TextBlock):
                    self._say(run, ModelDelta(index=index, text=block.text))
                elif isinstance(block, ReasoningBlock) and block.text:
                    self._say(run, ModelDelta(index=index, reasoning=block.text))
            await self._say_rest(run)
        return reply

    async def _converse(self, call: ModelCall) -> ModelReply:
        """A whole answer, in the time that it may take to begin and then to be written slowly."""
        limits = call.limits
        limit_s = limits.first_token_s + (call.params.max_tokens or 0) / SLOWEST_TOKENS_A_S
        if limit_s >= limits.total_s:
            return await self._models.converse(call)
        try:
            return await self._models.converse(
                msgspec.structs.replace(call, limits=msgspec.structs.replace(limits, total_s=limit_s))
            )
        except CallTimeout as e:
            if e.limit != "total":
                raise
            raise CallTimeout(f"no answer within {limit_s:g} s", limit="first_token") from e

    async def _stream(self, run: _Run, call: ModelCall) -> ModelReply:
        facts = run.facts
        reply: ModelReply | None = None
        async for item in self._models.stream(call):
            if isinstance(item, ModelReply):
                reply = item
                continue
            if facts.first_token_ms is None:
                facts.first_token_ms = facts.queued_ms + round(
                    1000 * (self._clock.monotonic() - run.job.started_at)
                )
            if item.text or item.reasoning:
                self._say(run, item)
                if (gate := run.job.gate) is not None and gate.has_judges:
                    self._show(run, await gate.settle())
        if reply is None:
            raise SidecarError("the model client ended a stream without a reply")
        return reply

    def _say(self, run: _Run, delta: ModelDelta) -> None:
        if delta.text:
            run.facts.heard_chars += len(delta.text)
        self._show(run, (delta,) if run.job.gate is None else run.job.gate.take(delta))

    async def _say_rest(self, run: _Run) -> None:
        """What filters held back until the answer was whole."""
        if run.job.gate is not None:
            self._show(run, await run.job.gate.finish())

    def _show(self, run: _Run, deltas: Sequence[ModelDelta]) -> None:
        for delta in deltas:
            if delta.text:
                run.facts.text.append(delta.text)
            if run.job.request.stream:
                run.facts.has_streamed = True
                run.job.progress.delta(delta.index, text=delta.text, reasoning=delta.reasoning)

    def _learn(self, run: _Run, candidate: Candidate, reply: ModelReply, seconds: float) -> None:
        first_token_s = None if reply.first_token_ms is None else reply.first_token_ms / 1000
        rate = reply.usage.output_tokens / seconds if seconds > 0 else None
        self._coordinator.observe(
            candidate, Success(first_token_s, rate), now=self._clock.now(), affinity=run.job.state.tenant
        )


def _running(candidate: Candidate, run: _Run) -> Status:
    """First with the reason of the choice and who was passed over, later with what went before."""
    selection, reason = run.selection, run.selection.reason
    rejected = None if run.failures or run.turn > 1 else selection.rejected
    if run.failures:
        last = run.failures[-1]
        reason = f"after {last.error.code} of {last.candidate.public_pool}"
    elif run.turn > 1:
        reason = f"turn {run.turn}"
    elif candidate.route.pool != selection.candidates[0].route.pool:
        reason = f"{reason}; {selection.candidates[0].public_pool} was not free"
    return Status(
        state="running",
        model=candidate.profile.alias,
        model_id=candidate.public_id,
        region=candidate.route.region,
        reason=reason,
        candidates=rejected,
    )
