"""Metrics of what keeps calls from being made."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.errors import HoldCause

CAUSES: tuple[HoldCause, ...] = get_args(HoldCause)


class HoldFigures(NamedTuple):
    """By cause: for how long it has stood (s), how often it began, for how long in all that have ended (s)."""

    ages_s: Mapping[str, float] = MappingProxyType({})
    began: Mapping[str, int] = MappingProxyType({})
    seconds: Mapping[str, int] = MappingProxyType({})


def hold_metrics(figures: HoldFigures, *, held: int | None) -> Iterator[Metric]:
    """Every cause has its series, so that an alert ends when the cause does. `held`: jobs, by who schedules."""
    age = GaugeMetricFamily(
        "sidecar_hold_age_seconds",
        "For how long this cause has kept calls from being made here; 0 while it does not.",
        labels=["cause"],
    )
    began = CounterMetricFamily("sidecar_holds", "Times that this cause began to.", labels=["cause"])
    seconds = CounterMetricFamily(
        "sidecar_hold_seconds", "How long this cause did, in all that has ended.", labels=["cause"]
    )
    for cause in CAUSES:
        # A trouble that was found within this very second has an age, too.
        age.add_metric([cause], max(figures.ages_s[cause], 0.001) if cause in figures.ages_s else 0.0)
        began.add_metric([cause], figures.began.get(cause, 0))
        seconds.add_metric([cause], figures.seconds.get(cause, 0))
    yield from (age, began, seconds)
    if held is not None:
        yield GaugeMetricFamily("sidecar_held_jobs", "Jobs that are held, of those in memory.", value=held)
