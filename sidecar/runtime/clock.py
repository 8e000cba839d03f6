"""Time as a value that is handed in, so that tests can own it."""

from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, by the NATS server's clock as far as that is known: what is decided about a job is
        decided by one clock, whatever a replica's own says.
        """
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Call `callback` once after `delay_s` seconds, unless cancelled before."""
        ...
