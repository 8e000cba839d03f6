"""Candidates with all that selection needs of them worked out beforehand, and the shelf that keeps them in order.

The score of a candidate is made of what does not depend on the request but by its task's kind and quality, so the
order for each of these is sorted once and kept until a measurement moves somebody.
"""

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from math import inf, log10
from operator import itemgetter

from sidecar.coordinator import cost
from sidecar.coordinator.health import Speed
from sidecar.models.profile import Candidate, ModelProfile
from sidecar.models.request import TaskKind

CAPABILITY_BITS: dict[str, int] = {
    "tools": 1,
    "images": 2,
    "documents": 4,
    "reasoning": 8,
    "structured_output": 16,
    "long_context": 32,
}
QUALITY_INDEX: dict[str, int] = {"fast": 0, "balanced": 1, "best": 2}

# What each property is worth at most. Quality outweighs what was measured, so that noise does not move a
# conversation between models; a warm cache outweighs noise too.
QUALITY_WORTH = 4.0
WARM_WORTH = 1.0
HEADROOM_WORTH = 1.0
# Cached input is a tenth of the price, the answer is not: beyond this a warm model is the dearer one all the same.
MOST_WARM_PRICE = 2.0
PRICE_WORTH: dict[str, float] = {"fast": 1.0, "balanced": 0.8, "best": 0.3}
SPEED_WORTH: dict[str, float] = {"fast": 1.0, "balanced": 0.5, "best": 0.25}
# By how many steps a model is above the wish. Too weak is worse than too strong: the answer suffers, not the bill.
_FIT: dict[int, float] = {0: 1.0, 1: 0.6, 2: 0.2, -1: 0.3, -2: 0.0}


def mask(capabilities: Iterable[str]) -> int:
    """Capabilities as bits; names that no request can need are left out."""
    bits = 0
    for name in capabilities:
        bits |= CAPABILITY_BITS.get(name, 0)
    return bits


def names_of(bits: int) -> str:
    return ", ".join(name for name, bit in CAPABILITY_BITS.items() if bits & bit)


class Entry:
    """A candidate, worked out. `names`: all that a tenant's list of models may call it."""

    __slots__ = (
        "alias",
        "blended_price",
        "candidate",
        "capabilities",
        "context_tokens",
        "flat_price",
        "lifecycle",
        "max_output_tokens",
        "names",
        "pool",
        "profile",
        "speed_score",
        "token_prices",
    )

    def __init__(self, profile: ModelProfile, candidate: Candidate, names: frozenset[str]) -> None:
        self.profile = profile
        self.candidate = candidate
        self.names = names
        self.alias = profile.alias
        self.pool = candidate.route.pool
        self.lifecycle = profile.lifecycle
        self.capabilities = mask(profile.capabilities)
        self.context_tokens = profile.context_tokens
        self.max_output_tokens = profile.max_output_tokens
        self.blended_price = blended_price(candidate)
        self.token_prices = token_prices(candidate)
        self.flat_price = _flat_price(candidate)
        self.speed_score = 0.0

    def upper_bound_usd(self, *, input_tokens: int, max_tokens: int, caches: bool) -> float | None:
        """As `cost.upper_bound_usd`, without a look at the tiers where there are none."""
        if self.flat_price is None:
            ttl = "5m" if caches else None
            return cost.upper_bound_usd(
                self.candidate, input_tokens=input_tokens, max_tokens=max_tokens, cache_ttl=ttl
            )
        plain, cached, output = self.flat_price
        return input_tokens * (cached if caches else plain) + max_tokens * output


class Shelf:
    """Entries for automatic choice, in order of their score for each kind and quality of task."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)
        self._by_pool: dict[str, list[tuple[int, Entry]]] = {}
        for index, entry in enumerate(self.entries):
            self._by_pool.setdefault(entry.pool, []).append((index, entry))
        self._orders: dict[tuple[TaskKind, str], list[_Place]] = {}

    def learn(self, pool: str, speed: Speed) -> None:
        """Take over what was measured of a pool."""
        for _, entry in self._by_pool.get(pool, ()):
            now = speed_score(speed)
            if entry.speed_score != now:
                entry.speed_score = now
                self._orders.clear()

    def order(
        self,
        kind: TaskKind,
        quality: str,
        *,
        headroom: Mapping[str, float] | None = None,
        warm_pool: str | None = None,
    ) -> Sequence["_Place"]:
        """Best first; equals by alias, then by the order of the regions. The entry is the last of each item.

        `headroom`: pool to the free share of its quota, 0 to 1; what it does not name counts as free.
        """
        places = self._orders.get((kind, quality))
        if places is None:
            places = sorted(
                ((-score(e, kind, quality), e.alias, i, e) for i, e in enumerate(self.entries)), key=_PLACE
            )
            self._orders[kind, quality] = places
        if headroom is not None:
            free = headroom.get
            places = sorted(
                ((s - HEADROOM_WORTH * free(e.pool, 1.0), a, i, e) for s, a, i, e in places), key=_PLACE
            )
        return places if warm_pool not in self._by_pool else self._with_warm(places, warm_pool)

    def _with_warm(self, places: list["_Place"], warm_pool: str | None) -> list["_Place"]:
        rest = [place for place in places if place[3].pool != warm_pool]
        most = _dearest_warm(places[0][3])
        for s, alias, index, entry in places:
            if entry.pool == warm_pool:
                worth = WARM_WORTH if entry.blended_price is not None and entry.blended_price <= most else 0.0
                insort(rest, (s - worth, alias, index, entry), key=_PLACE)
        return rest


def _dearest_warm(cold: Entry) -> float:
    """The blended price up to which a warm cache is worth more than the cold first choice."""
    return inf if cold.blended_price is None else cold.blended_price * MOST_WARM_PRICE + 1e-9


_Place = tuple[float, str, int, Entry]
_PLACE = itemgetter(0, 1, 2)


def score(entry: Entry, kind: TaskKind, quality: str) -> float:
    """Higher is better; headroom and a warm cache come on top."""
    profile = entry.profile
    offered = profile.quality_by_kind.get(kind, profile.quality)
    fit = _FIT[QUALITY_INDEX[offered] - QUALITY_INDEX[quality]]
    price = PRICE_WORTH[quality] * _cheapness(entry.blended_price)
    return round(QUALITY_WORTH * fit + price + SPEED_WORTH[quality] * entry.speed_score, 6)


def speed_score(speed: Speed) -> float:
    """-1 to 1, against a first token after a second and 60 tokens a second; a factor of ten is worth a half each.

    In steps of a tenth, so that noise does not change the order at every call.
    """
    total = 0.0
    if speed.first_token_s is not None:
        total -= 0.5 * log10(max(speed.first_token_s, 0.01))
    if speed.tokens_per_s is not None:
        total += 0.5 * log10(max(speed.tokens_per_s, 0.1) / 60.0)
    return max(-1.0, min(1.0, round(total, 1)))


def blended_price(candidate: Candidate) -> float | None:
    """US dollars for a million tokens, three parts input and one output; None where no price is known."""
    if not candidate.profile.prices:
        return None
    price = candidate.profile.prices[0]
    return (3 * price.input + price.output) / 4 * candidate.route.price_factor


def token_prices(candidate: Candidate) -> tuple[float, float] | None:
    """US dollars for a million tokens read and written, of a short prompt; None where no price is known."""
    if not candidate.profile.prices:
        return None
    price, factor = candidate.profile.prices[0], candidate.route.price_factor
    return price.input * factor, price.output * factor


def _cheapness(blended: float | None) -> float:
    """1 for 0.1 USD a million tokens, 0 for 10 USD; unknown counts as dear."""
    if blended is None:
        return -0.5
    return max(-0.5, min(1.5, (1.0 - log10(max(blended, 1e-3))) / 2))


def _flat_price(candidate: Candidate) -> tuple[float, float, float] | None:
    """US dollars a token: input, input that may be written to a cache, output; None where tiers or no price."""
    if len(candidate.profile.prices) != 1 or candidate.profile.prices[0].above_tokens:
        return None
    bounds = [
        cost.upper_bound_usd(candidate, input_tokens=i, max_tokens=o, cache_ttl=ttl)
        for i, o, ttl in ((1_000_000, 0, None), (1_000_000, 0, "5m"), (0, 1_000_000, None))
    ]
    plain, cached, output = (0.0 if b is None else b / 1_000_000 for b in bounds)
    return plain, cached, output
