"""A backlog on a real bus, published before anybody works, and the order in which its jobs run."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.config.settings import Settings
from sidecar.models.subjects import Subjects
from tests.support.nats_server import Access, no_environment
from tests.support.process import MODEL

PATIENCE_S = 120.0
AT_ONCE = 500


class Ran(NamedTuple):
    """A job that ended: whose, and the quota tokens of its settled usage."""

    tenant: str
    job_class: str
    tokens: int
    state: str
    text: str


class Queue:
    """`ran` are jobs in the order of their results, `begun` the tenants of jobs in the order of their starts."""

    def __init__(self, mux: Mux) -> None:
        self.mux = mux
        self.ran: list[Ran] = []
        self.begun: list[str] = []
        self._changed = asyncio.Event()
        self._classes: dict[str, str] = {}

    async def listen(self) -> None:
        await self.mux.subscribe("llm.v1.job.*.*.result", self._on_result)
        await self.mux.subscribe("llm.v1.job.*.*.status", self._on_status)

    def _on_result(self, message: BusMessage) -> None:
        event = msgspec.json.decode(message.payload)
        usage = event["data"]["usage"]
        tokens = usage["input_tokens"] + usage["output_tokens"]
        text = event["data"]["output"]["text"]
        job_class = self._classes.get(event["job"], "")
        self.ran.append(Ran(event["tenant"], job_class, tokens, event["data"]["state"], text))
        self._changed.set()

    def _on_status(self, message: BusMessage) -> None:
        event = msgspec.json.decode(message.payload)
        if event["data"]["state"] == "running":
            self.begun.append(event["tenant"])
            self._changed.set()

    async def publish(
        self, tenant: str, count: int, *, prompt: str, job_class: str = "standard", max_tokens: int = 60
    ) -> None:
        """Queue jobs; returns when all are stored."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": prompt}],
            "model": MODEL,
            "params": {"max_tokens": max_tokens},
        }
        payload = msgspec.json.encode(body)
        subject = Subjects().request(tenant, job_class)
        for start in range(0, count, AT_ONCE):
            jobs = [f"{tenant}-{job_class}-{n}" for n in range(start, min(start + AT_ONCE, count))]
            self._classes.update(dict.fromkeys(jobs, job_class))
            await asyncio.gather(*(self.mux.store(subject, payload, headers={"Llm-Job-Id": job}) for job in jobs))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def first(self, count: int) -> list[Ran]:
        """The first `count` jobs that ended."""
        await self.until(lambda: len(self.ran) >= count)
        return self.ran[:count]


def tokens_by(ran: list[Ran], key: Callable[[Ran], str]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for job in ran:
        counted[key(job)] += job.tokens
    return counted


@asynccontextmanager
async def queue(access: Access) -> AsyncIterator[Queue]:
    """Streams as a sidecar would make them, and nobody who works yet."""
    connection = Connection(access.settings(), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=60.0)
    await mux.start()
    try:
        await ensure(mux, Settings())
        made = Queue(mux)
        await made.listen()
        yield made
    finally:
        await mux.close()
        await connection.close()
