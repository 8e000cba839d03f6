"""Which models can serve a request, and in which order: hard filters, then a score. Pure and deterministic.

Everything that does not depend on the request is computed once, in `Entry`; a selection over 60 candidates is
then a few comparisons each.
"""

from collections.abc import Callable, Iterable, Mapping
from math import log10
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from sidecar.coordinator import cost
from sidecar.coordinator.health import Speed
from sidecar.models.content import DocumentBlock, ImageBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.event import Rejected
from sidecar.models.profile import Candidate, ModelProfile
from sidecar.models.request import JobRequest, TaskKind

CAPABILITY_BITS: dict[str, int] = {
    "tools": 1,
    "images": 2,
    "documents": 4,
    "reasoning": 8,
    "structured_output": 16,
    "long_context": 32,
}
QUALITY_INDEX: dict[str, int] = {"fast": 0, "balanced": 1, "best": 2}
KINDS: tuple[TaskKind, ...] = ("chat", "code", "extract", "summarize", "classify", "reason")
MIN_ANSWER_TOKENS = 64

# Score: what each property is worth at most. Quality and kind outweigh what was measured, so that noise does not
# move a conversation between models; a warm cache outweighs noise too.
QUALITY_WORTH = 4.0
KIND_WORTH = 2.0
WARM_WORTH = 1.0
HEADROOM_WORTH = 1.0
PRICE_WORTH: dict[str, float] = {"fast": 1.0, "balanced": 0.8, "best": 0.3}
SPEED_WORTH: dict[str, float] = {"fast": 1.0, "balanced": 0.5, "best": 0.25}

Stage = Literal["unknown", "tenant", "lifecycle", "region", "capability", "context", "output", "budget", "health"]
STAGES: tuple[Stage, ...] = (
    "unknown",
    "tenant",
    "lifecycle",
    "region",
    "capability",
    "context",
    "output",
    "budget",
    "health",
)


class Refusal(NamedTuple):
    """Why a candidate cannot serve; `stage` is the filter that it met."""

    stage: Stage
    model: str
    reason: str

    @property
    def rejected(self) -> Rejected:
        return Rejected(model=self.model, reason=self.reason)


class Wish(NamedTuple):
    """What a request needs of a model, and what it would like."""

    needs: int
    input_tokens: int
    max_tokens: int | None
    budget_usd: float | None
    kind: TaskKind
    quality: str
    answer_tokens: int
    caches: bool = True


class Entry:
    """A candidate with what selection needs of it, precomputed."""

    __slots__ = (
        "alias",
        "blended_price",
        "candidate",
        "capabilities",
        "context_tokens",
        "max_output_tokens",
        "names",
        "pool",
        "profile",
        "speed_score",
        "static",
    )

    def __init__(self, profile: ModelProfile, candidate: Candidate, names: frozenset[str]) -> None:
        self.profile = profile
        self.candidate = candidate
        self.names = names
        self.alias = profile.alias
        self.pool = candidate.route.pool
        self.capabilities = mask(profile.capabilities)
        self.context_tokens = profile.context_tokens
        self.max_output_tokens = profile.max_output_tokens
        self.blended_price = _blended_price(candidate)
        self.static = {(k, q): _static_score(candidate, k, q) for k in KINDS for q in QUALITY_INDEX}
        self.speed_score = 0.0

    def learn(self, speed: Speed) -> None:
        """Take over what was measured; 0 is average, 1 very fast, -1 very slow."""
        self.speed_score = speed_score(speed)


def mask(capabilities: Iterable[str]) -> int:
    bits = 0
    for name in capabilities:
        bits |= CAPABILITY_BITS.get(name, 0)
    return bits


def names_of(bits: int) -> str:
    return ", ".join(name for name, bit in CAPABILITY_BITS.items() if bits & bit)


def needs_of(request: JobRequest) -> int:
    """The capabilities that a request needs by what it holds, and by what its task asks for."""
    needs = mask(request.task.needs) if request.task else 0
    if request.tools:
        needs |= CAPABILITY_BITS["tools"]
    if request.output is not None:
        needs |= CAPABILITY_BITS["structured_output"]
    if request.reasoning is not None and request.reasoning.effort != "none":
        needs |= CAPABILITY_BITS["reasoning"]
    for message in request.messages or ():
        if not isinstance(message.content, str):
            needs |= _needs_of_blocks(message.content)
    return needs


def _needs_of_blocks(blocks: Iterable[Any]) -> int:
    needs = 0
    for block in blocks:
        if isinstance(block, ImageBlock):
            needs |= CAPABILITY_BITS["images"]
        elif isinstance(block, DocumentBlock):
            needs |= CAPABILITY_BITS["documents"]
        elif isinstance(block, ToolUseBlock):
            needs |= CAPABILITY_BITS["tools"]
        elif isinstance(block, ToolResultBlock):
            needs |= CAPABILITY_BITS["tools"]
            if not isinstance(block.content, str):
                needs |= _needs_of_blocks(block.content)
    return needs


def wish_of(request: JobRequest, *, input_tokens: int, default_max_tokens: int) -> Wish:
    task = request.task
    max_tokens = request.params.max_tokens
    return Wish(
        needs=needs_of(request),
        input_tokens=input_tokens,
        max_tokens=max_tokens,
        budget_usd=request.budget.max_cost_usd,
        kind=task.kind if task else "chat",
        quality=task.quality if task else "balanced",
        answer_tokens=max_tokens or default_max_tokens,
        caches=request.cache != "none",
    )


def refusal(entry: Entry, wish: Wish, *, allowed: frozenset[str] | None, is_named: bool) -> Refusal | None:
    """Why `entry` cannot serve `wish`, None when it can. `is_named`: the request asked for this very model."""
    profile = entry.profile
    if allowed is not None and allowed.isdisjoint(entry.names):
        return Refusal("tenant", entry.alias, "not among the models this tenant may use")
    if profile.lifecycle != "active" and (profile.lifecycle == "end_of_life" or not is_named):
        return Refusal("lifecycle", entry.alias, _LIFECYCLE_REASON[profile.lifecycle])
    missing = wish.needs & ~entry.capabilities
    if missing:
        return Refusal("capability", entry.alias, f"cannot do {names_of(missing)}")
    if wish.input_tokens + (wish.max_tokens or MIN_ANSWER_TOKENS) > entry.context_tokens:
        return Refusal("context", entry.alias, f"context window of {entry.context_tokens} tokens is too small")
    if not is_named and wish.max_tokens is not None and wish.max_tokens > entry.max_output_tokens:
        return Refusal("output", entry.alias, f"answers end at {entry.max_output_tokens} tokens")
    return None if wish.budget_usd is None else _over_budget(entry, wish, wish.budget_usd)


_LIFECYCLE_REASON = {
    "legacy": "legacy: used only when named",
    "end_of_life": "end of life: Bedrock does not serve it any more",
}


def _over_budget(entry: Entry, wish: Wish, budget_usd: float) -> Refusal | None:
    bound = cost.upper_bound_usd(
        entry.candidate,
        input_tokens=wish.input_tokens,
        max_tokens=min(wish.answer_tokens, entry.max_output_tokens),
        cache_ttl="5m" if wish.caches else None,
    )
    if bound is None:
        return Refusal("budget", entry.alias, "no price is known, so max_cost_usd cannot be kept")
    if bound > budget_usd:
        return Refusal("budget", entry.alias, f"may cost {bound:.6f} USD, above max_cost_usd")
    return None


def score(
    entry: Entry,
    wish: Wish,
    *,
    headroom: Mapping[str, float] | None = None,
    warm_pool: str | None = None,
) -> float:
    """Higher is better. `headroom`: pool to free share of its quota, 0 to 1."""
    total = entry.static[wish.kind, wish.quality] + SPEED_WORTH[wish.quality] * entry.speed_score
    if headroom is not None:
        total += HEADROOM_WORTH * headroom.get(entry.pool, 1.0)
    return total + WARM_WORTH if entry.pool == warm_pool else total


class Search:
    """Gathers candidates for one wish: those found, in order and each pool once, and those refused."""

    def __init__(
        self,
        wish: Wish,
        *,
        allowed: frozenset[str] | None = None,
        headroom: Mapping[str, float] | None = None,
        warm_pool: str | None = None,
    ) -> None:
        self.wish = wish
        self.allowed = allowed
        self.headroom = headroom
        self.warm_pool = warm_pool
        self.found: list[Entry] = []
        self.refusals: list[Refusal] = []
        self._seen: set[str] = set()

    def refuse(self, stage: Stage, model: str, reason: str) -> None:
        self.refusals.append(Refusal(stage, model, reason))

    def add_named(self, entries: Iterable[Entry]) -> None:
        """Those of `entries` that can serve, in their own order."""
        for entry in self._passing(entries, is_named=True):
            self._take(entry)

    def add_best(
        self, entries: Iterable[Entry], *, max_models: int, quality: str, max_price: float | None = None
    ) -> None:
        """Those of `entries` that can serve, best score first, of at most `max_models` models.

        `max_price`: leave out what is dearer (as `Entry.blended_price`) or has no price.
        """
        wish = self.wish._replace(quality=quality)
        scored = [
            (-round(score(e, wish, headroom=self.headroom, warm_pool=self.warm_pool), 6), e.alias, i, e)
            for i, e in enumerate(self._passing(entries, is_named=False))
            if max_price is None or (e.blended_price is not None and e.blended_price <= max_price)
        ]
        scored.sort(key=_RANK)
        models: set[str] = set()
        for _, alias, _, entry in scored:
            if alias in models or len(models) < max_models:
                models.add(alias)
                self._take(entry)

    def _passing(self, entries: Iterable[Entry], *, is_named: bool) -> list[Entry]:
        passing: list[Entry] = []
        refused: set[str] = set()
        for entry in entries:
            if entry.alias in refused:
                continue
            why = refusal(entry, self.wish, allowed=self.allowed, is_named=is_named)
            if why is None:
                passing.append(entry)
            elif entry.pool not in self._seen:
                refused.add(entry.alias)
                self.refusals.append(why)
        return passing

    def _take(self, entry: Entry) -> None:
        if entry.pool not in self._seen:
            self._seen.add(entry.pool)
            self.found.append(entry)


_RANK: Callable[[tuple[float, str, int, Entry]], tuple[float, str, int]] = itemgetter(0, 1, 2)


def _static_score(candidate: Candidate, kind: TaskKind, quality: str) -> float:
    profile = candidate.profile
    distance = QUALITY_INDEX[profile.quality] - QUALITY_INDEX[quality]
    # Too weak is worse than too strong: the answer suffers, not the bill.
    fit = {0: 1.0, 1: 0.6, 2: 0.2, -1: 0.3, -2: 0.0}[distance]
    suits = KIND_WORTH if kind in profile.kinds else 0.0
    return QUALITY_WORTH * fit + suits + PRICE_WORTH[quality] * _cheapness(candidate)


def _blended_price(candidate: Candidate) -> float | None:
    """US dollars for a million tokens, three parts input and one output."""
    if not candidate.profile.prices:
        return None
    price = candidate.profile.prices[0]
    return (3 * price.input + price.output) / 4 * candidate.route.price_factor


def _cheapness(candidate: Candidate) -> float:
    """1 for 0.1 USD a million tokens, 0 for 10 USD; unknown counts as dear."""
    blended = _blended_price(candidate)
    if blended is None:
        return -0.5
    return max(-0.5, min(1.5, (1.0 - log10(max(blended, 1e-3))) / 2))


def speed_score(speed: Speed) -> float:
    """Against a first token after a second and 60 tokens a second, a factor of ten being worth one."""
    total = 0.0
    if speed.first_token_s is not None:
        total -= 0.5 * log10(max(speed.first_token_s, 0.01))
    if speed.tokens_per_s is not None:
        total += 0.5 * log10(max(speed.tokens_per_s, 0.1) / 60.0)
    return max(-1.0, min(1.0, round(total, 1)))


def service_tier(
    profile: ModelProfile,
    *,
    asked: str,
    job_class: str,
    deadline: float | None,
    now: float,
) -> str:
    """The tier to ask for. An explicit wish stands; `auto` picks among those the model has.

    Batch work with more than ten minutes left takes the cheap `flex`. `priority` costs more, so `auto` takes it
    only for interactive work with less than ten seconds left.
    """
    if asked != "auto":
        return asked
    left = float("inf") if deadline is None else deadline - now
    if job_class == "batch" and left > 600 and "flex" in profile.service_tiers:
        return "flex"
    if job_class == "interactive" and left < 10 and "priority" in profile.service_tiers:
        return "priority"
    return "default"
