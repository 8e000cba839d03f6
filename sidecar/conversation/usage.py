"""What a job's model calls took: attempts, usage and cost, entered into its facts."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec import UNSET, UnsetType

from sidecar.conversation.run import JobRun
from sidecar.coordinator.billing import BILLED, BILLED_AND_NOT_COUNTED, Toll, toll_of
from sidecar.coordinator.cost import LONG_TTL_FACTOR, TIER_FACTORS, cost_usd
from sidecar.coordinator.service import Coordinator
from sidecar.coordinator.token_estimate import request_tokens
from sidecar.errors import ErrorCode, GivenUp, InvalidRequest, SidecarError, TokenCounts
from sidecar.job_manager.succession import CallPrice, LastCall
from sidecar.models.call import ModelCall
from sidecar.models.codec import decode_request
from sidecar.models.content import CachePointBlock, Message
from sidecar.models.event import Spent
from sidecar.models.facts import RunFacts
from sidecar.models.request import JobRequest
from sidecar.models.result import Attempt, ErrorInfo, Usage, UsageBasis
from sidecar.ports.bus import StoredRequest

# Rough, and said to be: used where the provider told nothing (a call that was broken off).
CHARACTERS_A_TOKEN = 4


class CallBill(NamedTuple):
    """What one call is taken to have cost, and whether that is known or estimated."""

    toll: Toll
    usage: Usage
    basis: UsageBasis


def broke_off(run: JobRun, error: SidecarError | None) -> CallBill:
    """The bill of a call that came to no whole answer. `error` is None where it was broken off from here.

    Whether such a call is billed, and how far, is seldom told: what was sent and what was heard of the answer
    count then, and the bill says that it is a guess.
    """
    if run.reply is not None:
        # The answer was whole; what stopped the job came after.
        return CallBill(BILLED, run.reply.usage, run.reply.usage_basis)
    heard = run.facts.heard_chars
    if error is None:
        toll = BILLED_AND_NOT_COUNTED
    else:
        heard = max(heard, error.heard_chars)
        toll = toll_of(error, is_heard=heard > 0)
        if error.counted is not None:
            return CallBill(BILLED, _usage_of(error.counted), "observed")
    if not toll.may_be_billed:
        return CallBill(toll, Usage(), "observed")
    usage = Usage(input_tokens=run.facts.input_estimate, output_tokens=-(-heard // CHARACTERS_A_TOKEN))
    return CallBill(toll, usage, "estimated")


def enter(
    run: JobRun,
    call: ModelCall,
    bill: CallBill,
    *,
    outcome: Literal["ok", "error", "cancelled"],
    seconds: float,
    error: ErrorInfo | None = None,
) -> None:
    """Enter a call that was made, whichever way it ended, and what it took: the job's bill is the sum of these."""
    facts, toll = run.facts, bill.toll
    run.counted += toll.counts
    cost: float | UnsetType | None = UNSET
    if toll.may_be_billed:
        facts.usage += bill.usage
        if bill.basis == "estimated":
            facts.usage_basis = "estimated"
        cost = _charge(call, bill.usage, facts)
    run.made = Attempt(
        model_id=call.candidate.public_id,
        region=call.candidate.route.region,
        outcome=outcome,
        error=error,
        elapsed_ms=round(seconds * 1000),
        usage=bill.usage if toll.may_be_billed else UNSET,
        cost_usd=cost,
        usage_basis=bill.basis if toll.may_be_billed else UNSET,
        may_be_billed=toll.may_be_billed,
        turn=run.turns,
        counted=run.counted,
        purpose=run.purpose or UNSET,
    )
    facts.attempts.append(run.made)


def counted_before(run: JobRun) -> int:
    """The calls of the turn under way that earlier owners of the job made, as far as they count.

    A call that ended with its replica does not.
    """
    for made in reversed(run.facts.attempts):
        if made.outcome != "crashed":
            return made.counted or 0 if made.turn == run.turns else 0
    return 0


def left_at_bound(facts: RunFacts, max_calls: int) -> SidecarError:
    """What ends a job whose earlier owners used up the calls of its turn: the error of the last of them."""
    last = next((made.error for made in reversed(facts.attempts) if made.error is not None), None)
    code: ErrorCode = "model_error" if last is None else last.code
    return GivenUp(
        f"its turn has used up its calls: {'no error is known' if last is None else last.message}",
        code=code,
        details={**({} if last is None else last.details), "limit": "max_calls", "max_calls": max_calls},
    )


def spent(facts: RunFacts) -> Spent:
    """The money so far."""
    return Spent(calls=facts.calls, usage=facts.usage, usage_basis=facts.usage_basis, cost_usd=facts.cost_usd)


def appraise(stored: StoredRequest, lost: LastCall, *, coordinator: Coordinator) -> CallPrice:
    """What a call that ended with its owner is taken to have cost: its prompt, and what was said of its answer."""
    try:
        input_tokens = request_tokens(decode_request(stored.payload))
    except InvalidRequest:
        input_tokens = 0
    usage = Usage(input_tokens=input_tokens, output_tokens=lost.characters // CHARACTERS_A_TOKEN)
    return CallPrice(usage, coordinator.price_on(f"{lost.model_id}@{lost.region}", usage))


def _charge(call: ModelCall, usage: Usage, facts: RunFacts) -> float | None:
    """Add the call's price to the job's. None where it is not known, and then the job's is not either."""
    tier = "default" if call.service_tier == "auto" else call.service_tier
    ttl = _longest_ttl(call) if usage.cache_write_tokens else "5m"
    price = cost_usd(call.candidate, usage, cache_ttl=ttl, service_tier=tier)
    if price is None:
        facts.cost_usd = None
        facts.warn(f"no price is known for {call.candidate.profile.public_id}: cost_usd is not given")
    elif facts.cost_usd is not None:
        facts.cost_usd += price
    return price


def _usage_of(counted: TokenCounts) -> Usage:
    return Usage(
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cache_read_tokens=counted.cache_read_tokens,
        cache_write_tokens=counted.cache_write_tokens,
    )


def dearest_factor(request: JobRequest) -> float:
    """How much dearer than a plain one a request's calls can be: service tier, cache entries that live long."""
    is_pressed = request.deadline is not None or request.timeout_s is not None
    tier = "priority" if request.service_tier == "auto" and is_pressed else request.service_tier
    cache = LONG_TTL_FACTOR if _ttl_of(request.messages or ()) == "1h" else 1.0
    return max(TIER_FACTORS.get(tier, 1.0), 1.0) * cache


def _longest_ttl(call: ModelCall) -> str:
    return _ttl_of(call.messages)


def _ttl_of(messages: Sequence[Message]) -> str:
    for message in messages:
        for block in () if isinstance(message.content, str) else message.content:
            if isinstance(block, CachePointBlock) and block.ttl == "1h":
                return "1h"
    return "5m"
