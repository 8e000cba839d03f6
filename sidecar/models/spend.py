"""What tenants spent, by day, model and class: what is asked and answered, and what is stored (`LLM_SPEND_DAYS`).

Money is stored in whole billionths of a US dollar, so that sums of sums are exact. Days are those of UTC in which
jobs ended.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sidecar.models.base import Open, Strict, Timestamp, matching

NANO_USD = 1_000_000_000
DAYS_BY_DEFAULT = 30

Day = Annotated[str, matching(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "a day of UTC, as 2026-12-01")]
Dimension = Literal["day", "tenant", "model", "class"]
DIMENSIONS: tuple[Dimension, ...] = ("day", "tenant", "model", "class")


class SpendRequest(Strict, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """Which days, both included, and by what rows are told apart. Without days: the last 30, today included."""

    first: Day | None = None
    last: Day | None = None
    by: Annotated[tuple[Dimension, ...], msgspec.Meta(min_length=1, max_length=4)] = DIMENSIONS


class SpendRow(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """One sum. What it is not told apart by is absent.

    `calls` are calls of models that may have been billed; `estimated_usd` is the part of `cost_usd` that is not as
    the provider counted; `unpriced_calls` have no known price and are in neither. `incomplete`: jobs of its days
    may be missing.
    """

    day: str | UnsetType = UNSET
    tenant: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    job_class: str | UnsetType = UNSET
    calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float
    estimated_usd: float
    unpriced_calls: int
    incomplete: bool


class SpendPage(Open, frozen=True, kw_only=True):
    """A part of the answer, 500 rows at most; an empty reply with `Llm-End` follows the last.

    All jobs that had ended at `as_of` are in it (null: nothing was summed up yet). `incomplete_days` are those of
    the days asked for of which jobs may be missing, whether there is a row of them or not.
    """

    rows: tuple[SpendRow, ...]
    as_of: Timestamp | None = None
    incomplete_days: tuple[str, ...] = ()


class SpendSum(msgspec.Struct, kw_only=True, omit_defaults=True, rename={"job_class": "class"}):
    """What a tenant's jobs of one class took of one model on one day. Mutable: it is added to."""

    job_class: str
    model: str
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_nano_usd: int = 0
    estimated_nano_usd: int = 0
    unpriced_calls: int = 0

    def add(self, other: "SpendSum") -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def is_nothing(self) -> bool:
        return not any(getattr(self, name) for name in COUNTS)


COUNTS = (
    "calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost_nano_usd",
    "estimated_nano_usd",
    "unpriced_calls",
)


class SpendDay(msgspec.Struct, kw_only=True):
    """A tenant's day: all results of the jobs' stream up to the sequence `through` are in it.

    `generation` names the stream that the sequence is of: one that was made anew counts from the start.
    """

    tenant: str
    day: str
    through: int = 0
    generation: int = 0
    sums: list[SpendSum] = []


class SpendCursor(Open, frozen=True, kw_only=True):
    """All results up to the sequence `seq` are in the days, as of `time` (s since 1970).

    `incomplete` are spans of days, both ends included, of which results were lost before they could be read.
    """

    seq: int = 0
    time: float = 0.0
    generation: int = 0
    incomplete: tuple[tuple[str, str], ...] = ()

    def is_incomplete(self, day: str) -> bool:
        return any(first <= day <= last for first, last in self.incomplete)


class JobBill(msgspec.Struct, kw_only=True):
    """As much of a result as its bill needs."""

    model: str | None = None
    model_id: str | None = None
    usage: dict[str, int] = {}
    usage_basis: str = "observed"
    cost_usd: float | None = None
    attempts: list["BilledCall"] = []
    children: list["BilledCall"] = []


class BilledCall(msgspec.Struct, kw_only=True):
    """As much of a call, or of a child's share, as the bill needs."""

    model_id: str = ""
    outcome: str = "ok"
    usage: dict[str, int] | None = None
    usage_basis: str | None = None
    cost_usd: float | None = None
    may_be_billed: bool = True


class EndedJob(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a result event as its bill needs."""

    time: Timestamp
    data: JobBill


class EndedDocument(msgspec.Struct, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """As much of a state document."""

    job_class: str
    state: str
    updated: Timestamp
    request_seq: int
    result: JobBill | None = None


_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
AliasOf = Callable[[str], str | None]
"""From a model's id to its alias; None for what has none."""


def sums_of(bill: JobBill, *, job_class: str, alias_of: AliasOf) -> list[SpendSum]:
    """What a job's own calls took, by model. What its children took is theirs.

    Each call carries its part of the bill. What no call carries (results of the first release have only the whole)
    is the last model's.
    """
    sums: dict[str, SpendSum] = {}

    def of(model: str) -> SpendSum:
        return sums.setdefault(model, SpendSum(job_class=job_class, model=model))

    last = bill.model or bill.model_id or ""
    rest = SpendSum(job_class=job_class, model=last)
    _take(rest, bill.usage, bill.cost_usd, is_estimated=bill.usage_basis == "estimated")
    for child in bill.children:
        _give_back(rest, child)
    for call in bill.attempts:
        if not call.may_be_billed:
            continue
        found = of(last if call.model_id == bill.model_id else alias_of(call.model_id) or call.model_id)
        found.calls += 1
        if call.usage is None:
            continue
        is_estimated = call.usage_basis == "estimated" or call.outcome == "crashed"
        _take(found, call.usage, call.cost_usd, is_estimated=is_estimated)
        found.unpriced_calls += call.cost_usd is None
        _give_back(rest, call)
    rest.estimated_nano_usd = rest.cost_nano_usd if bill.usage_basis == "estimated" else 0
    if not rest.is_nothing:
        of(last).add(rest)
    return [found for found in sums.values() if not found.is_nothing]


def _take(into: SpendSum, usage: dict[str, int], cost_usd: float | None, *, is_estimated: bool) -> None:
    for name in _TOKENS:
        setattr(into, name, getattr(into, name) + usage.get(name, 0))
    cost = nano(cost_usd)
    into.cost_nano_usd += cost
    into.estimated_nano_usd += cost if is_estimated else 0


def _give_back(rest: SpendSum, part: BilledCall) -> None:
    """Take a part out of the whole, which is never less than its parts but for rounding."""
    usage = part.usage or {}
    for name in _TOKENS:
        setattr(rest, name, max(0, getattr(rest, name) - usage.get(name, 0)))
    rest.cost_nano_usd = max(0, rest.cost_nano_usd - nano(part.cost_usd))


def nano(usd: float | None) -> int:
    return 0 if usd is None else round(usd * NANO_USD)
