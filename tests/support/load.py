"""A load of jobs that can be held to account afterwards, whatever happens to the servers meanwhile."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from tests.support.audit import Findings, audit, calls_by_job, last, prompt
from tests.support.emulator import EmulatorProcess
from tests.support.process import MODEL

LIMIT_S = 180.0
POLL_S = 0.1
# The emulator remembers its last calls; read them before they are forgotten.
COLLECT_S = 1.0
COLLECTED = 500


@dataclass
class Load:
    """Jobs of one tenant, published with acknowledgement, whatever happens to the servers meanwhile."""

    connection: Client
    tenant: str
    emulator: EmulatorProcess
    jobs: list[str] = field(default_factory=list)
    streamed: set[str] = field(default_factory=set)
    results: Counter[str] = field(default_factory=Counter)
    events: list[dict[str, Any]] = field(default_factory=list)
    _calls: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        async def hear(message: Any) -> None:
            event = json.loads(message.data)
            event["heard_at"] = time.monotonic()
            if event["type"] == "result":
                self.results[event["job"]] += 1
            else:
                self.events.append(event)
            self._changed.set()

        subject = f"llm.v1.job.{self.tenant}.>"
        await self.connection.subscribe(subject, cb=hear, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await self.connection.flush()

    async def submit(
        self, job: str, *, behave: str, is_streamed: bool = True, job_class: str = "standard"
    ) -> None:
        """Publish until the stream has acknowledged it."""
        request = {
            "messages": [{"role": "user", "content": prompt(self.tenant, job, behave=behave)}],
            "model": MODEL,
            "stream": is_streamed,
            "params": {"max_tokens": 256},
        }
        headers = {"Llm-Job-Id": job, "Nats-Msg-Id": f"{self.tenant}:{job}"}
        subject = f"llm.v1.request.{self.tenant}.{job_class}"
        self.jobs.append(job)
        if is_streamed:
            self.streamed.add(job)
        async with asyncio.timeout(LIMIT_S):
            while True:
                with suppress(NatsError, TimeoutError):
                    reply = await self.connection.request(
                        subject, json.dumps(request).encode(), timeout=5, headers=headers
                    )
                    if b'"error"' not in reply.data:
                        return
                await asyncio.sleep(0.2)

    async def submit_many(self, count: int, *, behave: str, over_s: float = 0.0, prefix: str = "j") -> None:
        """Jobs at an even pace, every second one streamed."""
        began = time.monotonic()
        for i in range(count):
            await self.submit(f"{prefix}{i}", behave=behave, is_streamed=i % 2 == 0)
            await asyncio.sleep(max(0.0, began + over_s * (i + 1) / count - time.monotonic()))

    async def until_called(self, wanted: Iterable[str]) -> None:
        """Wait until the provider was called for each of these jobs."""
        async with asyncio.timeout(LIMIT_S):
            while set(wanted) - set(self.calls):
                await asyncio.sleep(POLL_S)
                await self._collect()

    async def until(self, is_enough: Callable[[], bool], *, limit_s: float = LIMIT_S) -> None:
        """Wait until `is_enough()`; asked whenever an event was heard, and now and then."""
        async with asyncio.timeout(limit_s):
            while not is_enough():
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 1.0)

    async def until_ended(self, *, limit_s: float = LIMIT_S) -> None:
        """Wait until every job's result is stored; what was heard may have gaps, the stream has none."""
        missing = set(self.jobs)
        async with asyncio.timeout(limit_s):
            while missing:
                await asyncio.sleep(POLL_S)
                missing -= set(self.results)
                for job in sorted(missing)[:20]:
                    with suppress(NatsError, TimeoutError):
                        if await last(self.connection, "KV_LLM_JOB", f"llm.v1.log.{self.tenant}.{job}.result"):
                            missing.discard(job)

    async def collect_calls(self) -> None:
        """Take down what the emulator was asked, before it forgets. Runs until it is cancelled."""
        while True:
            await self._collect()
            await asyncio.sleep(COLLECT_S)

    async def _collect(self) -> None:
        path = f"calls?bodies=1&last={COLLECTED}"
        for call in await asyncio.to_thread(self.emulator.control, "GET", path):
            self._calls[call["number"]] = call

    @property
    def calls(self) -> Counter[str]:
        """By job."""
        return calls_by_job(self._calls.values(), self.tenant)

    def aborted_at(self) -> dict[str, float]:
        """When the provider saw its client leave, by job, in seconds since 1970."""
        return {
            job: call["aborted_at"]
            for call in self._calls.values()
            if call["aborted_at"] is not None
            for job in calls_by_job([call], self.tenant)
        }

    async def settle(self) -> Findings:
        """The audit, once what follows a result (the request's deletion) has been done, or is not done in time."""
        await self._collect()
        until = time.monotonic() + 30.0
        while True:
            found = await audit(
                self.connection, self.tenant, self.jobs, self.calls, streamed=frozenset(self.streamed)
            )
            if not found.requests_left or time.monotonic() > until:
                return found
            await asyncio.sleep(0.5)


@asynccontextmanager
async def load(
    nats_url: str, emulator: EmulatorProcess, *, tenant: str, is_counting: bool = True
) -> AsyncIterator[Load]:
    """A client that listens, and takes down the provider's calls where they are to be counted."""

    async def quiet(_: Exception) -> None:
        return None

    connection = await nats.connect(
        nats_url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet
    )
    made = Load(connection, tenant, emulator)
    await made.listen()
    counting = asyncio.create_task(made.collect_calls()) if is_counting else None
    try:
        yield made
    finally:
        if counting is not None:
            counting.cancel()
            await asyncio.wait({counting})
        await connection.close()
