"""CPU of this process for each storage operation, on a real nats-server of its own.

    python -m benchmarks.storage_cpu [--count 2000] [--workers 32]

One job is: read the request, look for a mark of cancellation, create and claim the state, two events, the
commit, the result, the deletion. The server's own CPU is not counted.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import NatsServer
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.adapters.nats.job_store import NatsJobStore
from sidecar.adapters.nats.publisher import NatsPublisher
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings, Settings, TenantPolicy
from sidecar.models.event import Delta, Event, EventData, EventType, Status
from sidecar.models.job import JobState, State
from sidecar.models.result import Output, Result
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Lane

Operation = Callable[[int], Awaitable[object]]

_LANE = Lane("acme", "batch")
_PAYLOAD = b'{"messages":[{"role":"user","content":"What is JetStream?"}]}'
_TIME = "2026-11-22T10:00:00.000Z"
_RESULT = Result(state="succeeded", output=Output(text="word " * 60), stop_reason="end_turn")


def _state(i: int, state: State, *, result: Result | None = None) -> JobState:
    return JobState(
        job=f"j{i}",
        tenant="acme",
        job_class="batch",
        state=state,
        attempt=1,
        owner="replica-1",
        model="nova-lite",
        request_seq=i + 1,
        created=_TIME,
        updated=_TIME,
        result=result,
    )


def _event(i: int, kind: EventType, data: EventData, n: int) -> Event:
    return Event(job=f"j{i}", tenant="acme", type=kind, attempt=1, n=n, time=_TIME, metadata={}, data=data)


async def _measure(name: str, count: int, workers: int, operation: Operation) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for i in numbers:
            await operation(i)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:<14} {cpu / count * 1e6:8.0f} us CPU {wall / count * 1e6:8.0f} us wall {count / wall:8.0f} /s")


class _Jobs:
    """The steps of jobs, by their number."""

    def __init__(self, mux: Mux, count: int) -> None:
        self.intake, self.jobs = NatsIntake(mux, Subjects()), NatsJobStore(mux)
        self._publisher = NatsPublisher(mux, Subjects(), events_s=3600)
        self._count = count
        self._fences: dict[int, int] = {}

    async def submit(self, _: int) -> None:
        await self.intake.submit(_LANE, _PAYLOAD, {"Llm-Job-Id": "j"})

    async def create(self, i: int) -> None:
        self._fences[i] = await self.jobs.create(_state(i, "queued"))

    async def claim(self, i: int) -> None:
        self._fences[i] = await self.jobs.update(_state(i, "running"), revision=self._fences[i])

    async def commit(self, i: int) -> None:
        await self.jobs.update(_state(i, "succeeded", result=_RESULT), revision=self._fences[i])

    async def status(self, i: int) -> None:
        await self._publisher.publish(_event(i, "status", Status(state="running"), 1), fence=self._fences[i])

    async def delta(self, i: int) -> None:
        text = Delta(index=0, text="word " * 20)
        await self._publisher.publish(_event(i, "delta", text, 2), fence=self._fences[i])

    async def result(self, i: int) -> None:
        await self._publisher.publish_result(_event(i, "result", _RESULT, 3))

    async def whole(self, i: int) -> None:
        i += self._count
        await self.intake.get(i + 1)
        await self.jobs.is_cancelled("acme", f"j{i}")
        for step in (self.create, self.claim, self.status, self.delta, self.commit, self.result):
            await step(i)
        await self.intake.delete(i + 1)


async def _run(mux: Mux, count: int, workers: int) -> None:
    steps = _Jobs(mux, count)
    intake, jobs = steps.intake, steps.jobs
    operations: dict[str, Operation] = {
        "submit": steps.submit,
        "intake.get": lambda i: intake.get(i + 1),
        "intake.read 16": lambda i: intake.read(_LANE, after_seq=i, limit=16),
        "is_cancelled": lambda i: jobs.is_cancelled("acme", f"j{i}"),
        "create": steps.create,
        "state get": lambda i: jobs.get("acme", f"j{i}"),
        "claim": steps.claim,
        "publish status": steps.status,
        "publish delta": steps.delta,
        "commit": steps.commit,
        "publish result": steps.result,
        "delete": lambda i: intake.delete(i + 1),
    }
    for name, operation in operations.items():
        await _measure(name, count, workers, operation)
    for i in range(count):
        await steps.submit(i)
    await _measure("a whole job", count, workers, steps.whole)


async def _main(url: str, count: int, workers: int) -> None:
    connection = Connection(NatsSettings(url=url), environment=NatsEnvironment)
    await connection.start()
    mux = Mux(connection, timeout_s=30)
    await mux.start()
    await ensure(mux, Settings(tenants={"default": TenantPolicy(max_queue=count * 3)}))
    await _run(mux, count, workers)
    await mux.close()
    await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=32)
    arguments = parser.parse_args()
    server = NatsServer()
    server.start()
    try:
        asyncio.run(_main(server.url, arguments.count, arguments.workers))
    finally:
        server.stop()
