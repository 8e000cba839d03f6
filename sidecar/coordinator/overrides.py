"""The user's `[models.<alias>]` over the catalogue, and cautious profiles for models it does not know."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from sidecar.config.settings import ModelPolicy
from sidecar.coordinator.ids import ModelRef
from sidecar.coordinator.vendors import with_vendor
from sidecar.models.profile import Capability, Family, ModelProfile, Price, QuotaLimits, Route, Traits

_LIMIT_FIELDS = ("tokens_per_minute", "requests_per_minute", "tokens_per_day", "max_concurrency", "burndown")
_PLAIN_FIELDS = (
    "quality",
    "kinds",
    "quality_by_kind",
    "family",
    "context_tokens",
    "max_output_tokens",
    "fallback",
)

ASSUMED_CONTEXT_TOKENS = 32_000
ASSUMED_OUTPUT_TOKENS = 4_096
# Tokens and requests a minute are learned, as for any model whose quota nobody configured; how an answer's tokens
# count against it cannot be, so the dearer of the common factors is taken.
UNKNOWN_LIMITS = QuotaLimits(burndown=5.0)

# An unknown Claude is most likely a newer one, so it gets what the newest known take.
_CAUTIOUS_TRAITS: dict[Family, Traits] = {
    "claude": Traits(
        sampling="none",
        reasoning="adaptive",
        replays_reasoning=True,
        forced_tool="no",
        prefill=False,
        schema="native",
        cache_points=("system", "messages", "tools"),
        cache_min_tokens=4096,
    ),
    "nova": Traits(top_k=True, prefill=False, cache_points=(), hyphens_in_tool_names=False),
    "other": Traits(forced_tool="no", prefill=False, schema="none"),
}
_CAUTIOUS_CAPABILITIES: dict[Family, tuple[Capability, ...]] = {
    "claude": ("documents", "images", "streaming", "structured_output", "tools"),
    "nova": ("streaming", "structured_output", "tools"),
    "other": ("streaming",),
}


def with_policy(profile: ModelProfile, policy: ModelPolicy, *, alias: str) -> ModelProfile:
    """`profile` with what the user's entry sets; everything else stays."""
    changes: dict[str, Any] = {"alias": alias}
    changes |= {f: v for f in _PLAIN_FIELDS if (v := getattr(policy, f)) is not None}
    if policy.quality is not None and policy.quality_by_kind is None:
        changes["quality_by_kind"] = {}
    if policy.capabilities is not None:
        changes["capabilities"] = cast(tuple[Capability, ...], tuple(sorted(policy.capabilities)))
    price = _price(policy, profile.prices[0] if profile.prices else None)
    if price is not None:
        changes["prices"] = (price,)
        changes["routes"] = tuple(msgspec.structs.replace(r, price_factor=1.0) for r in profile.routes)
    limits = {f: v for f in _LIMIT_FIELDS if (v := getattr(policy, f)) is not None}
    if limits:
        routes: tuple[Route, ...] = changes.get("routes", profile.routes)
        changes["routes"] = tuple(
            msgspec.structs.replace(r, limits=msgspec.structs.replace(r.limits, **limits)) for r in routes
        )
    return msgspec.structs.replace(profile, sources=profile.sources | {"user": f"models.{alias}"}, **changes)


def generic_profile(alias: str, ref: ModelRef, policy: ModelPolicy, *, regions: Sequence[str]) -> ModelProfile:
    """A model that the catalogue does not know, asked as plainly as can be."""
    family = policy.family or guess_family(ref.base or ref.invoke_id)
    routes = tuple(Route(region=r, invoke_id=ref.invoke_id, limits=UNKNOWN_LIMITS) for r in regions)
    plain = ModelProfile(
        alias=alias,
        model_id=ref.base or ref.invoke_id,
        family=family,
        name=alias,
        context_tokens=policy.context_tokens or ASSUMED_CONTEXT_TOKENS,
        max_output_tokens=policy.max_output_tokens or ASSUMED_OUTPUT_TOKENS,
        capabilities=_CAUTIOUS_CAPABILITIES[family],
        traits=with_vendor(_CAUTIOUS_TRAITS[family], ref.base or ref.invoke_id, family),
        routes=routes,
        sources={"facts": "cautious default: the catalogue does not know this model"},
    )
    return with_policy(plain, policy, alias=alias)


def assumptions(profile: ModelProfile, policy: ModelPolicy) -> str:
    """What is assumed of a model that the catalogue does not know, as far as its entry does not say it."""
    limits = profile.routes[0].limits if profile.routes else UNKNOWN_LIMITS
    assumed = [f"family {profile.family}"] if policy.family is None else []
    if policy.capabilities is None:
        assumed.append(f"capabilities {', '.join(sorted(profile.capabilities))}")
    if policy.context_tokens is None:
        assumed.append(f"context_tokens {profile.context_tokens}")
    if policy.max_output_tokens is None:
        assumed.append(f"max_output_tokens {profile.max_output_tokens}")
    if policy.burndown is None:
        assumed.append(f"burndown {limits.burndown:g}")
    if policy.tokens_per_minute is None:
        assumed.append("no tokens_per_minute: its quota is learned from its answers and refusals")
    if not profile.prices:
        assumed.append("no prices: its cost is not told, no budget holds for it, nothing stands in for it unasked")
    return "; ".join(assumed) or "nothing"


def guess_family(model_id: str) -> Family:
    if "claude" in model_id:
        return "claude"
    return "nova" if "nova" in model_id else "other"


def _price(policy: ModelPolicy, known: Price | None) -> Price | None:
    """The user's price, filled up from the known one; None when the user gave no price or only half of one."""
    fields = {f: getattr(policy, f"price_{f}") for f in ("input", "output", "cache_read", "cache_write")}
    if all(value is None for value in fields.values()):
        return None
    if known is not None:
        fields = {f: getattr(known, f) if value is None else value for f, value in fields.items()}
    if fields["input"] is None or fields["output"] is None:
        return None
    return Price(**fields)
