"""Where a queued job stands in its lane, and how long that takes."""

from collections.abc import Callable, Iterable

from sidecar.ports.bus import Clock, Lane
from sidecar.request_handler.stored_requests import StoredRequests
from sidecar.scheduler.lane_rate import LaneRates
from sidecar.scheduler.tickets import Ticket


class QueuePlaces:
    """`held` tells what is in workers' hands."""

    def __init__(
        self, stored: StoredRequests, rates: LaneRates, *, held: Callable[[], Iterable[Ticket]], clock: Clock
    ) -> None:
        self._stored = stored
        self._rates = rates
        self._held = held
        self._clock = clock

    def ahead(self, seq: int, lane: Lane) -> int:
        """How many queued jobs of a lane lie before a request."""
        running = sum(ticket.seq < seq and ticket.lane == lane for ticket in self._held())
        return max(0, self._stored.index.rank(seq, lane) - running)

    def estimate_ms(self, ahead: int, lane: Lane) -> int | None:
        """How long until a job with so many before it is granted, by the rate of its lane's last grants."""
        rate = self._rates.per_s(lane, now=self._clock.monotonic())
        return None if not rate else round(1000 * (ahead + 1) / rate)
