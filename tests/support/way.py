"""The whole way of a job with the real Bedrock client: bus in memory, real time, an endpoint over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from sidecar.adapters.bedrock.credentials import CredentialSource
from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.adapters.memory.blobs import MemoryBlobs
from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.checkpoints import MemoryCheckpoints
from sidecar.adapters.memory.cluster_bus import MemoryClusterBus
from sidecar.adapters.memory.dead_letters import MemoryDeadLetters
from sidecar.adapters.memory.endpoints import MemoryEndpoints
from sidecar.adapters.memory.intake import MemoryIntake
from sidecar.adapters.memory.job_store import MemoryJobStore
from sidecar.adapters.memory.journal import MemoryJournal
from sidecar.adapters.memory.leases import MemoryLeaseStore
from sidecar.adapters.memory.policies import MemoryPolicyStore
from sidecar.adapters.memory.prompts import MemoryPromptStore
from sidecar.adapters.memory.publisher import MemoryPublisher
from sidecar.adapters.memory.spend import MemorySpendLedger
from sidecar.adapters.memory.tool_bus import MemoryToolBus
from sidecar.adapters.memory.tool_store import MemoryToolStore
from sidecar.config.settings import Settings
from sidecar.models.codec import decode_event
from sidecar.models.event import Delta, Event, Status
from sidecar.models.result import Result
from sidecar.ports.bus import Lane
from sidecar.replica import Ports, Replica
from sidecar.runtime.grace import Grace
from sidecar.runtime.lifecycle import SystemClock

PATIENCE_S = 60.0
FIRST, SECOND = "claude-sonnet-4-5", "nova-lite"
FIRST_ID = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SECOND_ID = "amazon.nova-lite-v1:0"


class Way:
    """A client's few moves, and the replica that serves them."""

    def __init__(self, bus: MemoryBus, replica: Replica, client: Any) -> None:
        self.bus = bus
        self.replica = replica
        self._client = client

    def credentials(self) -> CredentialSource:
        """Where the real client has its keys from."""
        assert isinstance(self._client, BedrockManager)
        assert self._client._credentials is not None
        return self._client._credentials

    async def submit(
        self,
        content: Any = "hello",
        *,
        tenant: str = "acme",
        job_class: str = "standard",
        **fields: Any,
    ) -> str:
        """Publish a request. Returns the job's id."""
        fields.setdefault("messages", [{"role": "user", "content": content}])
        intake = MemoryIntake(self.bus, replica="client")
        return f"s{await intake.submit(Lane(tenant, job_class), msgspec.json.encode(fields), {})}"

    async def events(self, job: str, *, tenant: str = "acme") -> list[Event]:
        publisher = MemoryPublisher(self.bus, replica="client")
        return [decode_event(e.payload) async for e in publisher.replay(tenant, job)]

    async def result(self, job: str, *, tenant: str = "acme") -> Result:
        """The job's one result."""
        publisher = MemoryPublisher(self.bus, replica="client")
        waiter = await publisher.wait_result(tenant, job)
        try:
            if (await self.results(job, tenant=tenant)) == []:
                await asyncio.wait_for(waiter.payload(), PATIENCE_S)
        finally:
            await waiter.close()
        results = await self.results(job, tenant=tenant)
        assert len(results) == 1, "exactly one result per job"
        return results[0]

    async def results(self, job: str, *, tenant: str = "acme") -> list[Result]:
        return [e.data for e in await self.events(job, tenant=tenant) if isinstance(e.data, Result)]

    async def ask(self, content: Any = "hello", **fields: Any) -> Result:
        """Submit, and wait for the result."""
        return await self.result(await self.submit(content, **fields))

    async def cancel(self, job: str, *, tenant: str = "acme") -> None:
        await self.bus.request(self.bus.subjects.endpoint("cancel", tenant, job), b"", {})

    async def until_state(self, job: str, state: str) -> Status:
        """Wait until the job has said that it is in `state`."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for event in await self.events(job):
                    if isinstance(event.data, Status) and event.data.state == state:
                        return event.data
                await asyncio.sleep(0.01)


def texts(events: list[Event], *, attempt: int) -> str:
    """What a client that heeds attempts has shown of one of them."""
    pieces = [e.data.text or "" for e in events if e.attempt == attempt and isinstance(e.data, Delta)]
    return "".join(pieces)


def statuses(events: list[Event]) -> list[Status]:
    return [e.data for e in events if isinstance(e.data, Status)]


@asynccontextmanager
async def way(
    endpoint_url: str | None, *, models: Any = None, models_policy: Any = None, **settings: Any
) -> AsyncIterator[Way]:
    """A replica whose Bedrock is at `endpoint_url`; `models` takes the place of the real client."""
    bedrock = {"endpoint_url": endpoint_url, "max_connections": 600, **settings.pop("bedrock", {})}
    made = Settings(bedrock=bedrock, models=models_policy or {}, **settings)
    clock = SystemClock()
    bus = MemoryBus(clock)
    client = models or BedrockManager(made.bedrock)
    if models is None:
        await client.start()
    crashes: list[BaseException] = []
    ports = _ports(bus, client, clock)
    replica = Replica(made, ports, name="one", on_crash=crashes.append)
    await replica.start()
    try:
        yield Way(bus, replica, client)
        assert not crashes
    finally:
        await replica.drain(Grace(clock, 0))
        if models is None:
            await client.close()


def _ports(bus: MemoryBus, client: Any, clock: SystemClock) -> Ports:
    twins: dict[str, Any] = {
        "intake": MemoryIntake(bus, replica="one"),
        "store": MemoryJobStore(bus, replica="one"),
        "publisher": MemoryPublisher(bus, replica="one"),
        "journal": MemoryJournal(bus, replica="one"),
        "endpoints": MemoryEndpoints(bus, replica="one"),
        "bus": MemoryClusterBus(bus, replica="one"),
        "leases": MemoryLeaseStore(bus, replica="one"),
        "checkpoints": MemoryCheckpoints(bus, replica="one"),
        "dead": MemoryDeadLetters(bus, replica="one"),
        "spend": MemorySpendLedger(bus, replica="one"),
        "policies": MemoryPolicyStore(bus, replica="one"),
        "blobs": MemoryBlobs(bus, replica="one"),
        "prompts": MemoryPromptStore(bus, replica="one"),
        "tools": MemoryToolStore(bus, replica="one"),
        "tool_bus": MemoryToolBus(bus, replica="one"),
        "models": client,
        "clock": clock,
    }
    return Ports(**{name: twins[name] for name in Ports._fields})
