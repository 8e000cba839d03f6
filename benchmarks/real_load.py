"""Jobs on a real bus, and what is heard of each: when it was sent, begun and ended, and whether it met a fault."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, pairwise

import msgspec

from benchmarks.measures import arrivals, percentile
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings
from sidecar.errors import BusRefused, BusUnavailable
from sidecar.models.subjects import HEADER_JOB_ID, Subjects
from tests.support.process import MODEL

CHARACTERS_A_TOKEN = 4
_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of call: tokens in and out, its time, and what else the emulator is told."""

    input_tokens: int = 40
    output_tokens: int = 20
    max_tokens: int | None = None
    call_s: float = 0.2
    behave: str = ""
    model: str | tuple[str, ...] = MODEL
    tools: tuple[str, ...] = ()
    stream: bool = False
    schema: Mapping[str, object] | None = None

    def cost(self, burndown: float) -> float:
        return self.input_tokens + burndown * self.output_tokens

    def request(self, more: str = "") -> bytes:
        """The payload; `more` is a further directive of one job."""
        say = f"[[tokens={self.output_tokens} latency_ms={self.call_s * 1000:.0f}]]{self.behave}{more} "
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": say.ljust(self.input_tokens * CHARACTERS_A_TOKEN, "x")}],
            "model": self.model,
            "params": {"max_tokens": self.max_tokens or 2 * self.output_tokens},
        }
        if self.tools:
            body["tools"] = self.tools
        if self.stream:
            body["stream"] = True
        if self.schema is not None:
            body["output"] = {"schema": self.schema}
        return msgspec.json.encode(body)


@dataclass(slots=True)
class Sent:
    """A job; times are seconds of the monotonic clock, `begun_at` its first running event's."""

    job: str
    tenant: str
    at: float
    begun_at: float | None = None
    ended_at: float | None = None
    state: str = ""
    error: str = ""
    calls: int = 0

    @property
    def met_fault(self) -> bool:
        return self.calls > 1

    def waited_s(self, now: float) -> float:
        """Until it began; one that has not begun waits still."""
        return (self.begun_at if self.begun_at is not None else now) - self.at


class _Error(msgspec.Struct):
    code: str = ""


class _Data(msgspec.Struct):
    state: str = ""
    attempts: Sequence[msgspec.Raw] = ()
    error: _Error | None = None


class _Heard(msgspec.Struct):
    job: str
    data: _Data


_decode = msgspec.json.Decoder(_Heard).decode


@dataclass
class Traffic:
    """Publishes jobs and listens. One for each run of a case."""

    mux: Mux
    jobs: dict[str, Sent] = field(default_factory=dict)
    begun: list[Sent] = field(default_factory=list)
    ended: list[Sent] = field(default_factory=list)
    on_end: list[Callable[[Sent], None]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        await self.mux.subscribe("llm.v1.job.*.*.status", self._hear_status)
        await self.mux.subscribe("llm.v1.job.*.*.result", self._hear_result)

    async def submit(self, tenant: str, payload: bytes, *, job_class: str = "standard") -> Sent | None:
        """Publish until it is stored, also while servers are away; None where the server says that the queue is
        full.
        """
        sent = Sent(f"b{next(self._numbers)}", tenant, time.monotonic())
        self.jobs[sent.job] = sent
        subject, headers = Subjects().request(tenant, job_class), {HEADER_JOB_ID: sent.job}
        while True:
            try:
                await self.mux.store(subject, payload, headers=headers, timeout_s=5.0)
            except BusUnavailable:
                await asyncio.sleep(_AGAIN_S)
            except BusRefused as e:
                del self.jobs[sent.job]
                if e.code != "queue_full":
                    raise
                return None
            else:
                return sent

    async def at_rate(
        self,
        tenant: str,
        rate: float,
        seconds: float,
        make: Callable[[int], bytes],
        *,
        job_class: str = "standard",
    ) -> list[Sent]:
        """An open loop: a job at each due moment, whatever comes back."""
        began = time.monotonic()
        sending = []
        for i, due in enumerate(arrivals(rate, round(rate * seconds))):
            await asyncio.sleep(began + due - time.monotonic())
            sending.append(asyncio.create_task(self.submit(tenant, make(i), job_class=job_class)))
        return [sent for sent in await asyncio.gather(*sending) if sent is not None]

    async def keep(
        self, tenant: str, make: Callable[[int], bytes], outstanding: int, *, job_class: str = "standard"
    ) -> None:
        """A closed loop: a new job for each that ends, `outstanding` at once. Runs until it is cancelled."""
        room = asyncio.Semaphore(outstanding)

        def ended(sent: Sent) -> None:
            if sent.tenant == tenant:
                room.release()

        self.on_end.append(ended)
        for i in count():
            await room.acquire()
            await self.submit(tenant, make(i), job_class=job_class)

    async def until(self, is_enough: Callable[[], bool], *, limit_s: float) -> bool:
        """Wait until `is_enough()`. False when the time has passed."""
        try:
            async with asyncio.timeout(limit_s):
                while not is_enough():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def waiting(self) -> list[Sent]:
        """Jobs that have not begun, as far as was heard, oldest first."""
        return [sent for sent in self.jobs.values() if sent.begun_at is None and sent.ended_at is None]

    async def cancel(self, sent: Sent) -> bool:
        """Ask until it is answered; whether the answer says `cancelled`."""
        while sent.ended_at is None:
            with suppress(BusUnavailable):
                reply = await self.mux.request(f"llm.v1.cancel.{sent.tenant}.{sent.job}", timeout_s=5.0)
                answer = msgspec.json.decode(reply.payload)
                if "error" not in answer:
                    return bool(answer.get("cancelled"))
            await asyncio.sleep(_AGAIN_S)
        return False

    def close(self, sent: Sent, state: str, *, error: Mapping[str, object] | None = None) -> None:
        """Note the end of a job whose result event was not heard."""
        if sent.ended_at is None:
            sent.ended_at, sent.state = time.monotonic(), state
            sent.error = str(error["code"]) if error else ""
            self.ended.append(sent)

    def _hear_status(self, message: BusMessage) -> None:
        heard = _decode(message.payload)
        sent = self.jobs.get(heard.job)
        if sent is not None and heard.data.state == "running" and sent.begun_at is None:
            sent.begun_at = time.monotonic()
            self.begun.append(sent)
            self._changed.set()

    def _hear_result(self, message: BusMessage) -> None:
        heard = _decode(message.payload)
        sent = self.jobs.get(heard.job)
        if sent is None or sent.ended_at is not None:
            return
        sent.ended_at, sent.state, sent.calls = time.monotonic(), heard.data.state, len(heard.data.attempts)
        sent.error = heard.data.error.code if heard.data.error is not None else ""
        self.ended.append(sent)
        for tell in self.on_end:
            tell(sent)
        self._changed.set()


@asynccontextmanager
async def traffic(nats_url: str) -> AsyncIterator[Traffic]:
    """Listening."""
    connection = Connection(NatsSettings(url=nats_url), name="load", environment=NatsEnvironment)
    await connection.start()
    mux = Mux(connection, timeout_s=60.0)
    await mux.start()
    made = Traffic(mux)
    try:
        await made.listen()
        yield made
    finally:
        await mux.close()
        await connection.close()


@asynccontextmanager
async def running(*loads: "asyncio.Future[None] | asyncio.Task[None]") -> AsyncIterator[None]:
    """Loads that are cancelled at the end. Raises what one of them ended by."""
    try:
        yield
    finally:
        for load in loads:
            load.cancel()
        outcomes = await asyncio.gather(*loads, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def jain(services: Iterable[float]) -> float:
    """Jain's index of services by weight: 1 where all are equal."""
    found = list(services)
    squares = sum(x * x for x in found)
    return sum(found) ** 2 / (len(found) * squares) if squares else 0.0


def longest_gap(moments: Iterable[float], start: float, end: float) -> float:
    """The longest time within [start, end] that holds none of the moments (s)."""
    marks = [start, *sorted(at for at in moments if start < at < end), end]
    return max(after - before for before, after in pairwise(marks))


def unharmed_p99(jobs: Iterable[Sent], now: float) -> float:
    """Until a job began that met no fault, 99th percentile (s)."""
    return percentile([sent.waited_s(now) for sent in jobs if not sent.met_fault], 0.99)
