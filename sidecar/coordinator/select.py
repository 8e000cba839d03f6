"""Which models can serve a request, and in which order: hard filters, then the shelf's order. Deterministic."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from sidecar.coordinator.entry import CAPABILITY_BITS, Entry, Shelf, mask, names_of
from sidecar.errors import InvalidRequest
from sidecar.models.content import DocumentBlock, ImageBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.event import Rejected
from sidecar.models.profile import ModelProfile
from sidecar.models.request import JobRequest, Task, TaskKind

MIN_ANSWER_TOKENS = 64
MIN_FLEX_S = 300.0
MAX_PRIORITY_S = 10.0

Stage = Literal[
    "unknown",
    "tenant",
    "lifecycle",
    "region",
    "kind",
    "capability",
    "context",
    "output",
    "budget",
    "shape",
    "price",
    "health",
]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Refusal(NamedTuple):
    """Why a candidate cannot serve; `stage` is the filter that it met, `path` what of the request met it."""

    stage: Stage
    model: str
    reason: str
    path: str = ""

    @property
    def rejected(self) -> Rejected:
        return Rejected(model=self.model, reason=self.reason)


Takes = Callable[[ModelProfile], InvalidRequest | None]
"""Why a model does not take a request in any form; None where it does."""


class Requirements(NamedTuple):
    """What a request needs of a model, and what it would like. `answer_tokens`: what the budget has to pay for.

    `only_kind`: models that are chosen unasked must be declared for `kind`.
    """

    needs: int
    input_tokens: int
    max_tokens: int | None
    budget_usd: float | None
    kind: TaskKind
    quality: str
    answer_tokens: int
    caches: bool = True
    only_kind: bool = False


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


def wish_of(
    request: JobRequest, *, input_tokens: int, default_max_tokens: int, inferred: Task | None = None
) -> Requirements:
    """A model that the request names only has to give a short answer for the budget; the call will be bounded.

    `inferred`: the task where the request says none.
    """
    task = request.task or inferred
    max_tokens = request.params.max_tokens
    whole = max_tokens or default_max_tokens
    return Requirements(
        needs=needs_of(request),
        input_tokens=input_tokens,
        max_tokens=max_tokens,
        budget_usd=request.budget.max_cost_usd,
        kind=task.kind if task else "chat",
        quality=task.quality if task else "balanced",
        answer_tokens=whole if request.model is None else min(whole, MIN_ANSWER_TOKENS),
        caches=request.cache != "none",
        only_kind=task is not None or request.model is None,
    )


def content_with_less(wish: Requirements) -> Requirements:
    """The wish for an answer that may end early, since the budget pays for no whole one."""
    return wish._replace(answer_tokens=min(wish.answer_tokens, MIN_ANSWER_TOKENS))


def of_any_kind(wish: Requirements) -> Requirements:
    """The wish where no usable model is declared for its kind: another one's answer is better than none."""
    return wish._replace(only_kind=False)


def refusal(entry: Entry, wish: Requirements, *, allowed: frozenset[str] | None, is_named: bool) -> Refusal | None:
    """Why `entry` cannot serve `wish`, None when it can. `is_named`: the request asked for this very model."""
    if allowed is not None and allowed.isdisjoint(entry.names):
        return Refusal("tenant", entry.alias, "not among the models this tenant may use")
    if entry.lifecycle != "active" and (entry.lifecycle == "end_of_life" or not is_named):
        return Refusal("lifecycle", entry.alias, _LIFECYCLE_REASON[entry.lifecycle])
    if not is_named and wish.only_kind and entry.profile.kinds and wish.kind not in entry.profile.kinds:
        return Refusal("kind", entry.alias, f"not declared for kind {wish.kind}")
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


def _over_budget(entry: Entry, wish: Requirements, budget_usd: float) -> Refusal | None:
    bound = entry.upper_bound_usd(
        input_tokens=wish.input_tokens,
        max_tokens=min(wish.answer_tokens, entry.max_output_tokens),
        caches=wish.caches,
    )
    if bound is None:
        return Refusal("budget", entry.alias, "no price is known, so max_cost_usd cannot be kept")
    if bound > budget_usd:
        return Refusal("budget", entry.alias, f"may cost {bound:.6f} USD, above max_cost_usd")
    return None


class Search:
    """Gathers candidates for one wish: those found, in order and each pool once, and those refused."""

    def __init__(
        self,
        wish: Requirements,
        *,
        allowed: frozenset[str] | None = None,
        headroom: Mapping[str, float] | None = None,
        warm_pool: str | None = None,
        takes: Takes | None = None,
    ) -> None:
        self.takes = takes
        self.allowed = allowed
        self.headroom = headroom
        self.warm_pool = warm_pool
        self._shapes: dict[str, Refusal | None] = {}
        self.begin_again(wish)

    def begin_again(self, wish: Requirements) -> None:
        """Forget what was found and refused, for another wish."""
        self.wish = wish
        self.found: list[Entry] = []
        self.refusals: list[Refusal] = []
        self._seen: set[str] = set()
        self._refused: set[str] = set()

    def anew(self, wish: Requirements) -> "Search":
        """An empty search under the same conditions."""
        return Search(
            wish, allowed=self.allowed, headroom=self.headroom, warm_pool=self.warm_pool, takes=self.takes
        )

    def refuse(self, stage: Stage, model: str, reason: str) -> None:
        self.refusals.append(Refusal(stage, model, reason))

    def add_named(self, entries: Iterable[Entry]) -> None:
        """Those of `entries` that can serve, in their own order."""
        for entry in entries:
            if entry.pool in self._seen:
                continue
            why = refusal(entry, self.wish, allowed=self.allowed, is_named=True)
            if why is None and self.takes is not None:
                why = self._shape(entry, self.takes)
            if why is not None:
                self._note(entry, why)
                continue
            self._seen.add(entry.pool)
            self.found.append(entry)

    def add_best(
        self,
        shelf: Shelf,
        *,
        max_models: int,
        max_candidates: int,
        quality: str,
        most_dearer: float,
    ) -> None:
        """The best of the shelf that can serve, until there are enough of them.

        `most_dearer`: none may cost more than so many times the first choice, which is the first that was found,
        by the token, whether read or written. What has no price cannot be compared: it stands in for nothing, and
        nothing stands in for it. Where the sidecar chose the first, those left out are told with the reason.
        """
        models: set[str] = set()
        is_named = bool(self.found)
        bound = _bound(self.found[0], most_dearer) if is_named else None
        order = shelf.order(self.wish.kind, quality, headroom=self.headroom, warm_pool=self.warm_pool)
        for place in order:
            entry = place[3]
            if len(self.found) >= max_candidates:
                return
            if entry.pool in self._seen or (len(models) >= max_models and entry.alias not in models):
                continue
            prices = entry.token_prices
            is_dearer = (
                bound is not None
                and entry.alias != self.found[0].alias
                and (prices is None or prices[0] > bound[0] or prices[1] > bound[1])
            )
            if is_dearer and is_named:
                continue
            why = refusal(entry, self.wish, allowed=self.allowed, is_named=False)
            if why is None and is_dearer:
                why = Refusal("price", entry.alias, f"costs more than {most_dearer:g} times the first choice")
            if why is None and self.takes is not None:
                why = self._shape(entry, self.takes)
            if why is not None:
                self._note(entry, why)
                continue
            models.add(entry.alias)
            self._seen.add(entry.pool)
            self.found.append(entry)
            if bound is None:
                bound = _bound(entry, most_dearer)

    def _shape(self, entry: Entry, takes: Takes) -> Refusal | None:
        """What of the request's shape the model does not take, asked once for each model."""
        if entry.alias not in self._shapes:
            error = takes(entry.profile)
            found = None if error is None else Refusal("shape", entry.alias, error.message, error.path)
            self._shapes[entry.alias] = found
        return self._shapes[entry.alias]

    def _note(self, entry: Entry, why: Refusal) -> None:
        """One reason for each model."""
        if entry.alias not in self._refused:
            self._refused.add(entry.alias)
            self.refusals.append(why)


def _bound(first: Entry, most_dearer: float) -> tuple[float, float]:
    """The prices up to which others stand in for the first choice; below any where its own are not known."""
    if first.token_prices is None:
        return (-1.0, -1.0)
    # A price times a route's factor is seldom the number that it is meant to be.
    return (first.token_prices[0] * most_dearer + 1e-9, first.token_prices[1] * most_dearer + 1e-9)


def service_tier(
    profile: ModelProfile,
    *,
    asked: str,
    job_class: str,
    deadline: float | None,
    now: float,
) -> str:
    """The tier to ask for. An explicit wish stands; `auto` picks among those the model has.

    Batch work with more than five minutes left takes the cheap `flex`. `priority` costs more, so `auto` takes it
    only for interactive work with less than ten seconds left.
    """
    if asked != "auto":
        return asked
    left = float("inf") if deadline is None else deadline - now
    if job_class == "batch" and left > MIN_FLEX_S and "flex" in profile.service_tiers:
        return "flex"
    if job_class == "interactive" and left < MAX_PRIORITY_S and "priority" in profile.service_tiers:
        return "priority"
    return "default"
