"""A replica on the in-memory twins, and a client's few moves, for tests of the way of a job."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from sidecar.adapters.memory.blobs import MemoryBlobs
from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.checkpoints import MemoryCheckpoints
from sidecar.adapters.memory.clock import MemoryClock
from sidecar.adapters.memory.cluster_bus import MemoryClusterBus
from sidecar.adapters.memory.dead_letters import MemoryDeadLetters
from sidecar.adapters.memory.endpoints import MemoryEndpoints
from sidecar.adapters.memory.intake import MemoryIntake
from sidecar.adapters.memory.job_store import MemoryJobStore
from sidecar.adapters.memory.journal import MemoryJournal
from sidecar.adapters.memory.leases import MemoryLeaseStore
from sidecar.adapters.memory.model import ScriptedModel
from sidecar.adapters.memory.policies import MemoryPolicyStore
from sidecar.adapters.memory.prompts import MemoryPromptStore
from sidecar.adapters.memory.publisher import MemoryPublisher
from sidecar.adapters.memory.spend import MemorySpendLedger
from sidecar.adapters.memory.tool_bus import MemoryToolBus
from sidecar.adapters.memory.tool_store import MemoryToolStore
from sidecar.config.settings import Settings
from sidecar.models.codec import decode_event
from sidecar.models.event import Event
from sidecar.models.result import Result
from sidecar.ports.bus import Lane, Reply, StoredState
from sidecar.replica import Ports, Replica
from sidecar.runtime.grace import Grace
from sidecar.runtime.server_clock import ServerClock
from sidecar.telemetry.tracing import Tracer
from tests.support.work import WorkHere

EVERY_S = 2.0
MODEL = "claude-sonnet-4-5"
PLENTY = {MODEL: {"tokens_per_minute": 1_000_000_000, "requests_per_minute": 100_000_000}}


class WrongClock:
    """A machine's clock that is `ahead_s` ahead of the one that all share; who sets that, sets the clock."""

    def __init__(self, right: MemoryClock, ahead_s: float = 0.0) -> None:
        self._right = right
        self.ahead_s = ahead_s
        self.monotonic = self.steady = right.monotonic
        self.sleep, self.call_later = right.sleep, right.call_later

    def now(self) -> float:
        return self._right.now() + self.ahead_s


class Bench:
    """One bus, one clock, one scripted model, and the replicas started on them."""

    def __init__(self, model: ScriptedModel, clock: MemoryClock, bus: MemoryBus) -> None:
        self.model = model
        self.clock = clock
        self.bus = bus
        self.crashes: list[BaseException] = []
        self.tracer: Tracer | None = None
        self.replicas: list[Replica] = []
        self.dead: list[Replica] = []

    async def fleet(self, *names: str, slots: int = 4, **settings: Any) -> list[Replica]:
        """Replicas that know each other and have a scheduler, with quota for everything."""
        settings = {"models": PLENTY, "scheduler": {"slots": slots, "interactive_reserve": 0.0}, **settings}
        made = [await self.replica(name, **settings) for name in names]
        await self.clock.advance(2.5)
        return made

    @property
    def leader(self) -> Replica:
        """The one replica that schedules now, of those that live."""
        (found,) = [replica for replica in self.replicas if replica.cluster.term]
        return found

    @property
    def followers(self) -> list[Replica]:
        return [replica for replica in self.replicas if not replica.cluster.term]

    def kill(self, replica: Replica) -> None:
        """SIGKILL, as its peers see it: nothing more comes from it, nothing reaches it."""
        self.replicas.remove(replica)
        self.dead.append(replica)
        self.bus.partition(replica.name)
        self.bus.disconnect(replica.name)

    async def stop(self, replica: Replica, *, grace_s: float = 0.0) -> None:
        """SIGTERM: returns when the process would exit."""
        self.replicas.remove(replica)
        await self.clock.run(replica.drain(Grace(self.clock, grace_s)))

    async def until(self, condition: Callable[[], bool], *, limit_s: float = 60.0) -> float:
        """Let time pass until `condition` holds. Returns how much has passed."""
        began = self.clock.monotonic()

        async def wait() -> None:
            while not condition():
                await self.clock.sleep(0.02)

        await self.clock.run(wait(), limit_s=limit_s)
        return self.clock.monotonic() - began

    def requests(self) -> int:
        """How many requests still stand."""
        return len(list(self.bus.requests.find(f"{self.bus.subjects.root}.request.>")))

    def wrong_clock(self, ahead_s: float) -> ServerClock:
        """The clock of a replica whose machine's is wrong by that much; the bus's is the server's."""
        clock = ServerClock(WrongClock(self.clock, ahead_s))

        def sample() -> None:
            at = self.clock.monotonic()
            clock.observe(self.clock.now(), sent=at, received=at)
            self.clock.call_later(EVERY_S, sample)

        sample()
        return clock

    async def replica(self, name: str = "one", *, clock: ServerClock | None = None, **settings: Any) -> Replica:
        intake = MemoryIntake(self.bus, replica=name)
        ports = Ports(
            intake=intake,
            store=MemoryJobStore(self.bus, replica=name),
            publisher=MemoryPublisher(self.bus, replica=name),
            journal=MemoryJournal(self.bus, replica=name),
            endpoints=MemoryEndpoints(self.bus, replica=name),
            models=self.model,
            bus=MemoryClusterBus(self.bus, replica=name),
            leases=MemoryLeaseStore(self.bus, replica=name),
            checkpoints=MemoryCheckpoints(self.bus, replica=name),
            dead=MemoryDeadLetters(self.bus, replica=name),
            spend=MemorySpendLedger(self.bus, replica=name),
            policies=MemoryPolicyStore(self.bus, replica=name),
            blobs=MemoryBlobs(self.bus, replica=name),
            prompts=MemoryPromptStore(self.bus, replica=name),
            tools=MemoryToolStore(self.bus, replica=name),
            tool_bus=MemoryToolBus(self.bus, replica=name),
            clock=clock or self.clock,
        )
        replica = Replica(
            Settings(**settings),
            ports,
            name=name,
            on_crash=self.crashes.append,
            tracer=self.tracer,
            # Another process knows nothing of this clock.
            work=WorkHere(),
            clock_offset_s=lambda: clock.offset_s if clock else None,
        )
        self.replicas.append(replica)
        await self.clock.run(replica.start())
        await self.clock.settle()
        return replica

    async def submit(
        self,
        request: Any = None,
        *,
        tenant: str = "acme",
        job_class: str = "standard",
        job: str | None = None,
        **more: Any,
    ) -> str:
        """Publish a request. Returns the job's id."""
        headers = {"Llm-Job-Id": job} if job else {}
        if request is None:
            request = {"messages": [{"role": "user", "content": "hello"}], "model": MODEL, **more}
        payload = request if isinstance(request, bytes) else msgspec.json.encode(request)
        seq = await MemoryIntake(self.bus, replica="client").submit(Lane(tenant, job_class), payload, headers)
        return job or f"s{seq}"

    async def ask(
        self, verb: str, *tokens: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        subject = self.bus.subjects.endpoint(verb, *tokens)
        return await self.clock.run(self.bus.request(subject, payload, headers or {}))

    async def events(self, job: str, *, tenant: str = "acme") -> list[Event]:
        publisher = MemoryPublisher(self.bus, replica="client")
        return [decode_event(e.payload) async for e in publisher.replay(tenant, job)]

    async def stored(self, job: str, *, tenant: str = "acme") -> StoredState | None:
        return await MemoryJobStore(self.bus, replica="client").get(tenant, job)

    async def result(self, job: str, *, tenant: str = "acme", limit_s: float = 3600.0) -> Result:
        """Let time pass until the job has its result."""

        async def wait() -> Result:
            while True:
                events = await self.events(job, tenant=tenant)
                if events and isinstance(data := events[-1].data, Result):
                    return data
                await self.clock.sleep(0.05)

        return await self.clock.run(wait(), limit_s=limit_s)


@asynccontextmanager
async def bench(model: ScriptedModel | None = None) -> AsyncIterator[Bench]:
    clock = model._clock if model is not None else MemoryClock()
    assert isinstance(clock, MemoryClock)
    made = Bench(model or ScriptedModel(clock), clock, MemoryBus(clock))
    try:
        yield made
    finally:
        for replica in (*made.replicas, *made.dead):
            await clock.run(replica.drain(Grace(clock, 0)))
        assert not made.crashes
