"""Events of jobs: stored under `log`, fenced by the revision of the job's state, republished as `job`."""

from collections.abc import AsyncIterator

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_by_replica
from sidecar.adapters.nats.job_store import EXPECTED
from sidecar.adapters.nats.result_waiter import NatsResultWaiter, ResultWatch
from sidecar.errors import BusUnavailable, Conflict, InvalidRequest
from sidecar.models import codec
from sidecar.models.believed import result_of
from sidecar.models.event import Event
from sidecar.models.place import EventPosition, place_of
from sidecar.models.subjects import JOB_BUCKET, JOB_STREAM, Subjects, is_name
from sidecar.models.trace import TRACE
from sidecar.ports.bus import StoredEvent

_EXPECTED_OF = f"{EXPECTED}-Subject"
_TTL = "Nats-TTL"
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
            EXPECTED: str(fence),
            _EXPECTED_OF: f"{self._fence_root}{event.tenant}.{event.job}",
            _TTL: self._ttl,
            **TRACE.get(),
        }
        subject = self._subjects.log(event.tenant, event.job, event.type)
        await self._mux.store(subject, codec.encode(event), headers=headers)

    async def publish_result(self, event: Event) -> bool:
        headers = {_TTL: self._ttl, **TRACE.get()}
        subject = self._subjects.log(event.tenant, event.job, event.type)
        payload, expected = codec.encode(event), 0
        for _ in range(_MOST_TRIES):
            try:
                await self._mux.store(subject, payload, headers={EXPECTED: str(expected), **headers})
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
        if not (is_name(tenant) and is_name(job)):
            raise InvalidRequest(f"{tenant!r} and {job!r} do not name a job")
        return self._subjects.log(tenant, job, kind)
