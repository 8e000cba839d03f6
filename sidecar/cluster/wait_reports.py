"""Which waiting jobs are to be told why they wait: those whose lane stands still for more than a moment. Pure."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from sidecar.ports.bus import Lane
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import BlockedBy, Ticket, WaitReason

BLOCKED_S = 1.0
LOOKS_A_ROUND = 256
TELLS_A_ROUND = 32
MOST_TELLS = 8


class WaitReport(NamedTuple):
    """`n` counts what the job was told before, this one included."""

    ticket: Ticket
    blocked: WaitReason
    n: int


class WaitReporter:
    """Looks at some of the waiting jobs each round, and at each of them in turn. `waiting` is the reader's."""

    def __init__(self, scheduler: Scheduler, waiting: Mapping[tuple[str, str], Ticket]) -> None:
        self._scheduler = scheduler
        self._waiting = waiting
        self._round: Iterator[Ticket] = iter(())
        self._since: dict[Lane, float] = {}
        self._told: dict[int, tuple[BlockedBy, int]] = {}

    def due(self, *, now: float) -> list[WaitReport]:
        """Jobs whose reason is new to them, `TELLS_A_ROUND` at most. O(LOOKS_A_ROUND)."""
        looked = list(islice(self._round, LOOKS_A_ROUND))
        if len(looked) < LOOKS_A_ROUND:
            self._round = iter(list(self._waiting.values()))
            self._forget()
        reasons: dict[Lane, WaitReason | None] = {}
        holds: dict[tuple[str, ...], WaitReason | None] = {}
        due: list[WaitReport] = []
        for ticket in looked:
            lane = ticket.lane
            if lane not in reasons:
                reasons[lane] = self._blocked(lane, now)
            if ticket.pools not in holds:
                holds[ticket.pools] = self._scheduler.held(ticket.pools)
            blocked = (
                self._scheduler.pause_of(ticket)
                or holds[ticket.pools]
                or self._scheduler.held_alone(ticket.seq)
                or reasons[lane]
            )
            if blocked is None or len(due) == TELLS_A_ROUND:
                continue
            before, n = self._told.get(ticket.seq, (None, 0))
            if blocked.reason != before and n < MOST_TELLS:
                # The estimate is the head's: what stands behind it waits longer, nobody knows how much.
                known = (
                    blocked if self._scheduler.is_head(ticket) else WaitReason(blocked.reason, None, blocked.why)
                )
                due.append(WaitReport(ticket, known, n + 1))
        return due

    def told(self, telling: WaitReport) -> None:
        """The job knows."""
        self._told[telling.ticket.seq] = (telling.blocked.reason, telling.n)

    def _blocked(self, lane: Lane, now: float) -> WaitReason | None:
        blocked = self._scheduler.blocked(lane, now=now)
        if blocked is None:
            self._since.pop(lane, None)
            return None
        return blocked if now - self._since.setdefault(lane, now) >= BLOCKED_S else None

    def _forget(self) -> None:
        seqs = {ticket.seq for ticket in self._waiting.values()}
        lanes = {ticket.lane for ticket in self._waiting.values()}
        self._told = {seq: told for seq, told in self._told.items() if seq in seqs}
        self._since = {lane: since for lane, since in self._since.items() if lane in lanes}
