"""From doorbells to running jobs: this replica's part in it, as a worker always, as the scheduler for a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sidecar.cluster import messages
from sidecar.cluster.leader import Leader
from sidecar.cluster.saving import Saver
from sidecar.cluster.service import Cluster
from sidecar.cluster.work import Work
from sidecar.cluster.worker import Worker
from sidecar.models.pauses import Pause
from sidecar.models.replica import GrantOffer, HeldJob, NextCallGrant, ReservationOp
from sidecar.ports.bus import Clock, Doorbell, Intake, Lane
from sidecar.ports.cluster import Checkpoints
from sidecar.runtime.lifecycle import Tasks
from sidecar.scheduler.schedule import Scheduler

MOST_MARKS = 20_000

Reports = Callable[[], Mapping[str, tuple[int, Mapping[int, HeldJob]]]]


class RequestHandler:
    """Runs what is granted to this replica, and grants to all while it holds the lease.

    `scheduler` is the one of the current term, or an idle one. `lead` and `follow` begin and end a term.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        checkpoints: Checkpoints,
        new_scheduler: Callable[[], Scheduler],
        work: Work,
        cluster: Cluster,
        clock: Clock,
        attempt_of: Callable[[str, str], int | None],
        on_crash: Callable[[BaseException], None],
        max_queue: Callable[[Lane], int],
        pauses: Callable[[], Awaitable[tuple[Pause, ...]]],
        reconcile_s: float = 15.0,
        check_s: float = 1.0,
    ) -> None:
        self._intake = intake
        self._new_scheduler = new_scheduler
        self._work = work
        self._cluster = cluster
        self._clock = clock
        self._on_crash = on_crash
        self._max_queue = max_queue
        self._pauses = pauses
        self._reconcile_s = reconcile_s
        self._check_s = check_s
        self._worker = Worker(
            intake=intake, work=work, cluster=cluster, clock=clock, attempt_of=attempt_of, on_crash=on_crash
        )
        self._saver = Saver(checkpoints, clock)
        self._endings = Tasks(on_crash)
        self._savings = Tasks(on_crash)
        self._saving: asyncio.Task[None] | None = None
        self._marks: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._listens = False
        self._standstills = 0
        self.leader: Leader | None = None
        self.scheduler = new_scheduler()

    # This process's life.

    def drain(self) -> None:
        """Take no new grants. What runs goes on."""
        self._worker.is_open = False
        self.follow()

    async def finish(self) -> None:
        """Wait for the running jobs."""
        await self._worker.finish()

    async def stop(self) -> None:
        """Break off what runs, and hand it back."""
        await self._worker.stop()
        await self._savings.cancel()
        await self._endings.cancel()

    @property
    def running(self) -> int:
        return len(self._worker)

    @property
    def slots_used(self) -> int:
        return self._worker.slots_used

    def jobs_of(self, lane: Lane) -> int:
        """How many jobs of a lane are in the scheduler's memory: waiting in its window, or in flight."""
        return self.leader.reader.jobs_of(lane) if self.leader is not None else 0

    @property
    def standstills(self) -> int:
        """How often jobs were found waiting though slots were free and nothing was in their way."""
        return self._standstills + (self.leader.counts["standstills"] if self.leader is not None else 0)

    def kick(self) -> None:
        """Something changed that may let a job run."""
        if self.leader is not None:
            self.leader.kick()

    def pause(self, pauses: tuple[Pause, ...]) -> None:
        """Operators' pauses are others now."""
        if self.leader is not None:
            self.scheduler.pause(pauses, now=self._clock.monotonic())
            self.leader.reader.fill_all()
            self.leader.kick()

    def cancel(self, tenant: str, job: str) -> None:
        """A mark of cancellation was heard: end the job if it waits here, or when it is read."""
        # First the mark: what is read into a window meanwhile is refused by it.
        self._marks[(tenant, job)] = None
        if self.leader is not None and self.leader.cancel(tenant, job):
            self._marks.pop((tenant, job), None)
            return
        if len(self._marks) > MOST_MARKS:
            self._marks.popitem(last=False)

    # The lease comes and goes.

    async def lead(self, term: int, reports: Reports) -> None:
        """Begin to schedule: go on from what the predecessor left and what all workers report."""
        scheduler = self._new_scheduler()
        now = self._clock.monotonic()
        scheduler.epoch_offset = self._clock.now() - now
        checkpoint = await self._saver.load()
        if not self._listens:
            await self._intake.listen(self._on_doorbell)
            self._listens = True
        # Last: from here on nothing is waited for, so that no word of a change falls between.
        pauses = await self._pauses()
        if self._cluster.term != term:
            return
        scheduler.pause(pauses, now=now)
        if checkpoint is not None:
            self._saver.restore(scheduler, checkpoint)
        scheduler.set_slots(self._cluster.slots)
        self.scheduler = scheduler
        self.leader = Leader(
            term=term,
            intake=self._intake,
            scheduler=scheduler,
            work=self._work,
            worker=self._worker,
            cluster=self._cluster,
            clock=self._clock,
            endings=self._endings,
            is_marked=self._marks.__contains__,
            max_queue=self._max_queue,
            on_crash=self._on_crash,
            reconcile_s=self._reconcile_s,
            check_s=self._check_s,
        )
        self._worker.saw_term(term)
        self.troubled()
        self.leader.adopt_own()
        for worker, (n, jobs) in reports().items():
            self.leader.heard(worker, n, jobs)
        self.leader.start()
        self._saving = self._savings.spawn(self._saver.keep_saving(scheduler), name="scheduler-checkpoint")

    def follow(self) -> None:
        """Schedule no more, from this moment on; the jobs here go on."""
        leader, self.leader = self.leader, None
        if self._saving is not None:
            # The checkpoint belongs to the successor now.
            self._saving.cancel()
            self._saving = None
        if leader is not None:
            self._standstills += leader.counts["standstills"]
            leader.close()
            self._worker.scatter()
            self._savings.spawn(self._end_term(leader))

    async def _end_term(self, leader: Leader) -> None:
        await leader.stop()

    # What other replicas say.

    def report(self) -> Sequence[HeldJob]:
        return self._worker.report()

    def take(self, offer: GrantOffer) -> str | None:
        """Run a job that another replica granted. The reason when it is not taken."""
        return self._worker.take(offer)

    def saw_term(self, term: int) -> None:
        self._worker.saw_term(term)

    def heard(self, worker: str, n: int, jobs: Mapping[int, HeldJob]) -> None:
        if self.leader is not None:
            self.leader.heard(worker, n, jobs)

    def silent(self, worker: str) -> None:
        if self.leader is not None:
            self.leader.silent(worker)

    def resized(self) -> None:
        """Workers came or went, or take jobs no more."""
        if self.leader is not None:
            self.scheduler.set_slots(self._cluster.slots)
            self.troubled()

    def held_causes(self) -> tuple[str, ...]:
        """Why jobs are held; nothing where another replica schedules."""
        return self.leader.holds.held_causes() if self.leader is not None else ()

    def troubled(self) -> None:
        """Something came in the way of a replica's calls, or is so no more."""
        if self.leader is not None:
            self.leader.holds.hear_all(self._cluster.told(), taking=self._cluster.workers.taking)
            self.leader.kick()

    def apply(self, worker: str, ops: Sequence[ReservationOp]) -> bool:
        """Operations of jobs on another worker. False when this replica does not schedule."""
        if self.leader is None:
            return False
        for op in ops:
            self.leader.apply(worker, op)
        return True

    def answered(self, turn: NextCallGrant) -> None:
        """The scheduler's answer to a job here."""
        share, said = self._worker.share_of(turn.seq), messages.said_of(turn)
        if share is not None and said is not None:
            share.hear(turn.number, said)

    def _on_doorbell(self, doorbell: Doorbell) -> None:
        if self.leader is not None:
            self.leader.reader.on_doorbell(doorbell)
