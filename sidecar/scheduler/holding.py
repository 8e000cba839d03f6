"""The jobs that are on hold: since when, and until when at most."""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

from sidecar.errors import HeldTooLong
from sidecar.models.holds import said_of
from sidecar.scheduler.fair_share import Pools
from sidecar.scheduler.holds import Holds
from sidecar.scheduler.tickets import Ticket

MaxHold = Callable[[str], float | None]


class Holding:
    """Keeps account of held jobs by the sequence of their requests. `max_hold_s(class)`: None for no bound.

    `count` are all that are held now, `alone` those of them that wait by themselves, for their own next try;
    `next_end` is when the first has been held for as long as it may be (monotonic seconds).
    """

    def __init__(self, holds: Holds, *, max_hold_s: MaxHold, most: int) -> None:
        self.holds = holds
        self.max_hold_s = max_hold_s
        self.count = 0
        self.alone: set[int] = set()
        self._most = most
        self._since: dict[int, float] = {}
        self._ends: list[tuple[float, int, Ticket]] = []
        self.next_end = inf

    def is_held(self, pools: Pools) -> bool:
        return self.holds.hold_of(pools) is not None

    @property
    def may_pass(self) -> bool:
        """Whether jobs behind held ones are worth looking for: some pools are open, and there is memory."""
        return not self.holds.is_total and self.count < self._most

    @property
    def reason(self) -> str:
        """The cause of the hold that has stood longest."""
        return min(self.holds.by_scope.values(), key=lambda hold: hold.since).cause if self.holds.by_scope else ""

    def add(self, ticket: Ticket, *, now: float, stored_at: float) -> None:
        """A job is on hold from now on, or again after it was a probe. `stored_at` is when it came (monotonic):
        one that stood behind the window when the hold began was held from then on, not since it was read.
        """
        self.count += 1
        hold = self.holds.hold_of(ticket.pools)
        self.watch(ticket, now=now, since=None if hold is None else min(now, max(hold.since, stored_at)))

    def watch(self, ticket: Ticket, *, now: float, since: float | None = None) -> float:
        """Remember since when (None: from now on), for the bound of its class. Returns how much longer it may be
        held (s).
        """
        most_s = self.max_hold_s(ticket.lane.job_class)
        if most_s is None:
            return inf
        since = self._since.setdefault(ticket.seq, now if since is None else since)
        heappush(self._ends, (since + most_s, ticket.seq, ticket))
        self.next_end = self._ends[0][0]
        return since + most_s - now

    def free(self, ticket: Ticket) -> None:
        """It is on hold no more."""
        self.count -= 1
        self.forget(ticket.seq)

    def forget(self, seq: int) -> None:
        self._since.pop(seq, None)

    def overdue(self, now: float) -> list[tuple[Ticket, float]]:
        """The jobs whose time is over, with how long they were held (s)."""
        found: list[tuple[Ticket, float]] = []
        while self._ends and self._ends[0][0] <= now:
            _, seq, ticket = heappop(self._ends)
            since = self._since.get(seq)
            most_s = self.max_hold_s(ticket.lane.job_class)
            if since is not None and most_s is not None and since + most_s <= now:
                found.append((ticket, now - since))
        self.next_end = self._ends[0][0] if self._ends else inf
        return found


def held_too_long(ticket: Ticket, cause: str, held_s: float) -> HeldTooLong:
    """How a job ends that was on hold for as long as its class may be."""
    return HeldTooLong(
        f"{said_of(cause)}: the job was held for {held_s:.0f} s, the most for class {ticket.lane.job_class}",
        details={"limit": "max_hold_s", "held_ms": round(held_s * 1000), "cause": cause},
    )
