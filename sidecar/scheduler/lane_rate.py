"""How fast jobs leave each lane, from what was granted lately. Pure: `now` is monotonic seconds."""

from math import exp

from sidecar.ports.bus import Lane

# What was granted so long ago counts for a third.
MEMORY_S = 20.0
# A rate is told once so many grants were seen, and forgotten when so long nothing was granted.
LEAST = 3.0
FORGET_S = 10 * MEMORY_S
_MOST_LANES = 20_000


class LaneRates:
    """Grants a second of each lane, weighted towards the last ones."""

    def __init__(self) -> None:
        self._seen: dict[Lane, tuple[float, float, float]] = {}

    def granted(self, lane: Lane, *, now: float) -> None:
        known = self._seen.get(lane)
        if known is None or now - known[1] > FORGET_S:
            if len(self._seen) >= _MOST_LANES:
                self._seen.pop(next(iter(self._seen)))
            self._seen[lane] = (1.0, now, now)
        else:
            weight, at, since = known
            self._seen[lane] = (weight * exp((at - now) / MEMORY_S) + 1.0, now, since)

    def per_s(self, lane: Lane, *, now: float) -> float | None:
        """None where too little was seen to tell."""
        known = self._seen.get(lane)
        if known is None:
            return None
        weight, at, since = known
        seen_s = now - since
        if weight < LEAST or seen_s <= 0:
            return None
        # What a lane with this rate would weigh by now, had it been seen for as long as it was.
        return weight * exp((at - now) / MEMORY_S) / (MEMORY_S * (1.0 - exp(-seen_s / MEMORY_S)))
