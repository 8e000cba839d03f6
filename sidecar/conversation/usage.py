"""What a job's model calls took: attempts, usage and cost, entered into its facts."""

from collections.abc import Sequence
from typing import Literal

from sidecar.coordinator.cost import LONG_TTL_FACTOR, TIER_FACTORS, cost_usd
from sidecar.coordinator.service import Coordinator
from sidecar.coordinator.token_estimate import request_tokens
from sidecar.errors import InvalidRequest
from sidecar.job_manager.succession import CallPrice, LastCall
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.codec import decode_request
from sidecar.models.content import CachePointBlock, Message
from sidecar.models.facts import RunFacts
from sidecar.models.request import JobRequest
from sidecar.models.result import Attempt, ErrorInfo, Usage
from sidecar.ports.bus import StoredRequest

# Rough, and said to be: used where the provider told nothing (a call that was broken off).
CHARACTERS_A_TOKEN = 4


def note(
    call: ModelCall,
    facts: RunFacts,
    *,
    outcome: Literal["ok", "error", "cancelled"],
    seconds: float,
    error: ErrorInfo | None = None,
) -> None:
    """Enter a call that was made, whichever way it ended."""
    facts.attempts.append(
        Attempt(
            model_id=call.candidate.public_id,
            region=call.candidate.route.region,
            outcome=outcome,
            error=error,
            elapsed_ms=round(seconds * 1000),
        )
    )


def count(call: ModelCall, reply: ModelReply, facts: RunFacts) -> None:
    """Enter what a whole answer took."""
    facts.usage += reply.usage
    if reply.usage_basis == "estimated":
        facts.usage_basis = "estimated"
    _charge(call, reply.usage, facts)


def guess(call: ModelCall, facts: RunFacts) -> None:
    """Whether a call that broke off is billed is not known: count what was seen, and say it is a guess."""
    usage = Usage(input_tokens=facts.input_estimate, output_tokens=facts.heard_chars // CHARACTERS_A_TOKEN)
    facts.usage += usage
    facts.usage_basis = "estimated"
    _charge(call, usage, facts)


def appraise(stored: StoredRequest, lost: LastCall, *, coordinator: Coordinator) -> CallPrice:
    """What a call that ended with its owner is taken to have cost: its prompt, and what was said of its answer."""
    try:
        input_tokens = request_tokens(decode_request(stored.payload))
    except InvalidRequest:
        input_tokens = 0
    usage = Usage(input_tokens=input_tokens, output_tokens=lost.characters // CHARACTERS_A_TOKEN)
    return CallPrice(usage, coordinator.price_on(f"{lost.model_id}@{lost.region}", usage))


def _charge(call: ModelCall, usage: Usage, facts: RunFacts) -> None:
    tier = "default" if call.service_tier == "auto" else call.service_tier
    ttl = _longest_ttl(call) if usage.cache_write_tokens else "5m"
    price = cost_usd(call.candidate, usage, cache_ttl=ttl, service_tier=tier)
    if price is None:
        facts.cost_usd = None
        facts.warn(f"no price is known for {call.candidate.profile.public_id}: cost_usd is not given")
    elif facts.cost_usd is not None:
        facts.cost_usd += price


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
