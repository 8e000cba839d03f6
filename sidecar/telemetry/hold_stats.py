"""What statistics tell of holds. Pure."""

from collections.abc import Iterable, Mapping

from sidecar.models.holds import remedy_of, said_of
from sidecar.models.stats import HoldStats


def hold_stats(ages_s: Mapping[str, float], held: Iterable[str]) -> tuple[HoldStats, ...]:
    """What this replica found (`ages_s`), and why jobs are `held`, as the scheduler says."""
    causes = dict.fromkeys((*ages_s, *held))
    return tuple(
        HoldStats(
            cause=cause, reason=said_of(cause), remedy=remedy_of(cause), since_s=round(ages_s.get(cause, 0.0), 1)
        )
        for cause in causes
    )
