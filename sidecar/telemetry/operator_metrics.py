"""Metrics of what operators hold back, and of what is kept of failed jobs."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.models.stats import Stats

# What became of a failed job's request, by the name of its count.
_KEPT = {"buried": "crash_loop", "kept": "kept", "not_kept": "not_kept"}


def operator_metrics(stats: Stats, kept: Mapping[str, int]) -> Iterator[Metric]:
    """`kept` counts requests of failed jobs; pauses are told by who schedules."""
    requests = CounterMetricFamily(
        "sidecar_failed_requests",
        "Requests of jobs that failed: kept for a time, kept of a crash loop, or not kept though they were to be.",
        labels=["outcome"],
    )
    for name, outcome in _KEPT.items():
        requests.add_metric([outcome], kept.get(name, 0))
    yield requests
    if stats.is_scheduler:
        yield GaugeMetricFamily("sidecar_pauses", "Pauses by operators that hold now.", value=len(stats.pauses))
        yield GaugeMetricFamily(
            "sidecar_paused_jobs", "Jobs that they hold, of those in memory.", value=stats.paused
        )
