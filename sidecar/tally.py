"""What has ended here since the process started, counted cheaply: the numbers behind `/metrics`."""

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple

from sidecar.models.result import Result

WAIT_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
FIRST_TOKEN_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MOST_TENANTS = 200
OTHERS = "_other"


class Label(NamedTuple):
    tenant: str
    model: str


class Histogram:
    """Counts by bucket; `sum_s` of all values. The last bucket is without bound."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


class Tally:
    """Ended jobs by tenant, model and outcome. Tenants past the 200th are counted together: labels stay few."""

    def __init__(self) -> None:
        self.jobs: Counter[tuple[Label, str]] = Counter()
        self.cost_usd: Counter[Label] = Counter()
        self.tokens: Counter[tuple[Label, str]] = Counter()
        self.wait = Histogram(WAIT_BUCKETS_S)
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS_S)
        self._tenants: set[str] = set()

    def ended(self, tenant: str, result: Result) -> None:
        if tenant not in self._tenants:
            if len(self._tenants) >= MOST_TENANTS:
                tenant = OTHERS
            else:
                self._tenants.add(tenant)
        label = Label(tenant, result.model or "")
        self.jobs[label, result.state] += 1
        if result.cost_usd:
            self.cost_usd[label] += result.cost_usd  # type: ignore[assignment]  # typeshed: counters count ints
        self.tokens[label, "input"] += result.usage.input_tokens
        self.tokens[label, "output"] += result.usage.output_tokens
        self.wait.observe(result.timings.queued_ms / 1000)
        if result.timings.first_token_ms is not None:
            self.first_token.observe((result.timings.first_token_ms - result.timings.queued_ms) / 1000)
