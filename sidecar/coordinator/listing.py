"""The catalogue as a tenant sees it: the answer to `llm.v1.models.<tenant>`."""

from collections.abc import Collection, Sequence

from sidecar.coordinator.health import Phase
from sidecar.models.api import ModelInfo
from sidecar.models.profile import ModelProfile, public_id

_BEST_FIRST: tuple[Phase, ...] = ("closed", "half_open", "denied", "open")


def model_info(profile: ModelProfile, *, phases: Sequence[Phase], unusable: str | None) -> ModelInfo:
    """`phases`: of the profile's pools. Prices are those of its first route."""
    price = profile.prices[0] if profile.prices else None
    first = profile.routes[0] if profile.routes else None
    factor = first.price_factor if first else 1.0
    return ModelInfo(
        alias=profile.alias,
        model_id=public_id(first.invoke_id if first else profile.model_id, profile.alias),
        family=profile.family,
        name=profile.name,
        quality=profile.quality,
        context_tokens=profile.context_tokens,
        max_output_tokens=profile.max_output_tokens,
        capabilities=profile.capabilities,
        lifecycle=profile.lifecycle,
        regions=tuple(route.region for route in profile.routes),
        price_input_usd_per_mtok=None if price is None else round(price.input * factor, 6),
        price_output_usd_per_mtok=None if price is None else round(price.output * factor, 6),
        health=min(phases, key=_BEST_FIRST.index) if phases else "unknown",
        unusable=unusable,
    )


def why_unusable(
    profile: ModelProfile, *, names: Collection[str], allowed: frozenset[str] | None, regions: Sequence[str]
) -> str | None:
    """None for a model that a request may name. `names`: all that the tenant may know it by."""
    if not profile.routes:
        return no_region(regions)
    if allowed is not None and allowed.isdisjoint(names):
        return "not among the models this tenant may use"
    return "end of life: Bedrock does not serve it any more" if profile.lifecycle == "end_of_life" else None


def no_region(regions: Sequence[str]) -> str:
    return f"not offered in the configured regions ({', '.join(regions)})"
