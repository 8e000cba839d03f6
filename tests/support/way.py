"""The whole way of a job with the real Bedrock client: bus in memory, real time, an endpoint over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from sidecar.adapters.bedrock.credentials import CredentialSource
from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.ports import nats_ports
from sidecar.config.settings import Settings
from sidecar.models.codec import decode_event
from sidecar.models.event import Delta, Event, Status
from sidecar.models.result import Result
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Lane
from sidecar.replica import Ports, Replica
from sidecar.runtime.grace import Grace
from sidecar.runtime.lifecycle import SystemClock
from tests.support.jetstream.link import connect, disconnect
from tests.support.jetstream.server import FakeJetStream
from tests.support.providers import Providers

SUBJECTS = Subjects()
PATIENCE_S = 60.0
FIRST, SECOND = "claude-sonnet-4-5", "nova-lite"
FIRST_ID = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SECOND_ID = "amazon.nova-lite-v1:0"


class Way:
    """A client's few moves, and the replica that serves them."""

    def __init__(self, mux: Mux, outside: Ports, replica: Replica, client: Any) -> None:
        self.mux = mux
        self.outside = outside
        self.providers = Providers(mux)
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
        payload = msgspec.json.encode(fields)
        return f"s{await self.outside.intake.submit(Lane(tenant, job_class), payload, {})}"

    async def events(self, job: str, *, tenant: str = "acme") -> list[Event]:
        return [decode_event(e.payload) async for e in self.outside.publisher.replay(tenant, job)]

    async def result(self, job: str, *, tenant: str = "acme") -> Result:
        """The job's one result."""
        waiter = await self.outside.publisher.wait_result(tenant, job)
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
        await self.mux.request(SUBJECTS.endpoint("cancel", tenant, job))

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
    bus = FakeJetStream(clock)
    client = models or BedrockManager(made.bedrock)
    if models is None:
        await client.start()
    crashes: list[BaseException] = []
    one, other = await connect(bus, "one"), await connect(bus, "client")
    replica = Replica(made, nats_ports(one, made, client, clock=clock), name="one", on_crash=crashes.append)
    await replica.start()
    on = Way(other, nats_ports(other, made, client, clock=clock), replica, client)
    try:
        yield on
        assert not crashes
    finally:
        await replica.drain(Grace(clock, 0))
        await on.providers.close()
        await disconnect(one)
        await disconnect(other)
        if models is None:
            await client.close()
