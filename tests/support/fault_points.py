"""`python -m tests.support.fault_points run …`: a sidecar that kills itself at a named step of a job's way.

The job called `at-<step>` ends the process by SIGKILL at that step, once: whichever process creates the file of
that name in the folder FAULT_LATCHES dies, those that follow do not. The job `always-<step>` ends every process
that comes so far with it. Nothing of this is in the product: the ports are wrapped on their way into it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import sidecar.app
from sidecar.adapters.nats.ports import nats_ports
from sidecar.cli.main import main as run_command
from sidecar.job_manager.journal import Step
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.event import Delta, Event, Status
from sidecar.models.job import JobState
from sidecar.ports.bus import Intake, JobStore, JournalStore, Lane, ModelClient, Publisher, StoredRequest
from sidecar.ports.tools import ToolBus, ToolCall
from sidecar.replica import Ports

STEPS = (
    "read",  # the scheduler has the request
    "admitted",  # it was granted; nothing of it is written yet
    "queued",  # its queued record is written
    "claimed",  # its claim is written
    "running",  # its running event is stored
    "called",  # the model has begun to answer; nothing of it was said
    "mid-stream",  # its third delta is stored
    "answered",  # the answer is complete, not committed
    "committed",  # the terminal document is written
    "result",  # the result event is stored
    "deleted",  # the request is deleted
)
TOOL_STEPS = (
    "tool-called",  # a tool of the second turn has been called
    "result-kept",  # its result is in the journal
)
_DELTAS = 3
# The turn of the job with tools in which its owner dies.
_TURN = 2

Trip = Callable[[str, str], None]


def tripwire(folder: Path) -> Trip:
    """A function of step and job that ends this process where both fit and it is due."""

    def trip(step: str, job: str) -> None:
        if job == f"always-{step}" or (job == f"at-{step}" and is_first(step)):
            os.kill(os.getpid(), signal.SIGKILL)

    def is_first(step: str) -> bool:
        try:
            (folder / step).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    return trip


class Tripped:
    """A port whose other methods are the real one's."""

    def __init__(self, port: Any, trip: Trip) -> None:
        self._port = port
        self._trip = trip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


class TrippedIntake(Tripped):
    _port: Intake

    def __init__(self, port: Intake, trip: Trip) -> None:
        super().__init__(port, trip)
        self._jobs: dict[int, str] = {}

    async def read(self, lane: Lane, *, after_seq: int, limit: int) -> Sequence[StoredRequest]:
        found = await self._port.read(lane, after_seq=after_seq, limit=limit)
        for request in found:
            self._trip("read", self._know(request))
        return found

    async def get(self, seq: int) -> StoredRequest | None:
        found = await self._port.get(seq)
        if found is not None:
            self._know(found)
        return found

    async def delete(self, seq: int) -> None:
        await self._port.delete(seq)
        self._trip("deleted", self._jobs.get(seq, ""))

    def _know(self, request: StoredRequest) -> str:
        job = request.headers.get("Llm-Job-Id", "")
        self._jobs[request.seq] = job
        return job


class TrippedStore(Tripped):
    _port: JobStore

    async def create(self, state: JobState) -> int:
        self._before(state)
        revision = await self._port.create(state)
        self._after(state)
        return revision

    async def update(self, state: JobState, *, revision: int) -> int:
        self._before(state)
        revision = await self._port.update(state, revision=revision)
        self._after(state)
        return revision

    def _before(self, state: JobState) -> None:
        if state.is_terminal:
            self._trip("answered", state.job)
        elif state.state == "running":
            self._trip("admitted", state.job)

    def _after(self, state: JobState) -> None:
        step = "committed" if state.is_terminal else {"running": "claimed"}.get(state.state, state.state)
        self._trip(step, state.job)


class TrippedPublisher(Tripped):
    _port: Publisher

    def __init__(self, port: Publisher, trip: Trip) -> None:
        super().__init__(port, trip)
        self._deltas: dict[str, int] = {}

    async def publish(self, event: Event, *, fence: int) -> None:
        await self._port.publish(event, fence=fence)
        if isinstance(event.data, Status) and event.data.state == "running":
            self._trip("running", event.job)
        if isinstance(event.data, Delta):
            self._deltas[event.job] = self._deltas.get(event.job, 0) + 1
            if self._deltas[event.job] == _DELTAS:
                self._trip("mid-stream", event.job)

    async def publish_result(self, event: Event, *, job_class: str | None = None) -> bool:
        is_stored = await self._port.publish_result(event, job_class=job_class)
        self._trip("result", event.job)
        return is_stored


class TrippedJournal(Tripped):
    _port: JournalStore

    async def append(self, tenant: str, job: str, step: bytes, *, fence: int, keep_s: int) -> None:
        kept = msgspec.json.decode(step, type=Step)
        await self._port.append(tenant, job, step, fence=fence, keep_s=keep_s)
        if kept.turn == _TURN and kept.results:
            self._trip("result-kept", job)


class TrippedToolBus(Tripped):
    _port: ToolBus

    async def call(self, call: ToolCall) -> bytes:
        job, key = call.headers["Llm-Job-Id"], call.headers["Idempotency-Key"]
        if job == "at-tool-called" and key.split(".")[-2] == str(_TURN):
            calling = asyncio.ensure_future(self._port.call(call))
            await asyncio.wait({calling}, timeout=0.05)
            self._trip("tool-called", job)
            return await calling
        return await self._port.call(call)


class TrippedModels(Tripped):
    _port: ModelClient

    async def stream(self, call: ModelCall) -> AsyncIterator[ModelDelta | ModelReply]:
        async for item in self._port.stream(call):
            if "/at-called" in repr(call.messages):
                self._trip("called", "at-called")
            yield item


def wired_ports(*arguments: Any, **options: Any) -> Ports:
    """The real ports, wired."""
    trip = tripwire(Path(os.environ["FAULT_LATCHES"]))
    ports = nats_ports(*arguments, **options)
    wired: dict[str, Any] = {
        "intake": TrippedIntake(ports.intake, trip),
        "store": TrippedStore(ports.store, trip),
        "publisher": TrippedPublisher(ports.publisher, trip),
        "models": TrippedModels(ports.models, trip),
        "journal": TrippedJournal(ports.journal, trip),
        "tool_bus": TrippedToolBus(ports.tool_bus, trip),
    }
    return ports._replace(**wired)


def main() -> int:
    assert sidecar.app.nats_ports is nats_ports
    sidecar.app.nats_ports = wired_ports
    return run_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
