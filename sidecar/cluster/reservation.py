"""What the scheduler holds for one running job: the grant in force, and the way back to who waits for the next."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.conversation.reservation import Said
from sidecar.errors import Permanent, SidecarError
from sidecar.models.replica import HeldJob, NextCallRequest, Outcome
from sidecar.models.result import Usage
from sidecar.scheduler.quota import Throttle
from sidecar.scheduler.refusals import Limit
from sidecar.scheduler.tickets import Grant, WaitReason
from sidecar.scheduler.turns import LaterRoom

if TYPE_CHECKING:
    from sidecar.cluster.leader import Leader

Answer = Callable[["Reservation", int, Said], None]
"""Tells a job about the call that it waits for."""


class Reservation:
    """The scheduler's seat of one job on `worker`. Operations whose number is not above `number` are repetitions.

    `attempt` is the job's attempt as far as it is known; `since_beat`: the job is in the worker's heartbeats after
    this one, until it has ended; `absences` counts those in which it was missing.
    """

    __slots__ = (
        "_leader",
        "absences",
        "answer",
        "answered",
        "attempt",
        "grant",
        "number",
        "seq",
        "since_beat",
        "wish",
        "worker",
    )

    def __init__(self, grant: Grant, *, worker: str, attempt: int, leader: "Leader", answer: Answer) -> None:
        self.grant = grant
        self.seq = grant.ticket.seq
        self.worker = worker
        self.attempt = attempt
        self.number = 0
        self.wish: NextCallRequest | None = None
        self.answered: tuple[int, str] | None = None
        self.since_beat: int | None = None
        self.absences = 0
        self.answer = answer
        self._leader = leader

    def take_over(self, grant: Grant) -> None:
        """The scheduler granted what this job waits for. One that nobody waits for any more is given back."""
        wish = self.wish
        if wish is None:
            self._leader.scheduler.undo(grant, now=self._leader.clock.monotonic())
            return
        self.grant, self.wish, self.answered = grant, None, (wish.number, grant.pool)
        self.answer(self, wish.number, grant.pool)

    def deny(self, error: SidecarError) -> None:
        """What this job waits for will not be granted any more."""
        wish, self.wish = self.wish, None
        if wish is not None:
            self.answer(self, wish.number, error)

    def tell(self, waits: WaitReason) -> None:
        """What this job waits for will still take a while."""
        if self.wish is not None:
            self.answer(self, self.wish.number, waits)

    def undo(self, number: int, *, keeps_slot: bool) -> None:
        if self._is_new(number):
            self._close(keeps_slot=keeps_slot)
            self._leader.kick()

    def ask(self, wish: NextCallRequest) -> None:
        if not self._is_new(wish.number):
            return
        leader = self._leader
        if self.grant.is_open:
            # Its end was said by an operation that got lost.
            self._close(keeps_slot=True)
        self.wish, now = wish, leader.clock.monotonic()
        try:
            leader.scheduler.next_turn(
                self.grant,
                pools=wish.pools,
                later=[LaterRoom(now + room.after_s, room.pool, room.rank) for room in wish.later],
                input_tokens=wish.input_tokens,
                max_tokens=wish.max_tokens,
                now=now,
            )
        except Permanent as e:
            self.wish = None
            self.answer(self, wish.number, e)
        leader.kick()

    def throttled(
        self, number: int, kind: Throttle, retry_after: float | None, limit: Limit | None = None
    ) -> None:
        if self._is_new(number):
            now, pool = self._leader.clock.monotonic(), self.grant.pool
            self._leader.scheduler.throttled(pool, now=now, kind=kind, retry_after=retry_after, limit=limit)

    def used(self, number: int, usage: Usage, seconds: float) -> None:
        if not self._is_new(number):
            return
        scheduler, now = self._leader.scheduler, self._leader.clock.monotonic()
        scheduler.succeeded(self.grant.pool, now=now)
        if scheduler.holds.by_scope:
            scheduler.holds.answered(self.worker, self.grant.pool, now=now)
        scheduler.settle(
            self.grant,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            seconds=seconds,
            now=now,
            keeps_slot=True,
        )
        self._leader.kick()

    def finish(self, number: int, outcome: Outcome) -> None:
        if self._is_new(number):
            self._leader.finished(self, outcome)

    def abandon(self) -> None:
        """The worker fell silent: what its last call took is not known, so it counts as it was predicted."""
        scheduler, now, grant = self._leader.scheduler, self._leader.clock.monotonic(), self.grant
        if grant.is_open:
            scheduler.settle(
                grant,
                input_tokens=grant.input_tokens,
                output_tokens=round(grant.predicted_output),
                seconds=max(0.0, now - grant.granted_at),
                now=now,
                keeps_slot=True,
            )
        scheduler.finish(grant, now=now)

    def reported(self, held: HeldJob) -> None:
        """What its worker's heartbeat says: repeats whatever may have got lost on either side."""
        self.absences = 0
        self.attempt = max(self.attempt, held.attempt)
        wish = held.wish
        if wish is None:
            return
        if self.answered is not None and self.answered[0] == wish.number:
            self.answer(self, wish.number, self.answered[1])
        elif self.wish is None or self.wish.number < wish.number:
            self._close(keeps_slot=held.holds_slot)
            self.ask(wish)

    def _close(self, *, keeps_slot: bool) -> None:
        scheduler = self._leader.scheduler
        scheduler.undo(self.grant, now=self._leader.clock.monotonic(), keeps_slot=True)
        if not keeps_slot:
            scheduler.release_slot(self.grant)

    def _is_new(self, number: int) -> bool:
        if number <= self.number:
            return False
        self.number = number
        return True
