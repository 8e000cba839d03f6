"""Events of jobs in memory: twin of `adapters.nats.publisher`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.errors import BusUnavailable, Conflict, InvalidRequest, SidecarError
from sidecar.models import codec
from sidecar.models.believed import result_of
from sidecar.models.event import Event
from sidecar.models.place import EventPosition, place_of
from sidecar.models.subjects import is_name
from sidecar.models.trace import TRACE
from sidecar.ports.bus import StoredEvent


class MemoryPublisher:
    """`Publisher` twin over a shared bus.

    A second fenced event of a job while one is under way is refused with BusUnavailable, as at three replicas.
    """

    def __init__(self, bus: MemoryBus, *, replica: str = "replica", events_s: float | None = None) -> None:
        self._bus = bus
        self._replica = replica
        self._events_s = bus.events_s if events_s is None else events_s
        self._under_way: set[tuple[str, str]] = set()

    async def publish(self, event: Event, *, fence: int) -> None:
        job = (event.tenant, event.job)
        if job in self._under_way:
            raise BusUnavailable("one fenced event of a job at a time: another is under way")
        self._under_way.add(job)
        try:
            await self._store(event, fence, f"$KV.LLM_JOB.{event.tenant}.{event.job}")
        finally:
            self._under_way.discard(job)

    async def publish_result(self, event: Event) -> bool:
        subject, expected = self._bus.subjects.log(event.tenant, event.job, event.type), 0
        while True:
            try:
                await self._store(event, expected, None)
                return True
            except Conflict:
                found = self._bus.jobs.last(subject)
            if found is not None and result_of(found.payload, tenant=event.tenant, job=event.job) is not None:
                return False
            expected = found.seq if found is not None else 0

    async def replay(self, tenant: str, job: str) -> AsyncIterator[StoredEvent]:
        _check(tenant, job)
        pattern = self._bus.subjects.log(tenant, job, ">")
        found = await self._bus.perform(
            Operation(self._replica, "events.replay", pattern), lambda: list(self._bus.jobs.find(pattern))
        )
        seen: set[EventPosition | None] = {None}
        for entry in found:
            place = place_of(entry.payload, subject=entry.subject)
            if place not in seen:
                seen.add(place)
                yield StoredEvent(entry.subject.rpartition(".")[2], entry.payload)

    async def wait_result(self, tenant: str, job: str) -> "MemoryResultWaiter":
        _check(tenant, job)
        return MemoryResultWaiter(self._bus, self._replica, (tenant, job))

    async def _store(self, event: Event, expected: int, expected_subject: str | None) -> None:
        subject = self._bus.subjects.log(event.tenant, event.job, event.type)
        payload, headers = codec.encode(event), dict(TRACE.get())

        def store() -> None:
            ack = self._bus.jobs.store(
                subject,
                payload,
                headers,
                expected=expected,
                expected_subject=expected_subject,
                ttl_s=self._events_s,
            )
            self._tell(event, payload, headers, ack.seq)

        await self._bus.perform(Operation(self._replica, "events.publish", subject), store)

    def _tell(self, event: Event, payload: bytes, headers: Mapping[str, str], seq: int) -> None:
        self._bus.tell(Hint(self._bus.subjects.event(event.tenant, event.job, event.type), payload, headers, seq))


class MemoryResultWaiter:
    """`ResultWaiter` twin: hears the republished result."""

    def __init__(self, bus: MemoryBus, replica: str, of_job: tuple[str, str]) -> None:
        self._tenant, self._job = of_job
        subject = bus.subjects.event(self._tenant, self._job, "result")
        self._heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._stop: Callable[[], None] = bus.listen(replica, subject, self._hear)

    async def payload(self) -> bytes:
        return await asyncio.shield(self._heard)

    async def close(self) -> None:
        self._stop()

    def fail(self, error: SidecarError) -> None:
        if not self._heard.done():
            self._heard.set_exception(error)
            # Whoever waits hears of it; where nobody does, nothing was missed.
            self._heard.exception()

    def _hear(self, hint: Hint) -> None:
        if not self._heard.done() and result_of(hint.payload, tenant=self._tenant, job=self._job) is not None:
            self._heard.set_result(hint.payload)


def _check(tenant: str, job: str) -> None:
    if not (is_name(tenant) and is_name(job)):
        raise InvalidRequest(f"{tenant!r} and {job!r} do not name a job")
