"""One term of office as the scheduler: reads the queue, grants, and keeps account of every job in flight.

doorbell ──▶ window ──▶ grant ──▶ worker: this process, or another by an offer
                ▲                   │ ended: forget
                └── again ◀─────────┘ returned, refused, fell silent, vanished
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping

from sidecar.cluster import messages, vain_grants
from sidecar.cluster.hold_keeper import HoldKeeper
from sidecar.cluster.queued_records import QueuedRecords
from sidecar.cluster.reservation import Reservation
from sidecar.cluster.service import Cluster
from sidecar.cluster.share import apply, ticket_of
from sidecar.cluster.standstill import StandstillWatch
from sidecar.cluster.whole_queue import WholeQueue
from sidecar.cluster.work import Work
from sidecar.cluster.worker import Worker
from sidecar.conversation.reservation import Said
from sidecar.errors import Conflict, GivenUp, JobCancelled, Permanent, SidecarError
from sidecar.models.replica import ENDED, GrantOffer, HeldJob, Outcome, ReservationOp
from sidecar.ports.bus import Cancellable, Clock, Intake, Lane
from sidecar.request_handler.reader import Reader, fetch
from sidecar.runtime.lifecycle import Tasks, logged
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Grant, Ticket

log = logging.getLogger(__name__)

# Nobody took a job: how long it waits until it is offered again.
REFUSED_S = 0.25
# Another replica has claimed a job and does not report it yet: as long as its next heartbeat may take.
REPORT_S = 1.2
# A worker that does not report a job twice has not got it any more.
ABSENCES = 2

_DROPPED: Mapping[str, str] = {
    "deadline_exceeded": "the deadline passed while the job was queued",
    "quota_exceeded": "the job is larger than the quota of every model it may run on",
}


class Leader:
    """The scheduler's work for one `term`. `endings` are the tasks that end jobs which never run."""

    def __init__(
        self,
        *,
        term: int,
        intake: Intake,
        scheduler: Scheduler,
        work: Work,
        worker: Worker,
        cluster: Cluster,
        clock: Clock,
        endings: Tasks,
        is_marked: Callable[[tuple[str, str]], bool],
        max_queue: Callable[[Lane], int],
        on_crash: Callable[[BaseException], None],
        reconcile_s: float,
        check_s: float,
    ) -> None:
        self.term = term
        self.scheduler = scheduler
        self.clock = clock
        self._intake = intake
        self._work = work
        self._worker = worker
        self._cluster = cluster
        self._endings = endings
        self._on_crash = on_crash
        self._reconcile_s, self._check_s = reconcile_s, check_s
        self._duties = Tasks(on_crash)
        self.reader = Reader(
            intake=intake,
            scheduler=scheduler,
            clock=clock,
            tasks=self._duties,
            admit=work.admit,
            refuse=work.refuse,
            on_filled=self.kick,
            is_marked=is_marked,
            max_queue=max_queue,
        )
        self._records = QueuedRecords(scheduler, self.reader, work=work, clock=clock, endings=endings)
        self.queue = WholeQueue(
            self.reader,
            self._records,
            held=lambda: self.held,
            work=work,
            intake=intake,
            clock=clock,
            endings=endings,
        )
        self.stored = self.queue.stored
        self._held: dict[int, Reservation] = {}
        self._of_worker: dict[str, dict[int, Reservation]] = {}
        self._reports: dict[str, Mapping[int, HeldJob]] = {}
        self._attempts: dict[int, int] = {}
        self._vain = vain_grants.VainGrants()
        self.holds = HoldKeeper(scheduler, clock=clock)
        self._timer: Cancellable | None = None
        self._is_kicked = False
        self.is_open = True
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Read what is there, and go on reading."""
        self.queue.start(self._duties)
        self._duties.spawn(self._watch(), name="intake-watch")
        self._duties.spawn(self._records.write(), name="queued-records")
        self._duties.spawn(self._records.tell(), name="blocked-jobs")
        self._duties.spawn(self._records.keep(), name="waiting-documents")
        self._duties.spawn(self._records.tell_turns(self._held), name="blocked-turns")
        watch = StandstillWatch(self.scheduler, self.reader, clock=self.clock, on_found=self._stood_still)
        self._duties.spawn(watch.watch(), name="standstill-watch")
        self.kick()

    def _stood_still(self) -> None:
        self.counts["standstills"] += 1
        # Not by a kick: one that got lost may be what is wrong.
        self._on_kick()

    def close(self) -> None:
        """Grant no more, from this moment on."""
        self.is_open = self.reader.is_open = False
        if self._timer is not None:
            self._timer.cancel()

    async def stop(self) -> None:
        self.close()
        await self._duties.cancel()

    @property
    def in_flight(self) -> int:
        return len(self._held)

    def running(self) -> Counter[Lane]:
        """How many jobs of each lane were granted and have not ended."""
        return Counter(reservation.grant.ticket.lane for reservation in self._held.values())

    def kick(self) -> None:
        """Something changed that may let a job run: ask the scheduler, once for all changes of this moment."""
        if not self._is_kicked and self.is_open and not self.scheduler.is_idle:
            self._is_kicked = True
            asyncio.get_running_loop().call_soon(self._on_kick)

    def cancel(self, tenant: str, job: str) -> bool:
        """Take a waiting job out of its window and end it. False when it does not wait here."""
        ticket = self.reader.waiting.pop((tenant, job), None)
        if ticket is None:
            self.queue.deep.cancel(tenant, job)
            return False
        if not self.scheduler.remove(ticket.lane, ticket.seq):
            return False
        self._end_unrun(ticket, JobCancelled("the job was cancelled while it was queued"))
        return True

    # What workers say.

    def heard(self, worker: str, n: int, jobs: Mapping[int, HeldJob]) -> None:
        """A worker's heartbeat: whatever it says differently from what is known here is put right."""
        self._reports[worker] = jobs
        known = self._of_worker.get(worker, {})
        for seq, reservation in list(known.items()):
            held = jobs.get(seq)
            if held is not None:
                reservation.reported(held)
            elif reservation.since_beat is not None and n > reservation.since_beat:
                reservation.absences += 1
                if reservation.absences >= ABSENCES:
                    self._vanished(reservation)
        for seq, held in jobs.items():
            if seq not in known:
                self._found(worker, n, held)
        self.kick()

    def silent(self, worker: str) -> None:
        """A worker has fallen silent: its jobs are granted again, each as its next attempt."""
        self._reports.pop(worker, None)
        for reservation in list(self._of_worker.get(worker, {}).values()):
            self.counts["orphaned"] += 1
            reservation.abandon()
            self._release(reservation)
            self.holds.left(reservation.grant.ticket, ENDED)
            self._again(reservation.grant.ticket, attempt=reservation.attempt)
        self.kick()

    def apply(self, worker: str, op: ReservationOp) -> None:
        """An operation of a job on another worker."""
        reservation = self._held.get(op.seq)
        if reservation is not None and reservation.worker == worker:
            apply(reservation, op)

    def adopt_own(self) -> None:
        """Take over the jobs that run in this process."""
        for share, held in zip(self._worker.shares, self._worker.report(), strict=True):
            reservation = self._adopt(self._cluster.own, 0, held)
            if reservation is not None:
                share.sit(reservation)
                reservation.reported(held)

    def finished(self, reservation: Reservation, outcome: Outcome) -> None:
        """A job has left its worker."""
        if self._held.get(reservation.seq) is not reservation:
            return
        ticket = reservation.grant.ticket
        self._release(reservation)
        self.scheduler.finish(reservation.grant, now=self.clock.monotonic())
        if self.scheduler.holds.by_scope:
            self.holds.left(ticket, outcome)
        if outcome.kind == "ended":
            self._forget(ticket)
        elif outcome.held:
            self.counts["held"] += 1
            self._records.was_written(ticket)
            self._attempts[ticket.seq] = max(reservation.attempt, outcome.attempt)
            self.reader.waits_again(ticket)
            self.holds.hold_back(ticket)
        else:
            self.counts[outcome.kind] += 1
            self._take_back(reservation, outcome, max(reservation.attempt, outcome.attempt))
        self.kick()

    def _take_back(self, reservation: Reservation, outcome: Outcome, attempt: int) -> None:
        """A job that its worker did not end: whoever has it is its owner, else it is granted again, later each
        time, and given up in the end. A worker that cannot read it waits for one that can.
        """
        ticket, owner = reservation.grant.ticket, outcome.owner
        if outcome.kind == "taken":
            for worker, jobs in self._reports.items():
                held = jobs.get(ticket.seq)
                # What this worker reported before it gave the job up says nothing any more.
                if held is not None and held.attempt >= outcome.attempt and worker != reservation.worker:
                    self._adopt(worker, 0, held)
                    return
        is_elsewhere = (
            outcome.kind == "taken" and owner != self._cluster.name and self._cluster.has_name(owner or "")
        )
        delay_s = REPORT_S if is_elsewhere or outcome.kind == "unreadable" else 0.0
        if outcome.kind != "unreadable":
            times = self._vain.count(ticket.seq)
            if times >= vain_grants.MOST:
                self.counts["given_up"] += 1
                error = GivenUp(f"the job was granted {times} times, and each time its replica could not end it")
                return self._end_unrun(ticket, error)
            delay_s = max(delay_s, vain_grants.delay_s(times))
        self._again(ticket, attempt=attempt, delay_s=delay_s)

    def _forget(self, ticket: Ticket, *, is_gone: bool = True) -> None:
        self._vain.forget(ticket.seq)
        if self.counts["held"]:
            self.holds.forget(ticket.seq)
        self.reader.forget(ticket, is_gone=is_gone)

    @property
    def held(self) -> list[Ticket]:
        """What is in workers' hands."""
        return [reservation.grant.ticket for reservation in self._held.values()]

    # Grants.

    def _on_kick(self) -> None:
        self._is_kicked = False
        if self.is_open:
            try:
                self._dispatch()
            except Exception as e:
                log.exception("dispatch failed")
                self._on_crash(e)

    def _dispatch(self) -> None:
        scheduler, now = self.scheduler, self.clock.monotonic()
        if self._cluster.term != self.term:
            return
        scheduler.epoch_offset = self.clock.now() - now
        if not scheduler.holds.is_quiet and scheduler.rehold(now=now):
            self.reader.fill_all()
        while (grant := scheduler.grant(now=now)) is not None:
            reservation = self._held.get(grant.ticket.seq)
            if reservation is not None:
                reservation.take_over(grant)
            else:
                self._begin(grant)
        self._end_refused(now)
        self._wake_again(now)

    def _end_refused(self, now: float) -> None:
        """Jobs that the scheduler gave up on while it looked for grants."""
        for dropped in self.scheduler.take_dropped(now=now):
            self.reader.left(dropped.ticket)
            error = dropped.error or Permanent(_DROPPED.get(dropped.code, "the job cannot run"), code=dropped.code)
            self._end_unrun(dropped.ticket, error)
        for denied in self.scheduler.take_denied():
            reservation = self._held.get(denied.previous.ticket.seq)
            if reservation is not None:
                reservation.deny(denied.error)
        for grant, held in () if self.scheduler.holds.is_quiet else self.holds.to_be_handed_back():
            reservation = self._held.get(grant.ticket.seq)
            if reservation is not None and self.holds.tells(reservation.worker):
                self.scheduler.turns.withdraw(grant)
                reservation.deny(held)

    def _begin(self, grant: Grant) -> None:
        ticket = grant.ticket
        workers = self._cluster.workers
        worker = self.holds.choose(grant, workers) if self.scheduler.holds.by_scope else workers.choose()
        if worker is None:
            now = self.clock.monotonic()
            self.scheduler.requeue(grant, now=now, not_before=now + REFUSED_S)
            return
        attempt = self._attempts.pop(ticket.seq, 0)
        self.queue.rates.granted(ticket.lane, now=self.clock.monotonic())
        opened = self.reader.take(ticket)
        reservation = self._reserve(grant, worker, attempt)
        if worker == self._cluster.own:
            self._worker.begin(
                ticket,
                pool=grant.pool,
                attempt=attempt,
                seat=reservation,
                opened=opened,
                record=self._records.take(ticket.seq),
            )
        else:
            self._duties.spawn(self._offer(reservation, attempt))

    async def _offer(self, reservation: Reservation, attempt: int) -> None:
        grant = reservation.grant
        ticket = grant.ticket
        record = self._records.take(ticket.seq)
        known = await record if record is not None else None
        offer = GrantOffer(
            leader=self._cluster.own,
            term=self.term,
            seq=ticket.seq,
            tenant=ticket.lane.tenant,
            job_class=ticket.lane.job_class,
            job=ticket.job_id,
            pool=grant.pool,
            pools=ticket.pools,
            input_tokens=ticket.input_tokens,
            max_tokens=ticket.max_tokens,
            stored_at=ticket.stored_at,
            deadline=ticket.deadline,
            attempt=attempt,
            known=known.state if known is not None else None,
            revision=known.revision if known is not None else 0,
            can_hold=True,
        )
        beat = await self._cluster.offer(reservation.worker, offer)
        if self._held.get(ticket.seq) is not reservation:
            return
        if beat is not None:
            self.counts["offers"] += 1
            reservation.since_beat = beat
            return
        self.counts["refused"] += 1
        self._release(reservation)
        self.scheduler.finish(grant, now=self.clock.monotonic())
        self._again(ticket, attempt=attempt)
        self.kick()

    def _wake_again(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self.scheduler.next_wake(now=now)
        if wake_at is not None:
            self._timer = self.clock.call_later(max(0.001, wake_at - now), self.kick)

    # Who has what.

    def _reserve(self, grant: Grant, worker: str, attempt: int) -> Reservation:
        reservation = Reservation(grant, worker=worker, attempt=attempt, leader=self, answer=self._answer)
        self._held[grant.ticket.seq] = reservation
        self._of_worker.setdefault(worker, {})[grant.ticket.seq] = reservation
        self._cluster.took(worker)
        return reservation

    def _release(self, reservation: Reservation) -> None:
        seq = reservation.seq
        del self._held[seq]
        del self._of_worker[reservation.worker][seq]
        self._cluster.left(reservation.worker)

    def _answer(self, reservation: Reservation, number: int, said: Said) -> None:
        seq = reservation.seq
        if reservation.worker != self._cluster.own:
            self._cluster.answer(reservation.worker, messages.next_call(seq, number, said))
        elif (share := self._worker.share_of(seq)) is not None:
            share.hear(number, said)

    def _again(self, ticket: Ticket, *, attempt: int, delay_s: float = 0.0) -> None:
        now = self.clock.monotonic()
        self._attempts[ticket.seq] = attempt
        self.reader.waits_again(ticket)
        self.scheduler.push_back(ticket, now=now, not_before=now + delay_s if delay_s else None)

    def _adopt(self, worker: str, n: int, held: HeldJob) -> Reservation | None:
        ticket = ticket_of(held)
        if ticket.lane.job_class not in self.scheduler.share.classes:
            return None
        self._attempts.pop(held.seq, None)
        self.reader.hold(ticket)
        now = self.clock.monotonic()
        grant = self.scheduler.adopt(
            ticket, pool=held.pool, now=now, is_open=held.is_open, holds_slot=held.holds_slot
        )
        reservation = self._reserve(grant, worker, held.attempt)
        reservation.since_beat, reservation.number = n, held.number
        if held.wish is not None:
            reservation.number = held.wish.number - 1
        self.counts["adopted"] += 1
        return reservation

    def _found(self, worker: str, n: int, held: HeldJob) -> None:
        """A worker reports a job that is not known to be there."""
        reservation = self._held.get(held.seq)
        if reservation is not None:
            self._cluster.disown(worker, held.tenant, held.job)
            return
        ticket = self.reader.waiting.get((held.tenant, held.job))
        if ticket is not None and ticket.seq == held.seq:
            if held.attempt < self._attempts.get(held.seq, 0):
                self._cluster.disown(worker, held.tenant, held.job)
                return
            self.scheduler.remove(ticket.lane, ticket.seq)
        reservation = self._adopt(worker, n, held)
        if reservation is not None:
            reservation.reported(held)

    def _vanished(self, reservation: Reservation) -> None:
        """Its worker lost it without a word that arrived: its request tells whether it has ended."""
        self.counts["vanished"] += 1
        reservation.abandon()
        self._release(reservation)
        self._duties.spawn(self._look_after(reservation.grant.ticket, reservation.attempt))

    async def _look_after(self, ticket: Ticket, attempt: int) -> None:
        stored = await fetch(self._intake, ticket.seq, clock=self.clock)
        if ticket.seq in self._held:
            return
        if stored is None:
            await self._bereave(ticket)
            self._forget(ticket)
        else:
            self._again(ticket, attempt=attempt)
        self.kick()

    async def _bereave(self, ticket: Ticket) -> None:
        with logged("ending a job whose request is gone", job=ticket.job_id):
            await self._work.bereave(ticket)

    # Jobs that never run, and what keeps the windows true.

    def _end_unrun(self, ticket: Ticket, error: SidecarError) -> None:
        self._attempts.pop(ticket.seq, None)
        self._endings.spawn(self._refuse(ticket, error))

    async def _refuse(self, ticket: Ticket, error: SidecarError) -> None:
        try:
            opened = await self.reader.open(ticket)
            record = self._records.take(ticket.seq)
            if opened is not None:
                known = await record if record is not None else None
                await self._work.refuse(opened, error, known=known)
            else:
                await self._bereave(ticket)
            self.stored.forget(ticket.seq, ticket.lane, ticket.job_id)
        except Conflict as e:
            log.info("a job was somebody else's", extra={"job": ticket.job_id, "error": e.message})
        finally:
            self._forget(ticket, is_gone=False)

    async def _watch(self) -> None:
        """Hold the doorbells against the stream: everything every 15 s, its last sequence every second."""
        while True:
            with logged("reconciling with the request stream"):
                await self.reader.reconcile()
            next_at = self.clock.monotonic() + self._reconcile_s
            while self.clock.monotonic() < next_at:
                await self.clock.sleep(self._check_s)
                with logged("reading the request stream's last sequence"):
                    if not await self.reader.check():
                        break
