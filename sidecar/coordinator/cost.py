"""What a call costs, from observed usage; and what it can cost at most, before it is made.

US dollars. None means that no price is known: whoever promises a budget must then refuse.
"""

from collections.abc import Sequence

from sidecar.models.profile import Candidate, ModelProfile, Price
from sidecar.models.result import Usage

PER_MTOK = 1e-6
# Price of a cache write that lives an hour, over one that lives five minutes (2.0 and 1.25 times the input price).
LONG_TTL_FACTOR = 1.6
# AWS names no numbers in its guide; both are what its price list shows for the models that have the tiers.
TIER_FACTORS = {"priority": 1.75, "flex": 0.5}


def price_at(prices: Sequence[Price], prompt_tokens: int) -> Price | None:
    """The tier for a prompt of this length (cache reads and writes included)."""
    found: Price | None = None
    for price in prices:
        if prompt_tokens >= price.above_tokens and (found is None or price.above_tokens > found.above_tokens):
            found = price
    return found


def cost_usd(
    candidate: Candidate, usage: Usage, *, cache_ttl: str = "5m", service_tier: str = "default"
) -> float | None:
    """Cost of a call with this usage. Cache tokens without a price of their own cost as input."""
    prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    price = price_at(candidate.profile.prices, prompt)
    if price is None:
        return None
    total = (
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_tokens * (price.input if price.cache_read is None else price.cache_read)
    )
    if usage.cache_write_tokens:
        total += usage.cache_write_tokens * _write_price(price, cache_ttl)
    return total * PER_MTOK * candidate.route.price_factor * TIER_FACTORS.get(service_tier, 1.0)


def upper_bound_usd(
    candidate: Candidate,
    *,
    input_tokens: int,
    max_tokens: int,
    cache_ttl: str | None = "5m",
    service_tier: str = "default",
) -> float | None:
    """The most a call can cost: every input token dear, every output token used. `cache_ttl` None: no caching."""
    price = _dearest(candidate.profile, input_tokens)
    if price is None:
        return None
    per_input = price.input if cache_ttl is None else max(price.input, _write_price(price, cache_ttl))
    total = input_tokens * per_input + max_tokens * price.output
    return total * PER_MTOK * factor(candidate, service_tier)


def affordable_output_tokens(
    candidate: Candidate,
    *,
    input_tokens: int,
    left_usd: float,
    cache_ttl: str | None = "5m",
    service_tier: str = "default",
) -> int | None:
    """How long an answer may get before `left_usd` could be passed; 0: not at all; None: no price known."""
    spent = upper_bound_usd(
        candidate, input_tokens=input_tokens, max_tokens=0, cache_ttl=cache_ttl, service_tier=service_tier
    )
    price = _dearest(candidate.profile, input_tokens)
    if spent is None or price is None:
        return None
    per_token = price.output * PER_MTOK * factor(candidate, service_tier)
    left = left_usd - spent
    if left < 0:
        return 0
    return candidate.profile.max_output_tokens if per_token == 0 else int(left / per_token)


def factor(candidate: Candidate, service_tier: str) -> float:
    return candidate.route.price_factor * TIER_FACTORS.get(service_tier, 1.0)


def _write_price(price: Price, cache_ttl: str) -> float:
    if price.cache_write is None:
        return price.input
    return price.cache_write * (LONG_TTL_FACTOR if cache_ttl == "1h" else 1.0)


def _dearest(profile: ModelProfile, input_tokens: int) -> Price | None:
    """The tier at the prompt's length; estimates err, so one just below a tier counts as in it."""
    return price_at(profile.prices, int(input_tokens * 1.1))
