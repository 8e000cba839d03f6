"""A replica over a server in memory, and a client's few moves, for tests of the way of a job."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from sidecar.adapters.nats.client import watchdog
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.ports import nats_ports
from sidecar.adapters.nats.server_time import ServerTime
from sidecar.adapters.nats.streams.topology import object_store
from sidecar.config.settings import Settings
from sidecar.models.codec import decode_event
from sidecar.models.event import Event
from sidecar.models.result import Result
from sidecar.ports.bus import Lane, Reply, StoredState
from sidecar.replica import Ports, Replica
from sidecar.runtime.grace import Grace
from sidecar.runtime.server_clock import ServerClock
from sidecar.telemetry.tracing import Tracer
from tests.support.jetstream.link import connect, disconnect
from tests.support.jetstream.server import FakeJetStream
from tests.support.providers import Provider, Providers, answer_as_services
from tests.support.scripted_model import ScriptedModel
from tests.support.virtual_time import VirtualClock
from tests.support.work import WorkHere

EVERY_S = 2.0
MODEL = "claude-sonnet-4-5"
PLENTY = {MODEL: {"tokens_per_minute": 1_000_000_000, "requests_per_minute": 100_000_000}}


class WrongClock:
    """A machine's clock that is `ahead_s` ahead of the one that all share; who sets that, sets the clock.

    Up to `stalled_until` (of `monotonic`) nothing that waits on it wakes, as in a process whose loop is held up.
    """

    def __init__(self, right: VirtualClock, ahead_s: float = 0.0) -> None:
        self._right = right
        self.ahead_s = ahead_s
        self.stalled_until = 0.0
        self.monotonic = self.steady = right.monotonic

    def now(self) -> float:
        return self._right.now() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await self._right.sleep(seconds)
        while (left_s := self.stalled_until - self.monotonic()) > 0:
            await self._right.sleep(left_s)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "Timer":
        return Timer(self, delay_s, callback)


class Timer:
    """A timer of a clock that may be held up."""

    def __init__(self, clock: WrongClock, delay_s: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._handle = clock._right.call_later(delay_s, self._fire)

    def cancel(self) -> None:
        self._handle.cancel()

    def _fire(self) -> None:
        left_s = self._clock.stalled_until - self._clock.monotonic()
        if left_s > 0:
            self._handle = self._clock._right.call_later(left_s, self._fire)
        else:
            self._callback()


class Bench:
    """One bus, one clock, one scripted model, and the replicas started on them."""

    def __init__(self, model: ScriptedModel, clock: VirtualClock, bus: FakeJetStream) -> None:
        self.model = model
        self.clock = clock
        self.bus = bus
        self.crashes: list[BaseException] = []
        self.tracer: Tracer | None = None
        self.replicas: list[Replica] = []
        self.dead: list[Replica] = []
        self.muxes: dict[str, Mux] = {}
        self.services: list[bytes] = []
        """What other micro services of this bus say of themselves."""
        self._asking: list[asyncio.Task[None]] = []
        self._outside: Ports | None = None
        self._providers: Providers | None = None

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
        self.bus.kill(replica.name)

    async def stop(self, replica: Replica, *, grace_s: float = 0.0) -> None:
        """SIGTERM: returns when the process would exit."""
        self.replicas.remove(replica)
        await self.clock.run(replica.drain(Grace(self.clock, grace_s)))
        await disconnect(self.muxes[replica.name])

    async def until(self, condition: Callable[[], bool], *, limit_s: float = 60.0, every_s: float = 0.02) -> float:
        """Let time pass until `condition` holds. Returns how much has passed."""
        began = self.clock.monotonic()

        async def wait() -> None:
            while not condition():
                await self.clock.sleep(every_s)

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

    async def replica(
        self, name: str = "one", *, clock: ServerClock | None = None, asks_the_time: bool = False, **settings: Any
    ) -> Replica:
        """Start one. `asks_the_time`: it keeps `clock` at the server's time itself, as a process does."""
        made = Settings(**{"nats": {"replicas": self.bus.servers}, **settings})
        mux = self.muxes[name] = await connect(self.bus, name)
        if asks_the_time and clock is not None:
            server_time = ServerTime(mux, clock)
            await self.clock.run(server_time.try_sample())
            self._asking.append(asyncio.ensure_future(server_time.run()))
        ports = nats_ports(mux, made, self.model, clock=clock or self.clock)
        replica = Replica(
            made,
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
        intake = (await self.outside()).intake
        seq = await intake.submit(Lane(tenant, job_class), payload, headers)
        return job or f"s{seq}"

    async def ask(
        self, verb: str, *tokens: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        subject = self.bus.subjects.endpoint(verb, *tokens)
        client = await self.client()
        message = await self.clock.run(client.request(subject, payload, headers=headers, timeout_s=600.0))
        return Reply(message.payload, message.headers)

    async def events(self, job: str, *, tenant: str = "acme") -> list[Event]:
        replay = (await self.outside()).publisher.replay(tenant, job)
        return [decode_event(e.payload) async for e in replay]

    async def stored(self, job: str, *, tenant: str = "acme") -> StoredState | None:
        return await (await self.outside()).store.get(tenant, job)

    async def client(self) -> Mux:
        """A client's own connection."""
        if "client" not in self.muxes:
            self.muxes["client"] = await connect(self.bus, "client")
        return self.muxes["client"]

    async def outside(self) -> Ports:
        """The ports of somebody who is no replica: for what tests do to the bus, and look at."""
        if self._outside is None:
            settings = Settings(nats={"replicas": self.bus.servers})  # type: ignore[arg-type]
            self._outside = nats_ports(await self.client(), settings, self.model, clock=self.clock)
        return self._outside

    def with_full_bucket(self, tenant: str) -> dict[str, Any]:
        """Fill a tenant's bucket of objects but for 20 kB. Returns the settings under which it stays so small."""
        settings = {"retention": {"objects_bytes": 1024**2}}
        spec = object_store(Settings(**settings), tenant)  # type: ignore[arg-type]
        self.bus.api.create({"name": spec.name, **spec.config})
        self.bus.publish(f"$O.LLM_BLOB_{tenant}.C.filler", bytes(1024**2 - 20_000))
        return settings

    async def provide(self, subject: str, provider: Provider) -> None:
        """Answer the calls of a tool."""
        if self._providers is None:
            self._providers = Providers(await self.client())
        await self._providers.provide(subject, provider)

    async def announce(self, *services: bytes) -> None:
        """Let these be what other micro services say of themselves."""
        if not self.services:
            await answer_as_services(await self.client(), lambda: self.services)
        self.services = list(services)

    async def result(self, job: str, *, tenant: str = "acme", limit_s: float = 3600.0) -> Result:
        """Let time pass until the job has its result."""

        async def wait() -> Result:
            while True:
                events = await self.events(job, tenant=tenant)
                if events and isinstance(data := events[-1].data, Result):
                    return data
                await self.clock.sleep(0.05)

        return await self.clock.run(wait(), limit_s=limit_s)

    async def close(self) -> None:
        """End all that still runs."""
        for replica in (*self.replicas, *self.dead):
            await self.clock.run(replica.drain(Grace(self.clock, 0)))
        for task in self._asking:
            task.cancel()
        if self._providers is not None:
            await self._providers.close()
        for mux in self.muxes.values():
            await disconnect(mux)


@asynccontextmanager
async def bench(model: ScriptedModel | None = None, *, servers: int = 1) -> AsyncIterator[Bench]:
    clock = model._clock if model is not None else VirtualClock()
    assert isinstance(clock, VirtualClock)
    made = Bench(model or ScriptedModel(clock), clock, FakeJetStream(clock, servers=servers))
    # So that replicas dial again after the same waits each time.
    with patch.object(watchdog, "_RANDOM", random.Random(0)):
        try:
            yield made
        finally:
            await made.close()
            assert not made.crashes
