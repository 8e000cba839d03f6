"""Which replica leaves the scheduling to another because of its clock. Pure: `now` is monotonic seconds.

A replica decides by the NATS server's time, whatever its own clock says. Still a machine whose clock is wrong is
the last choice: nobody has set it up well, and what it says to others (signatures, logs) goes by that clock.
"""

from collections.abc import Iterable

from sidecar.runtime.server_clock import NEAR_S

# Two clocks that are about as wrong are equally good.
_MARGIN_S = 1.0
# How long a better one has to be there until a holder makes room for it, and how often it does.
CALM_S = 3.0
AGAIN_S = 60.0
# How long the lease has to be free until the replica takes it although a better one is there.
LEFT_FREE_S = 3.0


def is_better(other: float | None, *, than: float | None) -> bool:
    """Whether a replica whose clock is off by `other` seconds should schedule rather than one off by `than`."""
    if other is None or than is None or abs(than) <= NEAR_S:
        return False
    return abs(other) + _MARGIN_S < abs(than)


def is_any_better(others: Iterable[float | None], *, than: float | None) -> bool:
    return any(is_better(other, than=than) for other in others)


class Deference:
    """When to hold back from a lease, and when to give it up. Never for ever: somebody has to schedule."""

    def __init__(self) -> None:
        self._free_since: float | None = None
        self._better_since: float | None = None
        self._not_before = float("-inf")

    def holds_back(self, now: float, *, is_better_there: bool) -> bool:
        """Whether to look at the lease only, instead of trying for it."""
        if not is_better_there:
            self._free_since = None
            return False
        return self._free_since is None or now - self._free_since < LEFT_FREE_S

    def looked(self, now: float, *, is_free: bool) -> None:
        """What looking at the lease has shown."""
        if not is_free:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now

    def gives_up(self, now: float, *, is_better_there: bool) -> bool:
        """Whether a holder should make room now."""
        if not is_better_there:
            self._better_since = None
            return False
        if self._better_since is None:
            self._better_since = now
        if now - self._better_since < CALM_S or now < self._not_before:
            return False
        self._not_before = now + AGAIN_S
        self._free_since = None
        return True
