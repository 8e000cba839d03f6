"""One world with storage in it, real or in memory: what the contract tests are run in."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from sidecar.adapters.nats.blobs import NatsBlobs
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.cluster_bus import NatsClusterBus
from sidecar.adapters.nats.control import NatsCheckpoints, NatsLeaseStore
from sidecar.adapters.nats.dead_letters import NatsDeadLetters
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.adapters.nats.job_store import NatsJobStore
from sidecar.adapters.nats.journal import NatsJournal
from sidecar.adapters.nats.policies import NatsPolicyStore
from sidecar.adapters.nats.prompts import NatsPromptStore
from sidecar.adapters.nats.publisher import NatsPublisher
from sidecar.adapters.nats.spend import NatsSpendLedger
from sidecar.adapters.nats.tool_bus import NatsToolBus
from sidecar.adapters.nats.tool_store import NatsToolStore
from sidecar.config.settings import RetentionSettings, Settings, TenantPolicy
from sidecar.models.event import Delta, Event, EventData, EventType, Status
from sidecar.models.job import JobState
from sidecar.models.result import Output, Result
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import (
    Blobs,
    Clock,
    DeadLetters,
    Intake,
    JobStore,
    JournalStore,
    PromptStore,
    Publisher,
    SpendLedger,
)
from sidecar.ports.cluster import Checkpoints, ClusterBus, LeaseStore, PolicyStore
from sidecar.ports.tools import ToolBus, ToolStore
from sidecar.runtime.lifecycle import SystemClock
from tests.support.jetstream.link import connect, disconnect
from tests.support.jetstream.server import FakeJetStream
from tests.support.virtual_time import VirtualClock

MAX_QUEUE = 40
EVENTS_S = 600
OBJECTS_BYTES = 5 * 1024 * 1024
BRIEF_S = 2
FAILED_BYTES = 100_000
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Storage:
    """The ports of one replica."""

    intake: Intake
    jobs: JobStore
    publisher: Publisher
    leases: LeaseStore
    dead: DeadLetters
    checkpoints: Checkpoints
    cluster: ClusterBus
    spend: SpendLedger
    policies: PolicyStore
    blobs: Blobs
    prompts: PromptStore
    tools: ToolStore
    tool_bus: ToolBus
    journal: JournalStore


class World(Protocol):
    """`first` and `second` are two replicas on the same bus; `brief` keeps events for `BRIEF_S` only."""

    first: Storage
    second: Storage
    brief: Publisher

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for hints to arrive; fails after a long time."""
        ...

    async def elapse(self, seconds: float) -> None: ...

    def now(self) -> float:
        """Seconds since 1970, as the server counts them."""
        ...

    async def store_request(self, subject: bytes, payload: bytes, headers: Mapping[str, str]) -> int:
        """Store a request as a client could, on whatever subject the server takes."""
        ...

    async def write(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store anything under any subject, as a stranger can. Returns its sequence."""
        ...

    async def stored(self, subject: str) -> list[bytes]:
        """What lies under a subject, oldest first, whoever wrote it."""
        ...

    @property
    def foreign_writes(self) -> Mapping[str, int]:
        """What `first` has met of strangers', by bucket."""
        ...


def nats_storage(mux: Mux, *, is_replicated: bool, clock: Clock | None = None) -> Storage:
    subjects, clock = Subjects(), clock or SystemClock()
    return Storage(
        NatsIntake(mux, subjects, is_replicated=is_replicated),
        NatsJobStore(mux, is_replicated=is_replicated),
        NatsPublisher(mux, subjects, events_s=EVENTS_S, is_replicated=is_replicated),
        NatsLeaseStore(mux, is_replicated=is_replicated, monotonic=clock.monotonic),
        NatsDeadLetters(mux, subjects, failed_bytes=FAILED_BYTES, is_replicated=is_replicated),
        NatsCheckpoints(mux, is_replicated=is_replicated),
        NatsClusterBus(mux, subjects),
        NatsSpendLedger(mux, subjects, is_replicated=is_replicated),
        NatsPolicyStore(mux, is_replicated=is_replicated),
        NatsBlobs(mux, bus_settings(), clock=clock),
        NatsPromptStore(mux, is_replicated=is_replicated),
        NatsToolStore(mux, subjects, is_replicated=is_replicated),
        NatsToolBus(mux, now=clock.now),
        NatsJournal(mux, is_replicated=is_replicated),
    )


class NatsWorld:
    """`is_replicated` makes the adapters ask the leader, as with three replicas; one is enough to try it."""

    def __init__(self, first: Mux, second: Mux, *, is_replicated: bool, clock: Clock | None = None) -> None:
        self.mux, self.other = first, second
        self.first, self.second = (
            nats_storage(mux, is_replicated=is_replicated, clock=clock) for mux in (first, second)
        )
        self.brief = NatsPublisher(first, Subjects(), events_s=BRIEF_S, is_replicated=is_replicated)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - whatever a test asks for has no event
                await asyncio.sleep(0.01)

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return time.time()

    async def store_request(self, subject: bytes, payload: bytes, headers: Mapping[str, str]) -> int:
        # Sent by hand: the mux takes no subject that is not text.
        before = await self.first.intake.last_seq()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        block = f"NATS/1.0\r\n{lines}\r\n".encode()
        size = b"%d %d" % (len(block), len(block) + len(payload))
        self.mux.connection.send(b"HPUB %b %b\r\n%b%b\r\n" % (subject, size, block, payload))
        for _ in range(int(PATIENCE_S / 0.01)):
            if await self.first.intake.last_seq() > before:
                break
            await asyncio.sleep(0.01)
        assert await self.first.intake.last_seq() == before + 1
        return before + 1

    async def write(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> int:
        return (await self.mux.store(subject, payload, headers=headers)).seq

    async def stored(self, subject: str) -> list[bytes]:
        (name,) = (await self.mux.api("STREAM.NAMES", {"subject": subject}))["streams"]
        reader = StreamReader(self.mux, name, is_replicated=True)
        return [item.payload async for item in reader.scan(subject, seq=1)]

    @property
    def foreign_writes(self) -> Mapping[str, int]:
        return self.mux.foreign_writes.counts


class MemoryWorld(NatsWorld):
    """The real adapters over a server in memory, in virtual time."""

    def __init__(
        self, first: Mux, second: Mux, *, is_replicated: bool, clock: VirtualClock, bus: FakeJetStream
    ) -> None:
        super().__init__(first, second, is_replicated=is_replicated, clock=clock)
        self.clock = clock
        self.bus = bus

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.clock.settle()
        assert condition()

    async def elapse(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def now(self) -> float:
        return self.clock.now()


@asynccontextmanager
async def memory_world(*, is_replicated: bool = False, servers: int = 1) -> AsyncIterator[MemoryWorld]:
    """`is_replicated` makes the adapters ask the leader; more `servers` give it a reason."""
    clock = VirtualClock()
    bus = FakeJetStream(clock, settings=bus_settings(), servers=servers)
    muxes = [await connect(bus, name) for name in ("first", "second")]
    try:
        yield MemoryWorld(*muxes, is_replicated=is_replicated, clock=clock, bus=bus)
    finally:
        for mux in muxes:
            await disconnect(mux)


@cache
def bus_settings() -> Settings:
    """Settings under which the streams are made for contract tests: small and short-lived."""
    return Settings.model_construct(
        **{
            **Settings().model_dump(),
            **{name: getattr(Settings(), name) for name in Settings.model_fields},
            "tenants": {"default": TenantPolicy(max_queue=MAX_QUEUE)},
            "retention": RetentionSettings(requests_bytes=1 << 27, objects_bytes=OBJECTS_BYTES),
        }
    )


def job_state(job: str = "j1", tenant: str = "acme", **more: Any) -> JobState:
    fields: dict[str, Any] = {
        "job_class": "batch",
        "state": "queued",
        "attempt": 0,
        "owner": None,
        "model": None,
        "request_seq": 1,
        "created": "2026-11-22T10:00:00.000Z",
        "updated": "2026-11-22T10:00:00.000Z",
    }
    return JobState(job=job, tenant=tenant, **{**fields, **more})


def event(
    n: int = 1,
    data: EventData | None = None,
    *,
    kind: EventType | None = None,
    job: str = "j1",
    tenant: str = "acme",
    attempt: int = 1,
) -> Event:
    data = data or Delta(index=0, text=f"piece {n}")
    kinds: dict[type[Any], EventType] = {Delta: "delta", Status: "status", Result: "result"}
    return Event(
        job=job,
        tenant=tenant,
        type=kind or kinds[type(data)],
        attempt=attempt,
        n=n,
        time="2026-11-22T10:00:00.000Z",
        metadata={},
        data=data,
    )


def result(text: str = "done") -> Result:
    return Result(state="succeeded", output=Output(text=text), stop_reason="end_turn")
