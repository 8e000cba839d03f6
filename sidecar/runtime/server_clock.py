"""Time by the NATS server's clock, which every replica asks and none owns.

The server stamps each request, and deadlines, ages and days are held against those stamps. So what is decided
about a job is decided by the server's clock, and a machine whose own clock is wrong decides like the others.
"""

from typing import NamedTuple, Protocol

from sidecar.runtime.clock import Clock

NEAR_S = 2.0
"""How far apart this machine's clock and the server's may be without anybody being told."""

# Two clocks that are both being slewed may part by 500 ppm each.
_DRIFT = 1e-3
# For the rounding of a time to a float, and of the server's stamp.
_ROUNDING_S = 1e-3


class LocalClock(Clock, Protocol):
    """This machine's clock. `steady` never goes back, goes on through a suspension, and nobody sets it."""

    def steady(self) -> float: ...


class _Bounds(NamedTuple):
    """Between what and what the server's time at steady time 0 lies, in seconds since 1970."""

    low: float
    high: float

    def widened(self, seconds: float) -> "_Bounds":
        return _Bounds(self.low - seconds, self.high + seconds)

    def common(self, other: "_Bounds") -> "_Bounds | None":
        low, high = max(self.low, other.low), min(self.high, other.high)
        return _Bounds(low, high) if low <= high else None

    def nearest(self, value: float) -> float:
        return min(max(value, self.low), self.high)


class ServerClock:
    """`Clock` whose `now` is the server's time as far as that is known; all else is `local`'s.

    A stamp that the server made between a question and its answer bounds the difference of the clocks by the
    round trip. Samples are intersected; the difference that is used moves only when it is proved wrong, so that
    `now` does not jitter, and is the local clock's own while that may be right. The server's time is carried on
    by steady time: setting this machine's clock under way changes nothing. A sample that contradicts all before
    is believed when a second one agrees with it: then the server's clock was set, or another server leads.
    """

    def __init__(self, local: LocalClock) -> None:
        self._local = local
        self._steady = local.steady
        self._epoch: float | None = None
        self._bounds: _Bounds | None = None
        self._doubt: _Bounds | None = None
        self._seen_at = 0.0
        self.monotonic = local.monotonic
        self.sleep = local.sleep
        self.call_later = local.call_later

    def now(self) -> float:
        """Seconds since 1970 by the server's clock; by this machine's until the first sample."""
        epoch = self._epoch
        return self._local.now() if epoch is None else epoch + self._steady()

    def steady(self) -> float:
        return self._steady()

    @property
    def is_known(self) -> bool:
        """Whether the server's clock was seen."""
        return self._epoch is not None

    @property
    def offset_s(self) -> float | None:
        """How far this machine's clock is ahead of the server's (negative: behind); None before a sample."""
        return None if self._epoch is None else self._local.now() - self.now()

    def observe(self, server_time: float, *, sent: float, received: float) -> None:
        """Take a stamp that the server made between two moments of `steady`. Seconds since 1970."""
        seen = _Bounds(server_time - received - _ROUNDING_S, server_time - sent + _ROUNDING_S)
        if self._bounds is None or self._epoch is None:
            self._take(seen, received, self._local.now() - received)
            return
        age_s = max(0.0, received - self._seen_at)
        kept = self._bounds.widened(age_s * _DRIFT).common(seen)
        if kept is not None:
            self._take(kept, received, self._epoch)
        elif self._doubt is not None and (agreed := self._doubt.widened(age_s * _DRIFT).common(seen)) is not None:
            self._take(agreed, received, self._local.now() - received)
        else:
            self._doubt = seen

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last sample contradicts those before: the next one decides, and should come soon."""
        return self._doubt is not None

    def _take(self, bounds: _Bounds, at: float, guess: float) -> None:
        self._bounds, self._seen_at, self._doubt = bounds, at, None
        self._epoch = bounds.nearest(guess)


def shown_offset(offset_s: float) -> str:
    """`3600 s ahead of the NATS server's clock`, rounded so that it changes only when something has changed."""
    size = abs(offset_s)
    digits = 1 if size < 10 else 0 if size < 100 else -1
    return f"{round(size, digits):g} s {'ahead of' if offset_s > 0 else 'behind'} the NATS server's clock"
