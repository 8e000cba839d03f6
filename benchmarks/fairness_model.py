"""A world in virtual time: tenants that send jobs, a Bedrock with a quota, and a record of what happened."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple, Protocol

from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane

POOL = "model@us-east-1"
LIMITS = QuotaLimits(tokens_per_minute=2_000_000, requests_per_minute=4_000)


@dataclass(slots=True)
class Job:
    """One model call with what it will turn out to use. `turns_left` counts the calls that follow it."""

    lane: Lane
    input_tokens: int
    max_tokens: int
    output_tokens: int
    seconds: float
    turns_left: int = 0
    arrived_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a tenant's calls look like. The means are of log-normal draws."""

    input_mean: float = 600
    output_mean: float = 250
    spread: float = 0.6
    max_tokens: int = 1_000
    turns: int = 1
    tool_wait_s: float = 0.0

    def draw(self, lane: Lane, rng: random.Random) -> Job:
        def around(mean: float) -> int:
            return max(1, int(mean * rng.lognormvariate(-(self.spread**2) / 2, self.spread)))

        output = min(self.max_tokens, around(self.output_mean))
        seconds = 0.4 + output * 0.015 * rng.uniform(0.8, 1.2)
        return Job(lane, around(self.input_mean), self.max_tokens, output, seconds, self.turns - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One lane's demand: bursts of (seconds, jobs). `inf` jobs: always backlogged from then on."""

    tenant: str
    job_class: str = "standard"
    weight: float = 1.0
    shape: Shape = field(default_factory=Shape)
    bursts: Sequence[tuple[float, float]] = ((0.0, inf),)

    @property
    def lane(self) -> Lane:
        return Lane(self.tenant, self.job_class)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A workload: who sends what, which quota there is, and for how long it runs (seconds)."""

    name: str
    sources: tuple[Source, ...]
    limits: QuotaLimits = LIMITS
    slots: int = 256
    seconds: float = 600.0

    @property
    def warm_up_s(self) -> float:
        """Nothing is known of the tenants at the start; what counts is what follows."""
        return self.seconds / 5

    def cost(self, job: Job) -> float:
        """Pool-seconds that a call turns out to cost."""
        tokens = job.input_tokens + self.limits.burndown * job.output_tokens
        per_minute = [
            tokens / (self.limits.tokens_per_minute or inf),
            1 / (self.limits.requests_per_minute or inf),
        ]
        return max(60 * max(per_minute), job.seconds / self.slots)


class Bedrock:
    """The other side's own account of a quota: a bucket that holds a minute, deducted as AWS documents it."""

    def __init__(self, limits: QuotaLimits) -> None:
        self.limits = limits
        self.tokens = float(limits.tokens_per_minute or inf)
        self.requests = float(limits.requests_per_minute or inf)
        self.at = 0.0

    def start(self, job: Job, now: float) -> bool:
        """Deduct a call. False: HTTP 429."""
        self._refill(now)
        need = job.input_tokens + job.max_tokens
        if self.tokens < need or self.requests < 1:
            return False
        self.tokens -= need
        self.requests -= 1
        return True

    def end(self, job: Job, now: float) -> None:
        self._refill(now)
        self.tokens += job.max_tokens - self.limits.burndown * job.output_tokens

    def _refill(self, now: float) -> None:
        elapsed, self.at = now - self.at, now
        per_minute = self.limits.tokens_per_minute, self.limits.requests_per_minute
        self.tokens = min(self.tokens + elapsed * (per_minute[0] or 0) / 60, per_minute[0] or inf)
        self.requests = min(self.requests + elapsed * (per_minute[1] or 0) / 60, per_minute[1] or inf)


@dataclass(slots=True)
class Call:
    """A dispatched job; `token` is whatever the scheduler wants back."""

    job: Job
    estimate: float
    token: object = None


class Arrival(NamedTuple):
    lane: Lane
    jobs: float


class Policy(Protocol):
    """A scheduler under test."""

    def arrive(self, lane: Lane, jobs: float, now: float) -> None: ...

    def pick(self, now: float) -> Call | None: ...

    def finish(self, call: Call, now: float) -> None: ...

    def refused(self, call: Call, now: float) -> None: ...

    def follow(self, call: Call, job: Job, now: float) -> None:
        """The next call of a running job that had to wait for a tool."""
        ...

    def wake(self, now: float) -> float | None: ...


def name_of(lane: Lane) -> str:
    return lane.tenant if lane.job_class == "standard" else f"{lane.tenant} ({lane.job_class})"


class Record:
    """What happened: service by lane, dispatches, refusals, and curves of service over time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.served: defaultdict[Lane, float] = defaultdict(float)
        self.dispatched: Counter[Lane] = Counter()
        self.first_at: dict[Lane, float] = {}
        self.others_before: dict[Lane, int] = {}
        self.waits: defaultdict[Lane, list[float]] = defaultdict(list)
        self.calls = 0
        self.throttles = 0
        self.tokens = 0.0
        self.requests = 0
        self.curves: dict[str, list[tuple[float, float]]] = {name_of(s.lane): [] for s in world.sources}
        self.gap = 0.0
        self.gap_bound = 0.0
        self._total = 0
        self._arrival: dict[Lane, tuple[float, int]] = {}
        self._attributed: defaultdict[Lane, float] = defaultdict(float)
        self._errors: defaultdict[Lane, float] = defaultdict(float)
        self._worst_errors: defaultdict[Lane, float] = defaultdict(float)
        self._largest: defaultdict[Lane, float] = defaultdict(float)
        self._weights = {source.lane: source.weight for source in world.sources}
        self._steady = [s.lane for s in world.sources if s.bursts[0] == (0.0, inf)]

    def arrived(self, lane: Lane, now: float) -> None:
        self._arrival.setdefault(lane, (now, self._total))

    def started(self, call: Call, now: float) -> None:
        lane = call.job.lane
        self._total += 1
        self.calls += 1
        if lane not in self.first_at:
            arrived_at, before = self._arrival[lane]
            self.first_at[lane] = now - arrived_at
            self.others_before[lane] = self._total - before - 1
        self.dispatched[lane] += 1
        self.waits[lane].append(now - call.job.arrived_at)
        actual = self.world.cost(call.job)
        error = abs(actual - call.estimate)
        self._attributed[lane] += actual
        self._errors[lane] += error
        self._worst_errors[lane] = max(self._worst_errors[lane], self._errors[lane])
        self._largest[lane] = max(self._largest[lane], call.estimate)

    def ended(self, call: Call, now: float) -> None:
        lane = call.job.lane
        actual = self.world.cost(call.job)
        self._errors[lane] -= abs(actual - call.estimate)
        if now >= self.world.warm_up_s:
            self.served[lane] += actual
            self.requests += 1
            self.tokens += call.job.input_tokens + self.world.limits.burndown * call.job.output_tokens

    def sample(self, now: float) -> None:
        """Note the curves, and the largest gap between two lanes of one class that were backlogged all along."""
        for lane in self._weights:
            self.curves[name_of(lane)].append((now, self._attributed[lane]))
        by_class: defaultdict[str, list[tuple[float, Lane]]] = defaultdict(list)
        for lane in self._steady:
            by_class[lane.job_class].append((self._attributed[lane] / self._weights[lane], lane))
        for found in by_class.values():
            if len(found) > 1:
                low, high = min(found), max(found)
                self.gap = max(self.gap, high[0] - low[0])
                self.gap_bound = max(self.gap_bound, self._bound(lane for _, lane in found))

    def _bound(self, lanes: Iterator[Lane]) -> float:
        """The sum of the two largest of (c + worst in-flight |estimate - actual|) / w."""
        terms = sorted(
            ((self._largest[lane] + self._worst_errors[lane]) / self._weights[lane] for lane in lanes),
            reverse=True,
        )
        return terms[0] + terms[1]

    def jain(self, *, job_class: str | None = None) -> float:
        """Weighted Jain index over the settled cost of the lanes that were backlogged all along."""
        shares = [
            self.served[lane] / self._weights[lane]
            for lane in self._steady
            if job_class is None or lane.job_class == job_class
        ]
        squares = sum(x * x for x in shares)
        return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0

    def utilisation(self) -> float:
        """Share of the scarcer quota, tokens or requests, that was used after the warm-up."""
        minutes = (self.world.seconds - self.world.warm_up_s) / 60
        limits = self.world.limits
        return max(
            self.tokens / ((limits.tokens_per_minute or inf) * minutes),
            self.requests / ((limits.requests_per_minute or inf) * minutes),
        )

    def service(self, lane: Lane, start: float, end: float) -> float:
        """Pool-seconds that a lane was given between two times, to the nearest sample."""
        points = [served for time, served in self.curves[name_of(lane)] if start <= time <= end]
        return points[-1] - points[0] if points else 0.0

    def wait_p95(self, lane: Lane) -> float:
        waits = sorted(self.waits[lane])
        return waits[int(len(waits) * 0.95)] if waits else inf


def simulate(world: World, policy: Policy, *, sample_s: float = 5.0) -> Record:
    """Run a world to its end under one scheduler."""
    record = Record(world)
    _Run(world, policy, record, sample_s).go()
    return record


class _Run:
    def __init__(self, world: World, policy: Policy, record: Record, sample_s: float) -> None:
        self.world = world
        self.policy = policy
        self.record = record
        self.sample_s = sample_s
        self.bedrock = Bedrock(world.limits)
        self.events: list[tuple[float, int, str, object]] = []
        self.numbers = count()
        self.woken_at = inf
        self.shapes = {source.lane: source.shape for source in world.sources}

    def at(self, time: float, kind: str, what: object) -> None:
        heappush(self.events, (time, next(self.numbers), kind, what))

    def go(self) -> None:
        for source in self.world.sources:
            for time, jobs in source.bursts:
                self.at(time, "arrive", Arrival(source.lane, jobs))
        self.at(0.0, "sample", None)
        while self.events and self.events[0][0] <= self.world.seconds:
            now, _, kind, what = heappop(self.events)
            self.handle(now, kind, what)
            if self.events and self.events[0][0] == now:
                continue
            self.dispatch(now)

    def handle(self, now: float, kind: str, what: object) -> None:
        if kind == "arrive":
            assert isinstance(what, Arrival)
            self.record.arrived(what.lane, now)
            self.policy.arrive(what.lane, what.jobs, now)
        elif kind == "end":
            assert isinstance(what, Call)
            self.bedrock.end(what.job, now)
            self.record.ended(what, now)
            self.policy.finish(what, now)
            if what.job.turns_left:
                self.at(now + self.shapes[what.job.lane].tool_wait_s, "follow", what)
        elif kind == "follow":
            assert isinstance(what, Call)
            job = self.shapes[what.job.lane].draw(what.job.lane, random.Random(repr(what.job)))
            job.turns_left = what.job.turns_left - 1
            job.input_tokens = what.job.input_tokens + what.job.output_tokens
            job.arrived_at = now
            self.policy.follow(what, job, now)
        elif kind == "sample":
            self.record.sample(now)
            self.at(now + self.sample_s, "sample", None)
        else:
            self.woken_at = inf

    def dispatch(self, now: float) -> None:
        while (call := self.policy.pick(now)) is not None:
            if self.bedrock.start(call.job, now):
                self.record.started(call, now)
                self.at(now + call.job.seconds, "end", call)
            else:
                self.record.calls += 1
                self.record.throttles += 1
                self.policy.refused(call, now)
        wake = self.policy.wake(now)
        if wake is not None and wake < self.woken_at - 1e-6:
            self.woken_at = max(wake, now + 1e-3)
            self.at(self.woken_at, "wake", None)
