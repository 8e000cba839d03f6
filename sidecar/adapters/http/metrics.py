"""Prometheus metrics, made when they are asked for from what the replica knows: nothing is counted twice."""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from sidecar.models.stats import Stats
from sidecar.tally import Histogram, Tally

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Scrape(NamedTuple):
    """All that one answer is made of. `lag_s`: how late the event loop was, at its worst since the last scrape."""

    stats: Stats
    tally: Tally
    lag_s: float
    is_degraded: bool
    is_policy_current: bool


def render(scrape: Scrape) -> bytes:
    """The text exposition format. Queues, quotas and shares only from the replica that schedules."""
    registry = CollectorRegistry()
    registry.register(_Scraped(scrape))
    return generate_latest(registry)


class _Scraped(Collector):
    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        yield from _process(self._scrape)
        yield from _ended(self._scrape.tally)
        if self._scrape.stats.is_scheduler:
            yield from _queues(self._scrape.stats)
            yield from _pools(self._scrape.stats)


def _process(scrape: Scrape) -> Iterator[Metric]:
    stats = scrape.stats
    info = GaugeMetricFamily("sidecar_build_info", "Always 1.", labels=["version", "replica"])
    info.add_metric([stats.version, stats.replica], 1)
    yield info
    yield GaugeMetricFamily("sidecar_inflight", "Jobs that run here.", value=stats.slots_used)
    yield GaugeMetricFamily("sidecar_slots", "Jobs that may run here at once.", value=stats.slots)
    yield GaugeMetricFamily("sidecar_is_scheduler", "1 where the lease is.", value=stats.is_scheduler)
    yield GaugeMetricFamily("sidecar_degraded", "1 while something is away.", value=scrape.is_degraded)
    yield GaugeMetricFamily(
        "sidecar_event_loop_lag_seconds", "The event loop's worst delay since the last scrape.", value=scrape.lag_s
    )
    yield GaugeMetricFamily(
        "sidecar_config_reload_success",
        "0 while a policy that could not be used is left aside.",
        value=scrape.is_policy_current,
    )


def _ended(tally: Tally) -> Iterator[Metric]:
    jobs = CounterMetricFamily("sidecar_jobs", "Jobs that ended.", labels=["tenant", "model", "outcome"])
    for (label, outcome), count in tally.jobs.items():
        jobs.add_metric([*label, outcome], count)
    cost = CounterMetricFamily("sidecar_cost_usd", "US dollars spent.", labels=["tenant", "model"])
    for label, usd in tally.cost_usd.items():
        cost.add_metric([*label], usd)
    tokens = CounterMetricFamily("sidecar_tokens", "Tokens used.", labels=["tenant", "model", "direction"])
    for (label, direction), count in tally.tokens.items():
        tokens.add_metric([*label, direction], count)
    yield jobs
    yield cost
    yield tokens
    yield _histogram("sidecar_queue_wait_seconds", "From stored to claimed.", tally.wait)
    yield _histogram("sidecar_first_token_seconds", "From claimed to the first token.", tally.first_token)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets, total = [], 0
    for bound, count in zip((*map(str, histogram.bounds_s), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.sum_s)


def _queues(stats: Stats) -> Iterator[Metric]:
    depth = GaugeMetricFamily("sidecar_queue_depth", "Jobs that wait.", labels=["tenant", "class"])
    for tenant in stats.tenants:
        for lane in tenant.lanes:
            depth.add_metric([tenant.tenant, lane.job_class], lane.queued)
    yield depth


def _pools(stats: Stats) -> Iterator[Metric]:
    left = GaugeMetricFamily("sidecar_quota_tokens_remaining", "Tokens left.", labels=["model", "region"])
    used = GaugeMetricFamily("sidecar_quota_used_ratio", "Share of the quota in use.", labels=["model", "region"])
    for pool in stats.pools:
        used.add_metric([pool.model, pool.region], pool.used_share)
        if pool.tokens_remaining is not None:
            left.add_metric([pool.model, pool.region], pool.tokens_remaining)
    yield left
    yield used
