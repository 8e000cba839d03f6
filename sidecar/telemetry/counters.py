"""What has ended here since the process started, counted cheaply: the numbers behind `/metrics`."""

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple, get_args

from sidecar.models.base import JobClass
from sidecar.models.result import Result

WAIT_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
FIRST_TOKEN_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
DURATION_BUCKETS_S = (0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
MOST_TENANTS = 200
OTHERS = "_other"
LIMITS = ("max_calls", "same_failure")
_CLASSES = frozenset(get_args(JobClass))


class Label(NamedTuple):
    tenant: str
    model: str


class CallLabel(NamedTuple):
    """A kind of call. `outcome` is ok, cancelled, or the code of the error."""

    model_id: str
    region: str
    outcome: str


class Histogram:
    """Counts by bucket; `sum_s` of all values. The last bucket is without bound."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


class Counters:
    """Ended jobs by tenant, model and outcome. Tenants past the 200th are counted together: labels stay few."""

    def __init__(self) -> None:
        self.jobs: Counter[tuple[Label, str]] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.cost_usd: Counter[Label] = Counter()
        self.tokens: Counter[tuple[Label, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.bounded: Counter[str] = Counter()
        self.estimated_calls = 0
        self.calls: Counter[CallLabel] = Counter()
        self.waits = {name: Histogram(WAIT_BUCKETS_S) for name in get_args(JobClass)}
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS_S)
        self.duration = Histogram(DURATION_BUCKETS_S)
        self._tenants: set[str] = set()

    def ended(self, tenant: str, result: Result, *, job_class: str = "standard") -> None:
        if tenant not in self._tenants:
            if len(self._tenants) >= MOST_TENANTS:
                tenant = OTHERS
            else:
                self._tenants.add(tenant)
        label = Label(tenant, result.model or "")
        self.jobs[label, result.state] += 1
        self.outcomes[result.state] += 1
        cost_usd, usage = result.cost_usd or 0.0, result.usage
        input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
        cache_read_tokens, cache_write_tokens = usage.cache_read_tokens, usage.cache_write_tokens
        for child in result.children:
            # Children are jobs of their own, and counted as such.
            cost_usd -= child.cost_usd or 0.0
            input_tokens -= child.usage.input_tokens
            output_tokens -= child.usage.output_tokens
            cache_read_tokens -= child.usage.cache_read_tokens
            cache_write_tokens -= child.usage.cache_write_tokens
        if cost_usd > 0:
            self.cost_usd[label] += cost_usd  # type: ignore[assignment]  # typeshed: counters count ints
        self.tokens[label, "input"] += input_tokens
        self.tokens[label, "output"] += output_tokens
        self.tokens[label, "cache_read"] += cache_read_tokens
        self.tokens[label, "cache_write"] += cache_write_tokens
        if result.error is not None:
            self.errors[result.error.code] += 1
            if (limit := result.error.details.get("limit")) in LIMITS:
                self.bounded[limit] += 1
        for call in result.attempts:
            self.estimated_calls += call.usage_basis == "estimated"
            self.calls[CallLabel(call.model_id, call.region, call.error.code if call.error else call.outcome)] += 1
        self._observe(result, job_class)

    def _observe(self, result: Result, job_class: str) -> None:
        timings = result.timings
        # A subject may name any class; the refusals of those that do not exist share one label.
        name = job_class if job_class in _CLASSES else OTHERS
        if name not in self.waits:
            self.waits[name] = Histogram(WAIT_BUCKETS_S)
        self.waits[name].observe(timings.queued_ms / 1000)
        if timings.first_token_ms is not None:
            self.first_token.observe((timings.first_token_ms - timings.queued_ms) / 1000)
        if result.attempts:
            self.duration.observe((timings.total_ms - timings.queued_ms) / 1000)
