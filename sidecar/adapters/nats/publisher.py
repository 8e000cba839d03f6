"""Events of jobs: stored under `log`, fenced by the revision of the job's state, republished as `job`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from sidecar.adapters.nats.client.connection import State, Subscription
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_by_replica
from sidecar.errors import BusUnavailable, Conflict, SidecarError
from sidecar.models import codec
from sidecar.models.believed import result_of
from sidecar.models.event import Event, EventPosition, place_of
from sidecar.models.subjects import (
    HEADER_CLASS,
    HEADER_EXPECTED,
    HEADER_EXPECTED_OF,
    HEADER_TTL,
    JOB_BUCKET,
    JOB_STREAM,
    Subjects,
    checked,
)
from sidecar.models.trace import TRACE
from sidecar.ports.bus import StoredEvent

log = logging.getLogger(__name__)


class NatsResultWaiter:
    """`ResultWaiter` over a core subscription. `of_job` is tenant and job."""

    def __init__(
        self, stored_as: str, on_close: Callable[["NatsResultWaiter"], None], *, of_job: tuple[str, str]
    ) -> None:
        self.stored_as = stored_as
        self._tenant, self._job = of_job
        self._on_close = on_close
        self._heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._subscription: Subscription | None = None

    @property
    def is_waiting(self) -> bool:
        return not self._heard.done()

    async def listen(self, mux: Mux, subject: str) -> None:
        self._subscription = await mux.subscribe(subject, self._on_message)

    async def payload(self) -> bytes:
        # The future is the subscription's: a caller that is cancelled must leave it for the next one to wait on.
        return await asyncio.shield(self._heard)

    async def close(self) -> None:
        self._on_close(self)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    def fail(self, error: SidecarError) -> None:
        if not self._heard.done():
            self._heard.set_exception(error)
            # Whoever waits hears of it; where nobody does, nothing was missed.
            self._heard.exception()

    def hear(self, payload: bytes) -> None:
        if not self._heard.done() and result_of(payload, tenant=self._tenant, job=self._job) is not None:
            self._heard.set_result(payload)

    def _on_message(self, message: BusMessage) -> None:
        self.hear(message.payload)


class ResultWatch:
    """The open waiters of a process. A result that passed while the connection was away is read afterwards."""

    def __init__(self, mux: Mux, reader: StreamReader) -> None:
        self._mux = mux
        self._reader = reader
        self._waiters: set[NatsResultWaiter] = set()
        self._task: asyncio.Task[None] | None = None
        mux.connection.on_state(self._on_state)

    async def open(self, subject: str, *, stored_as: str, of_job: tuple[str, str]) -> NatsResultWaiter:
        waiter = NatsResultWaiter(stored_as, self._waiters.discard, of_job=of_job)
        self._waiters.add(waiter)
        try:
            await waiter.listen(self._mux, subject)
        except BaseException:
            self._waiters.discard(waiter)
            raise
        return waiter

    def _on_state(self, state: State) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if state == "connected" and self._waiters:
            # What was published while the connection was away was not heard: it is read from the stream instead.
            self._task = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        for waiter in tuple(self._waiters):
            if not waiter.is_waiting:
                continue
            try:
                found = await self._reader.last(waiter.stored_as)
            except SidecarError as e:
                log.warning("looking for missed results failed: %s", e.message)
                return
            if found is not None:
                waiter.hear(found.payload)


_MOST_TRIES = 20


class NatsPublisher:
    """`Publisher` over JetStream. `events_s` is how long events are kept, in whole seconds.

    Every event costs one message and one acknowledgement. Nothing is retried here: after BusUnavailable the
    event may or may not be stored, so the owner publishes the same event again, with the same `n`. A repeated
    ordinary event may then stand twice (`replay` gives the first only); a repeated result is refused by the
    server, so `publish_result` is False both for another's result and for one's own whose answer was lost. What
    stands in a result's place and is none is replaced by compare-and-set.

    `replay` reads in batches of 1,000, at more than one replica with a last look at the leader, so that it
    lacks nothing that was stored before it was called.
    """

    def __init__(self, mux: Mux, subjects: Subjects, *, events_s: int, is_replicated: bool = False) -> None:
        self._mux = mux
        self._subjects = subjects
        self._ttl = str(events_s)
        self._reader = StreamReader(mux, JOB_STREAM, is_replicated=is_replicated)
        self._is_replicated = is_replicated
        self._genuine = GenuineReader(
            self._reader, bucket=JOB_BUCKET, writes=mux.foreign_writes, is_genuine=is_by_replica
        )
        self._watch = ResultWatch(mux, self._reader)
        self._fence_root = f"$KV.{JOB_BUCKET}."

    async def publish(self, event: Event, *, fence: int) -> None:
        headers = {
            HEADER_EXPECTED: str(fence),
            HEADER_EXPECTED_OF: f"{self._fence_root}{event.tenant}.{event.job}",
            HEADER_TTL: self._ttl,
            **TRACE.get(),
        }
        subject = self._subjects.log(event.tenant, event.job, event.type)
        await self._mux.store(subject, codec.encode(event), headers=headers)

    async def publish_result(self, event: Event, *, job_class: str | None = None) -> bool:
        headers = {HEADER_TTL: self._ttl, **TRACE.get()}
        if job_class is not None:
            headers[HEADER_CLASS] = job_class
        subject = self._subjects.log(event.tenant, event.job, event.type)
        payload, expected = codec.encode(event), 0
        for _ in range(_MOST_TRIES):
            try:
                await self._mux.store(subject, payload, headers={HEADER_EXPECTED: str(expected), **headers})
                return True
            except Conflict:
                found = await self._reader.last(subject)
            if found is not None and result_of(found.payload, tenant=event.tenant, job=event.job) is not None:
                return False
            # Somebody else's bytes, or the mark of a deletion: the job has said no result yet.
            expected = found.seq if found is not None else 0
            if found is not None and not is_by_replica(found):
                self._mux.foreign_writes.met(JOB_BUCKET, subject=subject, seq=found.seq, payload=found.payload)
        raise BusUnavailable(f"the result of job {event.job} is written over again and again")

    async def replay(self, tenant: str, job: str) -> AsyncIterator[StoredEvent]:
        seen: set[EventPosition | None] = {None}
        strangers: list[StoredMessage] = []
        async for item in self._stored(self._log(tenant, job, ">")):
            if not is_by_replica(item):
                strangers.append(item)
                continue
            place = place_of(item.payload, subject=item.subject)
            if place not in seen:
                seen.add(place)
                yield StoredEvent(item.subject.rpartition(".")[2], item.payload)
        await self._genuine.remove(strangers)

    async def wait_result(self, tenant: str, job: str) -> NatsResultWaiter:
        stored_as = self._log(tenant, job, "result")
        return await self._watch.open(
            self._subjects.event(tenant, job, "result"), stored_as=stored_as, of_job=(tenant, job)
        )

    async def _stored(self, pattern: str) -> AsyncIterator[StoredMessage]:
        newest = await self._reader.newest(pattern) if self._is_replicated else None
        seq = 1
        async for item in self._reader.scan(pattern, seq=seq):
            seq = item.seq + 1
            yield item
        while newest is not None and seq <= newest.seq:
            item_or_none = await self._reader.next(pattern, seq=seq)
            if item_or_none is None:
                return
            seq = item_or_none.seq + 1
            yield item_or_none

    def _log(self, tenant: str, job: str, kind: str) -> str:
        return self._subjects.log(checked(tenant), checked(job), kind)
