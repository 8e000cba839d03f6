"""From a claimed job to a whole answer: calls the chosen model, and follows the coordinator when a call fails."""

import asyncio
from typing import Literal, Protocol

import msgspec

from sidecar.coordinator.fallback import Decision, Failure, Final, Retry, Wait
from sidecar.coordinator.health import Success
from sidecar.coordinator.service import Coordinator, Selection
from sidecar.errors import JobCancelled, SidecarError
from sidecar.job_manager.job import OwnedJob
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.content import CachePointBlock
from sidecar.models.event import Status
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate, ModelProfile
from sidecar.models.request import Params
from sidecar.models.result import Attempt, ErrorInfo, Usage
from sidecar.ports import Clock, ModelClient
from sidecar.response_formatter.formatter import error_info

# Rough, and said to be: used where the provider told nothing (a call that was broken off).
CHARACTERS_A_TOKEN = 4


class Share(Protocol):
    """The job's part of the quota, as the scheduler granted it."""

    @property
    def pool(self) -> str: ...

    async def move(self, pool: str) -> None:
        """Give the first pool's debit back, then wait for room in `pool`."""
        ...

    async def rest(self, seconds: float) -> None:
        """Wait for `seconds` without holding a slot."""
        ...

    def failed(self, error: SidecarError) -> None:
        """Tell the limiter about a refusal by the pool in use."""
        ...

    def used(self, usage: Usage, *, seconds: float) -> None:
        """Settle the debit with what the call really took."""
        ...


class Caller:
    """Makes the model calls of jobs."""

    def __init__(self, *, coordinator: Coordinator, models: ModelClient, clock: Clock) -> None:
        self._coordinator = coordinator
        self._models = models
        self._clock = clock

    async def answer(
        self,
        job: OwnedJob,
        call: ModelCall,
        *,
        selection: Selection,
        share: Share,
        facts: RunFacts,
        deadline: float,
    ) -> ModelReply:
        """The answer to `call`, by its candidate or whichever follows it. `deadline`: seconds since 1970.

        Raises the error of the last call when the coordinator gives up.
        """
        failures: list[Failure] = []
        if selection.wait_s > 0:
            await self._wait(job, share, selection.wait_s, "every candidate has failed lately")
        status = _running(call.candidate, selection)
        while True:
            await job.run_with(status)
            facts.model, facts.model_id = call.candidate.profile.alias, call.candidate.route.invoke_id
            try:
                return await self._once(job, call, share=share, facts=facts)
            except JobCancelled:
                raise
            except SidecarError as e:
                decision = self._decide(
                    job, e, call.candidate, tried=failures, selection=selection, facts=facts, deadline=deadline
                )
                failures.append(Failure(call.candidate, e))
                share.failed(e)
            call = await self._follow(decision, failures[-1].error, job, call, share=share, facts=facts)
            status = Status(
                state="running",
                model=call.candidate.profile.alias,
                model_id=call.candidate.route.invoke_id,
                region=call.candidate.route.region,
                reason=f"after {failures[-1].error.code} of {failures[-1].candidate.route.pool}",
            )

    def _decide(
        self,
        job: OwnedJob,
        error: SidecarError,
        candidate: Candidate,
        *,
        tried: list[Failure],
        selection: Selection,
        facts: RunFacts,
        deadline: float,
    ) -> Decision:
        return self._coordinator.decide(
            error,
            candidate=candidate,
            tried=tried,
            selection=selection,
            request=job.request,
            text_streamed=facts.has_streamed,
            deadline=deadline,
            now=self._clock.now(),
        )

    async def _follow(
        self,
        decision: Decision,
        failure: SidecarError,
        job: OwnedJob,
        call: ModelCall,
        *,
        share: Share,
        facts: RunFacts,
    ) -> ModelCall:
        """Do what the decision says before the next call. Raises its error when it is final."""
        if isinstance(decision, Final):
            raise decision.error
        candidate = decision.candidate
        job.progress.status(Status(state="retrying", error=error_info(failure), next=candidate.route.invoke_id))
        if isinstance(decision, Wait):
            await self._wait(job, share, decision.delay_s, decision.reason)
        elif isinstance(decision, Retry):
            await self._clock.sleep(decision.delay_s)
        if decision.new_attempt:
            await job.restart()
        facts.text.clear()
        facts.has_streamed = False
        if candidate.route.pool != share.pool:
            await share.move(candidate.route.pool)
        return msgspec.structs.replace(
            call, candidate=candidate, params=fitting(call.params, candidate.profile, facts)
        )

    async def _wait(self, job: OwnedJob, share: Share, seconds: float, reason: str) -> None:
        await job.wait_for(
            Status(state="waiting", waiting_for="model", reason=reason, estimate_ms=round(seconds * 1000))
        )
        await share.rest(seconds)

    async def _once(self, job: OwnedJob, call: ModelCall, *, share: Share, facts: RunFacts) -> ModelReply:
        started = self._clock.monotonic()
        try:
            reply = (
                await self._stream(job, call, facts) if job.request.stream else await self._models.converse(call)
            )
        except asyncio.CancelledError:
            self._note(call, facts, started, outcome="cancelled")
            self._guess_usage(job, call, facts)
            raise
        except SidecarError as e:
            self._coordinator.observe(call.candidate, e, now=self._clock.now())
            self._note(call, facts, started, outcome="error", error=error_info(e))
            if facts.has_streamed:
                self._guess_usage(job, call, facts)
            raise
        seconds = self._clock.monotonic() - started
        self._note(call, facts, started, outcome="ok")
        self._count(call, reply, facts)
        share.used(reply.usage, seconds=seconds)
        self._observe(call.candidate, reply, seconds, affinity=job.state.tenant)
        return reply

    async def _stream(self, job: OwnedJob, call: ModelCall, facts: RunFacts) -> ModelReply:
        progress, text = job.progress, facts.text
        reply: ModelReply | None = None
        async for item in self._models.stream(call):
            if isinstance(item, ModelReply):
                reply = item
                continue
            if facts.first_token_ms is None:
                facts.first_token_ms = facts.queued_ms + round(1000 * (self._clock.monotonic() - job.started_at))
            facts.has_streamed = True
            if item.text:
                text.append(item.text)
                progress.delta(item.index, text=item.text)
            elif item.reasoning:
                progress.delta(item.index, reasoning=item.reasoning)
        if reply is None:
            raise SidecarError("the model client ended a stream without a reply")
        return reply

    def _note(
        self,
        call: ModelCall,
        facts: RunFacts,
        started: float,
        *,
        outcome: Literal["ok", "error", "cancelled"],
        error: ErrorInfo | None = None,
    ) -> None:
        facts.attempts.append(
            Attempt(
                model_id=call.candidate.route.invoke_id,
                region=call.candidate.route.region,
                outcome=outcome,
                error=error,
                elapsed_ms=round((self._clock.monotonic() - started) * 1000),
            )
        )

    def _count(self, call: ModelCall, reply: ModelReply, facts: RunFacts) -> None:
        facts.usage += reply.usage
        if reply.usage_basis == "estimated":
            facts.usage_basis = "estimated"
        self._charge(call, reply.usage, facts)

    def _guess_usage(self, job: OwnedJob, call: ModelCall, facts: RunFacts) -> None:
        """Whether a call that broke off is billed is not known: count what was seen, and say it is a guess."""
        usage = Usage(
            input_tokens=facts.input_estimate, output_tokens=sum(map(len, facts.text)) // CHARACTERS_A_TOKEN
        )
        facts.usage += usage
        facts.usage_basis = "estimated"
        self._charge(call, usage, facts)

    def _charge(self, call: ModelCall, usage: Usage, facts: RunFacts) -> None:
        tier = "default" if call.service_tier == "auto" else call.service_tier
        ttl = _longest_ttl(call) if usage.cache_write_tokens else "5m"
        price = self._coordinator.price(call.candidate, usage, cache_ttl=ttl, service_tier=tier)
        if price is None:
            facts.cost_usd = None
            facts.warn(f"no price is known for {call.candidate.profile.model_id}: cost_usd is not given")
        elif facts.cost_usd is not None:
            facts.cost_usd += price

    def _observe(self, candidate: Candidate, reply: ModelReply, seconds: float, *, affinity: str) -> None:
        first_token_s = None if reply.first_token_ms is None else reply.first_token_ms / 1000
        rate = reply.usage.output_tokens / seconds if seconds > 0 else None
        self._coordinator.observe(
            candidate, Success(first_token_s, rate), now=self._clock.now(), affinity=affinity
        )


def _longest_ttl(call: ModelCall) -> str:
    blocks = (
        block for message in call.messages if not isinstance(message.content, str) for block in message.content
    )
    return "1h" if any(isinstance(block, CachePointBlock) and block.ttl == "1h" for block in blocks) else "5m"


def _running(candidate: Candidate, selection: Selection) -> Status:
    return Status(
        state="running",
        model=candidate.profile.alias,
        model_id=candidate.route.invoke_id,
        region=candidate.route.region,
        reason=candidate.reason or selection.reason,
        candidates=selection.rejected,
    )


def fitting(params: Params, profile: ModelProfile, facts: RunFacts) -> Params:
    """The parameters as this model takes them: no more output than it can give, and that said."""
    most = profile.max_output_tokens
    if params.max_tokens is None or params.max_tokens <= most:
        return params
    facts.warn(f"max_tokens was lowered from {params.max_tokens} to {most}, the most {profile.alias} can give")
    return msgspec.structs.replace(params, max_tokens=most)
