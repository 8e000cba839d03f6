"""A scheduler's part in holds: what replicas tell, who gets a probe, which jobs come back to be held."""

from collections.abc import Iterable, Mapping, Sequence

from sidecar.cluster.grants import Workers
from sidecar.errors import JobHeld
from sidecar.models.replica import Outcome, Trouble
from sidecar.ports.bus import Clock
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Grant, Ticket

FIRST_ALONE_S = 1.0
LONGEST_ALONE_S = 30.0


class HoldKeeper:
    """Of one term. Nothing of it need be asked while the scheduler's `holds` are quiet."""

    def __init__(self, scheduler: Scheduler, *, clock: Clock) -> None:
        self._scheduler = scheduler
        self._holds = scheduler.holds
        self._clock = clock
        self._telling: frozenset[str] = frozenset()
        self._alone: dict[int, int] = {}

    def hear_all(self, told: Mapping[str, Sequence[Trouble]], *, taking: Iterable[str]) -> None:
        """Everybody who tells, with what is in their way, and who of them takes jobs."""
        now = self._clock.monotonic()
        self._telling = frozenset(told)
        self._holds.set_workers(self._telling.intersection(taking), now=now)
        for worker, troubles in told.items():
            self._holds.heard(worker, troubles, now=now)

    def choose(self, grant: Grant, workers: Workers) -> str | None:
        """Who runs a granted job: nobody in whose way something is, unless the job is to find out about it."""
        seq, now = grant.ticket.seq, self._clock.monotonic()
        probed = self._holds.worker_for(seq, grant.pool, now=now)
        if probed is not None and workers.is_open(probed):
            return probed
        if probed is not None:
            self._holds.probe_over(seq, is_held=True, now=now)
        return workers.choose(avoid=self._holds.avoided(grant.pool))

    def left(self, ticket: Ticket, outcome: Outcome) -> None:
        """A job has left its worker: if it was a probe, that is over."""
        now, after_s = self._clock.monotonic(), outcome.retry_after_s
        self._holds.probe_over(ticket.seq, is_held=bool(outcome.held), now=now, retry_after_s=after_s)

    def hold_back(self, ticket: Ticket) -> None:
        """A job had nothing left to call. Where nothing is known to be in everybody's way it waits by itself."""
        now = self._clock.monotonic()
        times = self._alone[ticket.seq] = self._alone.get(ticket.seq, 0) + 1
        delay_s = min(FIRST_ALONE_S * 2.0 ** min(times - 1, 10), LONGEST_ALONE_S)
        if self._holds.by_scope and times < 2:
            # Another replica may well call what this one cannot.
            delay_s = 0.0
        self._scheduler.hold_back(ticket, now=now, not_before=now + delay_s)

    def held_causes(self) -> tuple[str, ...]:
        """Why jobs wait that nothing is left to call for."""
        if not self._scheduler.holding.count:
            return ()
        found = {cause for _, cause, _, is_on in self._holds.shown(now=self._clock.monotonic()) if is_on}
        return tuple(sorted(found | ({"model_unavailable"} if self._scheduler.holding.alone else set())))

    def forget(self, seq: int) -> None:
        self._alone.pop(seq, None)
        self._scheduler.holding.forget(seq)

    def to_be_handed_back(self) -> list[tuple[Grant, JobHeld]]:
        """Running jobs that wait for what is on hold: they leave their workers, and their clocks stand."""
        return [
            (grant, JobHeld("model_unavailable" if hold is None else hold.cause, since=self._clock.now()))
            for grant in self._scheduler.held_turns()
            for hold in [self._holds.hold_of(grant.ticket.pools)]
        ]

    def tells(self, worker: str) -> bool:
        """Whether a replica knows of holds."""
        return worker in self._telling
