"""What a pool's refusals say: how many of its calls they are, and how much of a resource there was. Pure."""

from math import inf
from typing import Any, Literal

Limit = Literal["tokens", "requests", "concurrency"]
_LIMITS: dict[object, Limit] = {"tokens": "tokens", "requests": "requests", "concurrency": "concurrency"}

WINDOW_S = 5.0
# Of fewer calls a share says little: each refusal is taken at its word.
BUSY_CALLS = 20
# A refusal among hundreds of answers is no sign of an empty account.
STRAY_SHARE = 0.05
# What was named and not found by our own counting is lowered from here on.
NAMED_SHARE = 0.02
LEAST = 1.0
GROWTH_PER_S = 0.1 / 60
FORGOTTEN_AT = 2.0


def limit_named(name: object) -> Limit | None:
    """What a refusal named, as it was written down; None for anything that is not known here."""
    return _LIMITS.get(name) if isinstance(name, str) else None


class RecentCalls:
    """Calls and refusals of the last five to ten seconds, counted by two windows."""

    __slots__ = ("_before", "_refused_before", "_until", "calls", "refused")

    def __init__(self) -> None:
        self.calls = self.refused = 0
        self._before = self._refused_before = 0
        self._until = 0.0

    def made(self, now: float) -> None:
        if now >= self._until:
            self._turn(now)
        self.calls += 1

    def was_refused(self, now: float) -> None:
        if now >= self._until:
            self._turn(now)
        self.refused += 1

    def total(self, now: float) -> int:
        if now >= self._until:
            self._turn(now)
        return self.calls + self._before

    def share(self, now: float) -> float:
        """The refused part of the calls; 1.0 where none was made."""
        calls = self.total(now)
        return min(1.0, (self.refused + self._refused_before) / calls) if calls else 1.0

    def is_busy(self, now: float) -> bool:
        """Whether there were calls enough for their share to say something."""
        return self.total(now) >= BUSY_CALLS

    def per_s(self, now: float) -> float:
        """Calls that were not refused, a second."""
        served = self.total(now) - self.refused - self._refused_before
        return max(0.0, served) / (WINDOW_S + now - (self._until - WINDOW_S))

    def _turn(self, now: float) -> None:
        is_next = now < self._until + WINDOW_S
        self._before, self._refused_before = (self.calls, self.refused) if is_next else (0, 0)
        self.calls = self.refused = 0
        self._until = now + WINDOW_S


class LearnedBound:
    """A resource that a refusal named, as far as it has been learned: `value` is infinite until then.

    It falls to what was used and grows back by a tenth a minute; twice as high as where it was last refused it is
    forgotten. A configured bound stays beside it.
    """

    __slots__ = ("refused_at", "value")

    def __init__(self) -> None:
        self.value = inf
        self.refused_at = inf

    def refused(self, used: float, *, configured: float, share: float) -> None:
        """Named by a refusal while `used` of it was in use; `share` of the calls were refused."""
        before = min(self.value, configured)
        below = used * 0.95 if before == inf else max(before * 0.5, min(used * 0.95, before * (1 - share)))
        self.refused_at = self.value = max(below, LEAST)

    def grow(self, elapsed: float) -> None:
        if self.value < inf:
            self.value += self.refused_at * GROWTH_PER_S * elapsed
            if self.value >= FORGOTTEN_AT * self.refused_at:
                self.value = self.refused_at = inf

    def checkpoint(self) -> list[float] | None:
        return None if self.value == inf else [self.value, self.refused_at]

    def restore(self, state: Any) -> None:
        if state is not None:
            self.value, self.refused_at = (float(number) for number in state)
