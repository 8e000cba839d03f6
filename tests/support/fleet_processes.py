"""Several `sidecar run` on one NATS server, killed and restarted, and what the stored jobs tell afterwards."""

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.dead_letters import NatsDeadLetters
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.adapters.nats.job_store import NatsJobStore
from sidecar.adapters.nats.publisher import NatsPublisher
from sidecar.config.settings import NatsSettings
from sidecar.errors import BusUnavailable
from sidecar.models.codec import decode_event
from sidecar.models.event import Event
from sidecar.models.result import Result
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Lane
from tests.support.nats_server import no_environment
from tests.support.process import MODEL, ROOT, SidecarProcess

PATIENCE_S = 180.0


class Observer:
    """A client with the right to look at the streams."""

    def __init__(self, mux: Mux) -> None:
        subjects = Subjects()
        self.intake = NatsIntake(mux, subjects)
        self.store = NatsJobStore(mux)
        self.publisher = NatsPublisher(mux, subjects, events_s=3600)
        self.dead = NatsDeadLetters(mux, subjects)

    async def submit(self, job: str, prompt: str, *, tenant: str = "acme", **fields: Any) -> str:
        """Publish a request, again and again until it is stored. Returns its id."""
        body = {"messages": [{"role": "user", "content": prompt}], "model": MODEL, **fields}
        headers = {"Llm-Job-Id": job, "Nats-Msg-Id": f"{tenant}:{job}"}
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.intake.submit(Lane(tenant, "standard"), msgspec.json.encode(body), headers)
                    return job
                except BusUnavailable:
                    await asyncio.sleep(0.2)

    async def until_done(self, *, limit_s: float = PATIENCE_S) -> None:
        """Wait until no request stands any more."""
        async with asyncio.timeout(limit_s):
            while (await self.intake.backlog()).counts:  # noqa: ASYNC110 - the end of all has no event
                await asyncio.sleep(0.1)

    async def until_event(self, job: str, *, tenant: str = "acme") -> None:
        """Wait until a job has begun: an attempt of it has said something."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(event.attempt for event in await self.events(job, tenant=tenant)):  # noqa: ASYNC110 - stored
                await asyncio.sleep(0.05)

    async def owner(self, job: str, *, tenant: str = "acme") -> str | None:
        """Who holds the job, by its document."""
        stored = await self.store.get(tenant, job)
        return None if stored is None else stored.state.owner

    async def events(self, job: str, *, tenant: str = "acme") -> list[Event]:
        return [decode_event(e.payload) async for e in self.publisher.replay(tenant, job)]

    async def check(self, jobs: Sequence[str]) -> Counter[str]:
        """Hold every promise against what is stored. Returns how the jobs ended, and their attempts."""
        seen: Counter[str] = Counter()
        for job in jobs:
            events = await self.events(job)
            results = [event for event in events if isinstance(event.data, Result)]
            assert len(results) == 1, f"{job} has {len(results)} results: {events}"
            assert events[-1] is results[0], f"{job} speaks after its end"
            attempts = [event.attempt for event in events]
            assert attempts == sorted(attempts), f"an old owner of {job} spoke: {attempts}"
            stored = await self.store.get("acme", job)
            assert stored is not None
            assert stored.state.is_terminal, f"{job} is stuck in {stored.state.state}"
            assert stored.state.result == results[0].data
            seen[results[0].data.state] += 1
            seen[f"attempt {stored.state.attempt}"] += 1
            seen["repeated"] += stored.state.attempt > 1
        return seen


@asynccontextmanager
async def observer(nats_url: str) -> AsyncIterator[Observer]:
    connection = Connection(NatsSettings(url=nats_url), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=10.0)
    await mux.start()
    try:
        yield Observer(mux)
    finally:
        await mux.close()
        await connection.close()


class Fleet:
    """Replicas as processes. Use as a context manager: whatever still runs at the end is killed by its pid."""

    def __init__(self, nats_url: str, bedrock_url: str, *, seed: int = 1, **settings: Any) -> None:
        self._urls = nats_url, bedrock_url
        self._settings = {"admin": {"host": "127.0.0.1"}, "scheduler": {"slots": 32}, **settings}
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._random = random.Random(seed)
        self.running: list[SidecarProcess] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def spawn(self, *, root: Path = ROOT, ahead_s: float = 0.0) -> SidecarProcess:
        """Start one more; it is not waited for. `root` is the checkout whose code it runs, `ahead_s` how far its
        machine's clock is ahead.
        """
        how: dict[str, Any] = {"root": root}
        if ahead_s:
            how |= {"module": "tests.support.wrong_clock", "environment": {"WRONG_CLOCK_S": str(ahead_s)}}
        process = self._stack.enter_context(SidecarProcess(*self._urls, **{**self._settings, **how}))
        self.running.append(process)
        return process

    async def start(self, count: int, *, root: Path = ROOT) -> None:
        for process in [self.spawn(root=root) for _ in range(count)]:
            await asyncio.to_thread(process.wait_ready)

    async def scheduler(self) -> SidecarProcess:
        """The process that schedules, as soon as there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for process in self.running:
                    _, info = await asyncio.to_thread(process.get, "/info")
                    if info and info["is_scheduler"]:
                        return process
                await asyncio.sleep(0.02)

    def kill(self, process: SidecarProcess | None = None) -> None:
        """SIGKILL one, a random one by default."""
        process = process or self._random.choice(self.running)
        self.running.remove(process)
        process.kill()

    async def stop(self, process: SidecarProcess) -> int:
        """SIGTERM. Returns the exit code."""
        self.running.remove(process)
        process.signal(signal.SIGTERM)
        return await asyncio.to_thread(process.wait)
