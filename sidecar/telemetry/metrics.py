"""Prometheus metrics, made when they are asked for from what the replica knows: nothing is counted twice."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from sidecar.adapters.nats.fair.counts import EndpointFigures
from sidecar.errors import ErrorCode
from sidecar.models.result import TerminalState
from sidecar.models.stats import Stats
from sidecar.runtime.bounded_work import WorkCounts
from sidecar.telemetry.counters import LIMITS, OTHERS, CallLabel, Counters, Histogram
from sidecar.telemetry.hold_metrics import HoldFigures as HoldFigures
from sidecar.telemetry.hold_metrics import hold_metrics
from sidecar.telemetry.operator_metrics import operator_metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST
_OUTCOMES: tuple[str, ...] = get_args(TerminalState)
_CODES: tuple[str, ...] = get_args(ErrorCode)
# Those that alerts and panels ask for; a call may end with any other code, too.
_CALL_OUTCOMES = (
    "ok",
    "throttled",
    "model_unavailable",
    "model_error",
    "timeout",
    "stream_interrupted",
    "access_denied",
)


class Scrape(NamedTuple):
    """All that one answer is made of. `lag_s`: how late the event loop was, at its worst since the last scrape.

    `connected`: each connection to NATS by what it is for, and whether it is there. `request_reading_s`: what
    reading requests took of the event loop, and what it left to others while they needed it.
    `clock_offset_s`: how far this machine's clock is ahead of the NATS server's; None where that is not known.
    """

    stats: Stats
    tally: Counters
    lag_s: float
    is_degraded: bool
    is_policy_current: bool
    live_tools: int = 0
    foreign_writes: Mapping[str, int] = MappingProxyType({})
    misdelivered: int = 0
    clock_offset_s: float | None = None
    restored: Mapping[str, int] = MappingProxyType({})
    work: WorkCounts = WorkCounts({}, {}, 0)
    standstills: int = 0
    endpoints: EndpointFigures | None = None
    connected: Mapping[str, bool] = MappingProxyType({})
    request_reading_s: tuple[float, float] = (0.0, 0.0)
    holds: HoldFigures = HoldFigures()
    kept: Mapping[str, int] = MappingProxyType({})


def render(scrape: Scrape) -> bytes:
    """The text exposition format. Queues, quotas and shares only from the replica that schedules."""
    registry = CollectorRegistry()
    ProcessCollector(namespace="sidecar", registry=registry)
    registry.register(_Scraped(scrape))
    return generate_latest(registry)


class _Scraped(Collector):
    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        yield from _process(self._scrape)
        yield from _bounded_work(self._scrape.work)
        yield from _ended(self._scrape.tally)
        stats = self._scrape.stats
        yield from operator_metrics(stats, self._scrape.kept)
        yield from hold_metrics(self._scrape.holds, held=stats.held if stats.is_scheduler else None)
        if self._scrape.endpoints is not None:
            yield from _endpoints(self._scrape.endpoints)
        if self._scrape.stats.is_scheduler:
            yield from _queues(self._scrape.stats)
            yield from _tenants(self._scrape.stats)
            yield from _pools(self._scrape.stats)


def _connections(scrape: Scrape) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "sidecar_nats_connected", "1 while this connection to NATS is there.", labels=["connection"]
    )
    for name, is_connected in scrape.connected.items():
        connected.add_metric([name], is_connected)
    yield connected
    reading = CounterMetricFamily(
        "sidecar_request_reading_seconds",
        "The event loop's time that reading requests took (read), and that it left to others (rested).",
        labels=["phase"],
    )
    for phase, seconds in zip(("read", "rested"), scrape.request_reading_s, strict=True):
        reading.add_metric([phase], seconds)
    yield reading


def _process(scrape: Scrape) -> Iterator[Metric]:
    stats = scrape.stats
    info = GaugeMetricFamily("sidecar_build_info", "Always 1.", labels=["version", "replica"])
    info.add_metric([stats.version, stats.replica], 1)
    yield info
    yield GaugeMetricFamily("sidecar_inflight", "Jobs that run here.", value=stats.slots_used)
    yield GaugeMetricFamily("sidecar_slots", "Jobs that may run here at once.", value=stats.slots)
    yield GaugeMetricFamily("sidecar_is_scheduler", "1 where the lease is.", value=stats.is_scheduler)
    yield GaugeMetricFamily(
        "sidecar_tools_live", "Versions of tools that live, over all scopes.", value=scrape.live_tools
    )
    yield CounterMetricFamily(
        "sidecar_misdelivered_messages",
        "Messages dropped because their subject did not fit the subscription they came for.",
        value=scrape.misdelivered,
    )
    yield from _connections(scrape)
    restored = CounterMetricFamily(
        "sidecar_documents_restored",
        "Documents of jobs that others deleted (missing) or wrote over (foreign).",
        labels=["kind"],
    )
    for kind, count in scrape.restored.items():
        restored.add_metric([kind], count)
    yield restored
    yield CounterMetricFamily(
        "sidecar_standstills",
        "Times that jobs waited for a second though slots were free and nothing was in their way.",
        value=scrape.standstills,
    )
    yield GaugeMetricFamily("sidecar_degraded", "1 while something is away.", value=scrape.is_degraded)
    yield GaugeMetricFamily(
        "sidecar_event_loop_lag_seconds", "The event loop's worst delay since the last scrape.", value=scrape.lag_s
    )
    foreign = CounterMetricFamily(
        "sidecar_foreign_writes",
        "Messages that neither a replica nor an operator stored.",
        labels=["bucket"],
    )
    for bucket, count in scrape.foreign_writes.items():
        foreign.add_metric([bucket], count)
    yield foreign
    if scrape.clock_offset_s is not None:
        yield GaugeMetricFamily(
            "sidecar_clock_offset_seconds",
            "How far this machine's clock is ahead of the NATS server's.",
            value=scrape.clock_offset_s,
        )
    yield GaugeMetricFamily(
        "sidecar_config_reload_success",
        "0 while a policy that could not be used is left aside.",
        value=scrape.is_policy_current,
    )


def _bounded_work(counts: WorkCounts) -> Iterator[Metric]:
    done = CounterMetricFamily("sidecar_bounded_work", "Costly work done in worker processes.", labels=["kind"])
    for kind, count in counts.done.items():
        done.add_metric([kind], count)
    killed = CounterMetricFamily(
        "sidecar_bounded_work_killed", "Costly work that ended with its process.", labels=["kind", "reason"]
    )
    for (kind, reason), count in counts.killed.items():
        killed.add_metric([kind, reason], count)
    waiting = GaugeMetricFamily(
        "sidecar_bounded_work_queued", "Costly work that waits for a worker process.", value=counts.queued
    )
    yield from (done, killed, waiting)


def _endpoints(figures: EndpointFigures) -> Iterator[Metric]:
    """By endpoint, and by tenant: both at once would be too many series."""
    requests = CounterMetricFamily(
        "sidecar_endpoint_requests",
        "Requests to endpoints; outcome is ok, an error's code, or unheard, which got no answer.",
        labels=["endpoint", "outcome"],
    )
    for key, count in figures.requests.items():
        requests.add_metric([*key], count)
    tenants = CounterMetricFamily(
        "sidecar_endpoint_tenant_requests",
        "Requests by tenant; outcome is answered, rate_limited or unheard.",
        labels=["tenant", "outcome"],
    )
    for key, count in figures.tenants.items():
        tenants.add_metric([*key], count)
    yield from (requests, tenants)
    for name, text, at in (
        ("waiting", "Requests that wait for their turn.", "waiting"),
        ("inflight", "Requests being answered.", "seats"),
        ("reply_bytes", "Bytes of replies made, or expected, and not sent yet.", "reply_bytes"),
        ("asks", "Open asks.", "asks"),
    ):
        gauge = GaugeMetricFamily(f"sidecar_endpoint_{name}", text, labels=["tenant"])
        for tenant, held in figures.held.items():
            gauge.add_metric([tenant], getattr(held, at))
        yield gauge


def _ended(tally: Counters) -> Iterator[Metric]:
    # What is counted for the first time when it is seen for the first time has no rate: closed labels begin at 0.
    ended = CounterMetricFamily(
        "sidecar_ended_jobs", "Jobs that ended, of all tenants and models.", labels=["outcome"]
    )
    for outcome in _OUTCOMES:
        ended.add_metric([outcome], tally.outcomes[outcome])
    yield ended
    jobs = CounterMetricFamily("sidecar_jobs", "Jobs that ended.", labels=["tenant", "model", "outcome"])
    for label in {label for label, _ in tally.jobs}:
        for outcome in _OUTCOMES:
            jobs.add_metric([*label, outcome], tally.jobs[label, outcome])
    cost = CounterMetricFamily("sidecar_cost_usd", "US dollars spent.", labels=["tenant", "model"])
    for label, usd in tally.cost_usd.items():
        cost.add_metric([*label], usd)
    tokens = CounterMetricFamily("sidecar_tokens", "Tokens used.", labels=["tenant", "model", "direction"])
    for (label, direction), count in tally.tokens.items():
        tokens.add_metric([*label, direction], count)
    errors = CounterMetricFamily("sidecar_job_errors", "Jobs that ended in an error.", labels=["code"])
    for code in _CODES:
        errors.add_metric([code], tally.errors[code])
    calls = CounterMetricFamily(
        "sidecar_model_calls", "Calls of models by ended jobs.", labels=["model_id", "region", "outcome"]
    )
    seen = {(called.model_id, called.region) for called in tally.calls}
    for called in tally.calls.keys() | {CallLabel(*at, outcome) for at in seen for outcome in _CALL_OUTCOMES}:
        calls.add_metric([*called], tally.calls[called])
    bounded = CounterMetricFamily(
        "sidecar_jobs_bounded", "Jobs that a bound on their calls ended.", labels=["limit"]
    )
    for limit in LIMITS:
        bounded.add_metric([limit], tally.bounded[limit])
    estimated = CounterMetricFamily("sidecar_calls_estimated", "Calls whose cost the provider did not tell.")
    estimated.add_metric([], tally.estimated_calls)
    yield from (jobs, cost, tokens, errors, calls, bounded, estimated)
    waits = HistogramMetricFamily("sidecar_queue_wait_seconds", "From stored to claimed.", labels=["class"])
    for name, histogram in tally.waits.items():
        waits.add_metric([name], _buckets(histogram), histogram.sum_s)
    yield waits
    yield _histogram("sidecar_first_token_seconds", "From claimed to the first token.", tally.first_token)
    yield _histogram("sidecar_job_duration_seconds", "From claimed to the result.", tally.duration)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=_buckets(histogram), sum_value=histogram.sum_s)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip((*map(str, histogram.bounds_s), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _queues(stats: Stats) -> Iterator[Metric]:
    depth = GaugeMetricFamily("sidecar_queue_depth", "Jobs that wait.", labels=["tenant", "class"])
    for tenant in stats.tenants:
        for lane in tenant.lanes:
            depth.add_metric([tenant.tenant, lane.job_class], lane.queued)
    if stats.other_tenants.tenants:
        depth.add_metric([OTHERS, OTHERS], stats.other_tenants.queued)
    yield depth
    yield GaugeMetricFamily("sidecar_replicas", "Replicas that are heard.", value=stats.replicas)


def _tenants(stats: Stats) -> Iterator[Metric]:
    """Those with most to do; the last minute's shares."""
    spend = GaugeMetricFamily("sidecar_tenant_spend_today_usd", "US dollars since midnight.", labels=["tenant"])
    budget = GaugeMetricFamily("sidecar_tenant_budget_today_usd", "US dollars allowed a day.", labels=["tenant"])
    share = GaugeMetricFamily("sidecar_tenant_share_ratio", "Share of the settled cost.", labels=["tenant"])
    fair = GaugeMetricFamily("sidecar_tenant_fair_share_ratio", "What its weight gives it.", labels=["tenant"])
    for tenant in stats.tenants:
        name = [tenant.tenant]
        spend.add_metric(name, tenant.spend_today_usd)
        share.add_metric(name, tenant.share)
        fair.add_metric(name, tenant.fair_share)
        if tenant.budget_today_usd is not None:
            budget.add_metric(name, tenant.budget_today_usd)
    yield from (spend, budget, share, fair)


def _pools(stats: Stats) -> Iterator[Metric]:
    # A model may have several inference profiles in one region.
    labels = ["model", "model_id", "region"]
    left = GaugeMetricFamily("sidecar_quota_tokens_remaining", "Tokens left.", labels=labels)
    used = GaugeMetricFamily("sidecar_quota_used_ratio", "Share of the quota in use.", labels=labels)
    shut = GaugeMetricFamily("sidecar_model_open", "1 while the circuit breaker keeps calls away.", labels=labels)
    calls = GaugeMetricFamily("sidecar_model_inflight", "Calls under way.", labels=labels)
    for pool in stats.pools:
        key = [pool.model, pool.invoke_id, pool.region]
        used.add_metric(key, pool.used_share)
        shut.add_metric(key, pool.health == "open")
        calls.add_metric(key, pool.in_flight)
        if pool.tokens_remaining is not None:
            left.add_metric(key, pool.tokens_remaining)
    yield from (left, used, shut, calls)
