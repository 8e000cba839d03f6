"""The schedulers that are compared: the product's own, and what others use, all behind the same local quota."""

import random
from collections import deque
from math import inf

from benchmarks.fairness_model import POOL, Call, Job, World
from sidecar.ports.bus import Lane
from sidecar.scheduler.quota import Pool
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Grant, TenantCaps, Ticket

CLASSES = {"interactive": 100.0, "standard": 20.0, "batch": 1.0}
COLD_RATIO = 0.25


class Supply:
    """What has arrived and was not taken yet, by lane; jobs are drawn one by one, the same for every scheduler."""

    def __init__(self, world: World) -> None:
        self.shapes = {source.lane: source.shape for source in world.sources}
        self.random = {lane: random.Random(f"{world.name} {lane}") for lane in self.shapes}
        self.waiting: dict[Lane, deque[tuple[float, float]]] = {}
        self.again: dict[Lane, deque[Job]] = {}

    def add(self, lane: Lane, jobs: float, now: float) -> None:
        self.waiting.setdefault(lane, deque()).append((jobs, now))

    def is_empty(self, lane: Lane) -> bool:
        return not self.waiting.get(lane) and not self.again.get(lane)

    def take(self, lane: Lane) -> Job:
        again = self.again.get(lane)
        if again:
            return again.popleft()
        jobs, arrived_at = self.waiting[lane][0]
        if jobs <= 1:
            self.waiting[lane].popleft()
        else:
            self.waiting[lane][0] = (jobs - 1, arrived_at)
        job = self.shapes[lane].draw(lane, self.random[lane])
        job.arrived_at = arrived_at
        return job

    def put_back(self, job: Job) -> None:
        self.again.setdefault(job.lane, deque()).appendleft(job)


class Fair:
    """The product's scheduler, its windows kept full as the request handler does."""

    name = "fair share"

    def __init__(self, world: World) -> None:
        weights = {source.tenant: source.weight for source in world.sources}
        self.scheduler = Scheduler(
            classes=CLASSES,
            slots=world.slots,
            tenants=lambda name: TenantCaps(weight=weights[name]),
            limits=lambda pool: world.limits,
        )
        self.supply = Supply(world)
        self.jobs: dict[int, Job] = {}
        self.pools = (POOL,)
        self._seq = 0

    def arrive(self, lane: Lane, jobs: float, now: float) -> None:
        self.supply.add(lane, jobs, now)
        self._fill(lane, now)

    def _fill(self, lane: Lane, now: float) -> None:
        for _ in range(self.scheduler.room(lane)):
            if self.supply.is_empty(lane):
                return
            job = self.supply.take(lane)
            self._seq += 1
            self.jobs[self._seq] = job
            self.scheduler.push(
                Ticket(
                    seq=self._seq,
                    lane=lane,
                    job_id=str(self._seq),
                    size=0,
                    stored_at=job.arrived_at,
                    input_tokens=job.input_tokens,
                    max_tokens=job.max_tokens,
                    pools=self.pools,
                ),
                now=now,
            )

    def pick(self, now: float) -> Call | None:
        grant = self.scheduler.grant(now=now)
        if grant is None:
            return None
        self._fill(grant.ticket.lane, now)
        return Call(self.jobs[grant.ticket.seq], grant.cost, grant)

    def finish(self, call: Call, now: float) -> None:
        assert isinstance(call.token, Grant)
        job = call.job
        self.scheduler.succeeded(call.token.pool, now=now)
        self.scheduler.settle(
            call.token,
            input_tokens=job.input_tokens,
            output_tokens=job.output_tokens,
            seconds=job.seconds,
            now=now,
        )
        if not job.turns_left:
            del self.jobs[call.token.ticket.seq]

    def refused(self, call: Call, now: float) -> None:
        assert isinstance(call.token, Grant)
        self.scheduler.throttled(call.token.pool, now=now)
        self.scheduler.requeue(call.token, now=now, not_before=now + 0.5)

    def follow(self, call: Call, job: Job, now: float) -> None:
        assert isinstance(call.token, Grant)
        self.jobs[call.token.ticket.seq] = job
        self.scheduler.next_turn(
            call.token, pools=self.pools, input_tokens=job.input_tokens, max_tokens=job.max_tokens, now=now
        )

    def wake(self, now: float) -> float | None:
        return self.scheduler.next_wake(now=now)


class Ordered:
    """Base of the others: one limiter and a number of slots; a subclass says which lane is next."""

    name = "base"

    def __init__(self, world: World) -> None:
        self.world = world
        self.supply = Supply(world)
        self.weights = {source.lane: source.weight * CLASSES[source.job_class] for source in world.sources}
        self.pool = Pool(POOL, world.limits, now=0.0)
        self.running = 0
        self.head: Job | None = None
        self.not_before = -inf

    def arrive(self, lane: Lane, jobs: float, now: float) -> None:
        self.supply.add(lane, jobs, now)
        self.entered(lane, jobs)

    def follow(self, call: Call, job: Job, now: float) -> None:
        self.supply.put_back(job)
        self.entered(job.lane, 1)

    def pick(self, now: float) -> Call | None:
        if self.running >= self.world.slots or now < self.not_before:
            return None
        if self.head is None:
            lane = self.choose()
            if lane is None:
                return None
            self.head = self.supply.take(lane)
            self.taken(lane)
        job = self.head
        if not self.pool.fits(self._need(job), now):
            return None
        self.head = None
        self.pool.reserve(self._need(job), now)
        self.running += 1
        self.started(job)
        return Call(job, self.estimate(job))

    def _need(self, job: Job) -> float:
        return self.pool.need(
            input_tokens=job.input_tokens, max_tokens=job.max_tokens, predicted_output=COLD_RATIO * job.max_tokens
        )

    def estimate(self, job: Job) -> float:
        limits = self.world.limits
        tokens = job.input_tokens + limits.burndown * COLD_RATIO * job.max_tokens
        return 60 * max(tokens / (limits.tokens_per_minute or inf), 1 / (limits.requests_per_minute or inf))

    def finish(self, call: Call, now: float) -> None:
        job = call.job
        self.running -= 1
        self.pool.settle(self._need(job), job.input_tokens + self.world.limits.burndown * job.output_tokens, now)
        self.ended(job)

    def refused(self, call: Call, now: float) -> None:
        self.running -= 1
        self.pool.undo(self._need(call.job), now=now)
        self.pool.throttled("quota", now=now, retry_after=None)
        self.not_before = now + 0.5
        self.supply.put_back(call.job)
        self.entered(call.job.lane, 1)

    def wake(self, now: float) -> float | None:
        if self.head is None or self.running >= self.world.slots:
            return None
        wait = self.pool.wait_s(self._need(self.head), now=now)
        return max(now + wait, self.not_before) if wait < inf else None

    def entered(self, lane: Lane, jobs: float) -> None: ...

    def choose(self) -> Lane | None: ...

    def taken(self, lane: Lane) -> None: ...

    def started(self, job: Job) -> None: ...

    def ended(self, job: Job) -> None: ...


class Fifo(Ordered):
    """By arrival. A tenant that is always backlogged arrives as fast as it is served."""

    name = "FIFO"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.runs: deque[list[float | Lane]] = deque()

    def entered(self, lane: Lane, jobs: float) -> None:
        self.runs.append([lane, jobs])

    def choose(self) -> Lane | None:
        while self.runs:
            lane, jobs = self.runs[0]
            assert isinstance(lane, Lane)
            assert isinstance(jobs, (int, float))
            self.runs.popleft()
            if jobs > 1:
                # Senders in a closed loop stand behind one another; a flood that is already there does not.
                endless = jobs == inf
                (self.runs.append if endless else self.runs.appendleft)([lane, jobs - 1])
            return lane
        return None


class RoundRobin(Ordered):
    """One job of each lane in turn, whatever it costs."""

    name = "round robin"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ring: deque[Lane] = deque()

    def entered(self, lane: Lane, jobs: float) -> None:
        if lane not in self.ring:
            self.ring.append(lane)

    def choose(self) -> Lane | None:
        while self.ring:
            lane = self.ring.popleft()
            if not self.supply.is_empty(lane):
                self.ring.append(lane)
                return lane
        return None


class Deficit(RoundRobin):
    """Deficit round robin by estimated cost, the quantum by weight; estimates are never corrected."""

    name = "deficit RR"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.deficit: dict[Lane, float] = {}

    def choose(self) -> Lane | None:
        for _ in range(100_000):
            if not self.ring:
                return None
            lane = self.ring[0]
            if self.supply.is_empty(lane):
                self.ring.popleft()
                self.deficit[lane] = 0.0
            elif self.deficit.get(lane, 0.0) > 0:
                return lane
            else:
                self.deficit[lane] = self.deficit.get(lane, 0.0) + 0.05 * self.weights[lane]
                self.ring.rotate(-1)
        return None

    def started(self, job: Job) -> None:
        self.deficit[job.lane] = self.deficit.get(job.lane, 0.0) - self.estimate(job)


class Vtc(Ordered):
    """Virtual Token Counter without prediction: input is charged at the start, output when it has come."""

    name = "plain VTC"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.counters: dict[Lane, float] = {}
        self.last = 0.0

    def entered(self, lane: Lane, jobs: float) -> None:
        waiting = [
            self.counters[other] for other in self.counters if not self.supply.is_empty(other) and other != lane
        ]
        floor = min(waiting) if waiting else self.last
        self.counters[lane] = max(self.counters.get(lane, 0.0), floor)

    def choose(self) -> Lane | None:
        waiting = [lane for lane in self.counters if not self.supply.is_empty(lane)]
        return min(waiting, key=self.counters.__getitem__) if waiting else None

    def started(self, job: Job) -> None:
        self.last = self.counters[job.lane]
        self.counters[job.lane] += job.input_tokens / self.weights[job.lane]

    def ended(self, job: Job) -> None:
        self.counters[job.lane] += self.world.limits.burndown * job.output_tokens / self.weights[job.lane]


POLICIES = (Fair, Fifo, RoundRobin, Deficit, Vtc)
