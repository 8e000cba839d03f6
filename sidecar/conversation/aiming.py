"""A call as it is made to one candidate: within its output limit, its tiers and the job's money."""

from typing import cast

import msgspec

from sidecar.conversation.run import JobRun
from sidecar.coordinator.cost import affordable_output_tokens
from sidecar.coordinator.select import service_tier
from sidecar.errors import Permanent
from sidecar.models.call import ModelCall
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate, ModelProfile
from sidecar.models.request import JobRequest, Params, ServiceTier


def fit_to_candidate(run: JobRun, call: ModelCall, candidate: Candidate, *, now: float) -> ModelCall:
    """`call` for `candidate`. `now`: seconds since 1970.

    The run's facts learn what was lowered, and whether the answer's length is bounded by the budget. Raises
    Permanent with code `budget_exceeded` when not one token of an answer can be paid any more.
    """
    request, facts = run.job.request, run.facts
    tier = service_tier(
        candidate.profile,
        asked=request.service_tier,
        job_class=run.job.state.job_class,
        deadline=run.deadline,
        now=now,
    )
    params = _fitting(call.params, candidate.profile, facts)
    facts.is_bound_by_budget = False
    if request.budget.max_cost_usd is not None:
        params = _affordable(
            params,
            candidate,
            facts=facts,
            budget_usd=request.budget.max_cost_usd,
            cache_ttl=None if request.cache == "none" else "5m",
            tier=tier,
        )
    return msgspec.structs.replace(call, candidate=candidate, params=params, service_tier=_named(tier, request))


def _fitting(params: Params, profile: ModelProfile, facts: RunFacts) -> Params:
    """The parameters as this model takes them: no more output than it can give, and that said."""
    most = profile.max_output_tokens
    if params.max_tokens is None or params.max_tokens <= most:
        return params
    facts.warn(f"max_tokens was lowered from {params.max_tokens} to {most}, the most {profile.alias} can give")
    return msgspec.structs.replace(params, max_tokens=most)


def _affordable(
    params: Params,
    candidate: Candidate,
    *,
    facts: RunFacts,
    budget_usd: float,
    cache_ttl: str | None,
    tier: str,
) -> Params:
    """The parameters with no more output than what is left of the budget can pay."""
    spent_usd = facts.cost_usd or 0.0
    affordable = affordable_output_tokens(
        candidate,
        input_tokens=facts.input_estimate,
        left_usd=budget_usd - spent_usd,
        cache_ttl=cache_ttl,
        service_tier=tier,
    )
    if affordable is None or facts.cost_usd is None:
        facts.warn(f"no price is known for {candidate.profile.public_id}: max_cost_usd could not be held")
        return params
    if affordable < 1:
        raise Permanent(
            f"{candidate.profile.alias}: {spent_usd:.6f} USD are spent, what is left of max_cost_usd"
            f" ({budget_usd:g} USD) pays for no answer",
            code="budget_exceeded",
            details={"max_cost_usd": budget_usd, "spent_usd": spent_usd},
        )
    if params.max_tokens is not None and affordable >= params.max_tokens:
        return params
    facts.is_bound_by_budget = True
    return msgspec.structs.replace(params, max_tokens=affordable)


def _named(tier: str, request: JobRequest) -> ServiceTier:
    """The tier as it goes to Bedrock: the default one is only named when the request names it."""
    if tier == "default" and request.service_tier != "default":
        return "auto"
    return cast(ServiceTier, tier)
