"""Replicas crash, are cut off, drain and come; messages are lost, doubled and late: the promises hold.

Everything runs over a server in memory in virtual time: the product's own adapters, faults on the wire.
"""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.errors import BusUnavailable, ModelUnavailable, Throttled
from sidecar.models.call import ModelCall
from sidecar.models.event import Event
from sidecar.models.result import Result
from sidecar.replica import Replica
from tests.support.garbage import ACKNOWLEDGEMENTS
from tests.support.jetstream.faults import NO_FAULT, Delivery, Fault, Operation, deliver_once, no_faults
from tests.support.jetstream.server import FakeJetStream
from tests.support.replica import MODEL, PLENTY, Bench
from tests.support.scripted_model import ScriptedModel, Turn, fails, says
from tests.support.virtual_time import VirtualClock

T = TypeVar("T")

MOST_REPLICAS = 5
POLICY = {**PLENTY, "nova-lite": {"tokens_per_minute": 10**9, "requests_per_minute": 10**8}}


class World:
    """A bench whose luck is drawn from one seed. `trouble` is the share of what goes wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.trouble = 0.0
        clock = VirtualClock()
        bus = FakeJetStream(clock, request_timeout_s=2.0)
        self.bench = Bench(ScriptedModel(clock, self.turn), clock, bus)
        self.numbers = iter(range(1, 10_000))
        self.jobs: list[str] = []
        self.cut_off: list[Replica] = []

    def turn(self, call: ModelCall) -> Turn:
        luck = self.random.random()
        first_s = self.random.uniform(0.05, 6.0)
        if luck < 0.1:
            return fails(Throttled("too many"), first_s=first_s)
        if luck < 0.15:
            return fails(ModelUnavailable("away"), after="some text", first_s=first_s)
        return says("one two three", pieces=3, first_s=first_s, delta_s=0.2)

    def faults(self, operation: Operation) -> Fault:
        if operation.replica == "client" or self.random.random() >= self.trouble:
            return NO_FAULT
        kind = self.random.choice(["delay", "request", "ack", "late"])
        if kind == "delay":
            return Fault(delay_s=self.random.uniform(0.0, 3.0))
        return Fault(lose=kind, late_s=self.random.uniform(0.0, 4.0))  # type: ignore[arg-type]

    def deliveries(self, _: Delivery) -> Sequence[float]:
        if self.random.random() >= self.trouble:
            return (0.0,)
        choices = ((), (0.0, 0.0), (self.random.uniform(0.0, 2.0),), (0.0, self.random.uniform(0.0, 8.0)))
        return self.random.choice(choices)

    async def spawn(self) -> None:
        scheduler = {"slots": 3, "interactive_reserve": 0.0}
        await self.bench.replica(f"r{next(self.numbers)}", models=POLICY, scheduler=scheduler)

    async def submit(self, count: int, *, stream: bool) -> None:
        for _ in range(count):
            tenant = self.random.choice(["acme", "beta"])
            job = f"{tenant}-{next(self.numbers)}"
            self.jobs.append(job)
            chain = [MODEL, "nova-lite"]
            await self.bench.submit(job=job, tenant=tenant, stream=stream, model=chain, params={"max_tokens": 9})

    async def heal_all(self) -> None:
        for replica in self.cut_off:
            self.bench.bus.heal(replica.name)
        self.cut_off.clear()

    async def settle(self) -> None:
        """No more trouble: everything must come to its end by itself."""
        await self.heal_all()
        self.trouble = 0.0
        self.bench.bus.faults, self.bench.bus.deliveries = no_faults, deliver_once
        if not self.bench.replicas:
            await self.spawn()
        await self.bench.until(lambda: self.bench.requests() == 0, limit_s=600)
        await self.bench.clock.advance(20)

    async def check(self) -> None:
        bench = self.bench
        assert not bench.crashes, bench.crashes
        for job in self.jobs:
            tenant = job.partition("-")[0]
            events = await bench.events(job, tenant=tenant)
            check_story(job, events)
            stored = await bench.stored(job, tenant=tenant)
            assert stored is not None
            assert stored.state.result == events[-1].data
            error = stored.state.result.error if stored.state.result else None
            letters = list(bench.bus.dead.find(bench.bus.subjects.dead(tenant, job)))
            assert len(letters) == (error is not None and error.code == "crash_loop"), job
        check_nothing_leaks(bench)

    async def close(self) -> None:
        await self.bench.close()


def check_story(job: str, events: list[Event]) -> None:
    results = [event for event in events if isinstance(event.data, Result)]
    assert len(results) == 1, f"{job}: {len(results)} results"
    assert events[-1] is results[0], f"{job} speaks after its end"
    places = [(event.attempt, event.n) for event in events]
    assert places == sorted(places), f"{job}: an old owner spoke: {places}"
    for attempt in {event.attempt for event in events}:
        numbers = [event.n for event in events if event.attempt == attempt]
        assert numbers == list(range(1, len(numbers) + 1)), (
            f"{job}: a gap or a double in attempt {attempt}: {numbers}"
        )


def check_nothing_leaks(bench: Bench) -> None:
    ledger = bench.leader.scheduler.ledger
    assert (ledger.slots_used, ledger.slots_used_by_others, len(ledger.open)) == (0, 0, 0)
    assert all(tenant.running == 0 for tenant in ledger.tenants.values())
    assert ledger.slots == 3 * len(bench.replicas)
    assert bench.leader.requests.leader is not None
    assert bench.leader.requests.leader.in_flight == 0
    for replica in bench.replicas:
        assert replica.requests.running == 0
        assert replica.jobs.live == ()


class Replicas(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world: World

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.loop.run_until_complete(run())

    @initialize(seed=st.integers(0, 2**32), count=st.integers(1, 3))
    def begin(self, seed: int, count: int) -> None:
        self.world = World(seed)
        for _ in range(count):
            self.do(self.world.spawn())

    def pick(self, at: int, among: list[Replica]) -> Replica:
        return among[at % len(among)]

    @property
    def reachable(self) -> list[Replica]:
        return [replica for replica in self.world.bench.replicas if replica not in self.world.cut_off]

    @rule(count=st.integers(1, 6), stream=st.booleans())
    def submit(self, count: int, stream: bool) -> None:
        self.do(self.world.submit(count, stream=stream))

    @rule(seconds=st.floats(0.01, 7.0))
    def time_passes(self, seconds: float) -> None:
        self.do(self.world.bench.clock.advance(seconds))

    @rule(share=st.sampled_from([0.0, 0.05, 0.3]))
    def trouble(self, share: float) -> None:
        world = self.world
        world.trouble = share
        world.bench.bus.faults, world.bench.bus.deliveries = world.faults, world.deliveries

    @precondition(lambda self: self.world.bench.replicas)
    @rule(at=st.integers(0, 9))
    def crash(self, at: int) -> None:
        replica = self.pick(at, self.world.bench.replicas)
        if replica in self.world.cut_off:
            self.world.cut_off.remove(replica)
        self.world.bench.kill(replica)

    @precondition(lambda self: self.reachable)
    @rule(at=st.integers(0, 9))
    def cut_off(self, at: int) -> None:
        replica = self.pick(at, self.reachable)
        self.world.cut_off.append(replica)
        self.world.bench.bus.partition(replica.name)

    @precondition(lambda self: self.world.cut_off)
    @rule()
    def heal(self) -> None:
        self.do(self.world.heal_all())

    @precondition(lambda self: self.reachable)
    @rule(at=st.integers(0, 9), grace_s=st.sampled_from([0.0, 2.0, 30.0]))
    def drain(self, at: int, grace_s: float) -> None:
        self.do(self.world.bench.stop(self.pick(at, self.reachable), grace_s=grace_s))

    @precondition(lambda self: len(self.world.bench.replicas) < MOST_REPLICAS)
    @rule()
    def spawn(self) -> None:
        self.do(self.world.spawn())

    @precondition(lambda self: self.world.jobs and self.reachable)
    @rule(at=st.integers(0, 99))
    def cancel(self, at: int) -> None:
        job = self.world.jobs[at % len(self.world.jobs)]
        mark: Any = self.reachable[0]._ports.store.mark_cancelled(job.partition("-")[0], job)
        self.do(self.world.bench.clock.run(_ignoring(mark)))

    @rule(payload=st.sampled_from(sorted(ACKNOWLEDGEMENTS.values())))
    def a_stranger_writes_over_the_lease(self, payload: bytes) -> None:
        self.world.bench.bus.write("$KV.LLM_CTL.lease.scheduler", payload)

    @invariant()
    def never_do_two_schedule(self) -> None:
        if hasattr(self, "world"):
            everybody = (*self.world.bench.replicas, *self.world.bench.dead)
            assert sum(replica.cluster.term > 0 for replica in everybody) <= 1

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.do(self.world.settle())
                self.do(self.world.check())
            finally:
                self.do(self.world.close())
        self.loop.close()


async def _ignoring(work: Awaitable[None]) -> None:
    try:
        await work
    except BusUnavailable:
        return


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
