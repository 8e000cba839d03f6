"""The limits of one call, kept by one timer that looks again instead of being set anew for each event."""

import asyncio
from collections.abc import Callable

from sidecar.errors import CallTimeout
from sidecar.models.call import CallLimits

_TEXTS = {
    "connect": "no connection within {:g} s",
    "first_token": "no content within {:g} s",
    "idle": "nothing came for {:g} s",
    "total": "not done within {:g} s",
}


def call_timeout(limit: str, seconds: float) -> CallTimeout:
    return CallTimeout(f"Bedrock: {_TEXTS[limit].format(seconds)}", limit=limit)


class Watchdog:
    """Calls `on_expiry(error)` once when a limit has passed while somebody was waiting.

    `elapsed_s` of the call have passed already; `idle_counts` is False where a model may rightly be silent. The
    reader says `waiting()` before it waits and `paused()` after: time that the consumer takes does not
    count as silence of the model, but does count towards the total.
    """

    def __init__(
        self,
        limits: CallLimits,
        on_expiry: Callable[[CallTimeout], None],
        *,
        elapsed_s: float = 0.0,
        idle_counts: bool = True,
    ) -> None:
        self._limits = limits
        self._on_expiry = on_expiry
        self._idle_s = limits.idle_s if idle_counts else limits.total_s
        self._loop = asyncio.get_running_loop()
        now = self._loop.time() - elapsed_s
        self._total_at = now + limits.total_s
        self._first_at: float | None = now + limits.first_token_s
        self._last_event_at = now
        self._is_waiting = True
        self.error: CallTimeout | None = None
        self._timer = self._loop.call_at(min(self._total_at, self._first_at), self._look)

    def has_content(self) -> None:
        """The first content has come: from now on the idle limit holds."""
        if self._first_at is not None:
            self._first_at = None
            self._last_event_at = self._loop.time()
            self._rearm(min(self._total_at, self._last_event_at + self._idle_s))

    def limit_idle(self, seconds: float) -> None:
        """Wait no longer than `seconds` for what is still to come."""
        if seconds < self._idle_s:
            self._idle_s = seconds
            self._rearm(self._loop.time() + seconds)

    def waiting(self) -> None:
        self._last_event_at = self._loop.time()
        self._is_waiting = True

    def paused(self) -> None:
        self._is_waiting = False

    def stop(self) -> None:
        self._timer.cancel()

    def next_limit(self) -> tuple[float, str, float]:
        """The loop time, name and length of the limit that is reached first."""
        if self._first_at is not None:
            nearest = (self._first_at, "first_token", self._limits.first_token_s)
        else:
            nearest = (self._last_event_at + self._idle_s, "idle", self._idle_s)
        return min(nearest, (self._total_at, "total", self._limits.total_s))

    def _rearm(self, when: float) -> None:
        if self._timer.when() > when:
            self._timer.cancel()
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        when, limit, seconds = self.next_limit()
        now = self._loop.time()
        if now >= when and (self._is_waiting or limit == "total"):
            self.error = call_timeout(limit, seconds)
            self._on_expiry(self.error)
            return
        if when <= now:
            when = now + self._idle_s
        self._timer = self._loop.call_at(when, self._look)
