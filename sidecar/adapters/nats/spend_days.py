"""Sums of what jobs took, in stream `LLM_SPEND_DAYS`, and the ends of jobs that they are made of."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, timedelta
from typing import TypeVar

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_by_replica
from sidecar.errors import InvalidRequest
from sidecar.models import codec
from sidecar.models.shown import shown
from sidecar.models.spend import SpendCursor, SpendDay
from sidecar.models.subjects import (
    HEADER_CLASS,
    HEADER_EXPECTED,
    HEADER_EXPECTED_OF,
    JOB_BUCKET,
    JOB_STREAM,
    SPEND_DAYS_STREAM,
    Subjects,
    checked,
)
from sidecar.ports.cluster import JobsStream, StoredDocument, StoredEnd, StoredSpendCursor

log = logging.getLogger(__name__)

T = TypeVar("T")

# So many days are asked for one by one; for more the whole stream is read.
_FEW_DAYS = 40


class NatsSpendDays:
    """`SpendDays` over JetStream. A day is fenced by the cursor's revision, as events are by a job's document."""

    def __init__(self, mux: Mux, subjects: Subjects, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._subjects = subjects
        self._is_replicated = is_replicated
        self._own = StreamReader(mux, SPEND_DAYS_STREAM, is_replicated=is_replicated)
        self._genuine = GenuineReader(
            self._own, bucket=SPEND_DAYS_STREAM, writes=mux.foreign_writes, is_genuine=is_by_replica
        )
        self._stream = StreamReader(mux, JOB_STREAM, is_replicated=is_replicated)
        self._ends = subjects.log("*", "*", "result")
        self._documents = f"$KV.{JOB_BUCKET}."

    async def cursor(self) -> StoredSpendCursor:
        found = await self._genuine.last(self._subjects.spend_cursor)
        if found is None:
            return StoredSpendCursor(None, 0)
        return StoredSpendCursor(_read(found, SpendCursor), found.seq)

    async def claim(self, cursor: SpendCursor, *, revision: int) -> int:
        headers = {HEADER_EXPECTED: str(revision)}
        return (await self._mux.store(self._subjects.spend_cursor, codec.encode(cursor), headers=headers)).seq

    async def day(self, tenant: str, day: str) -> SpendDay | None:
        found = await self._genuine.last(self._subjects.spend_day(checked(tenant), checked(day)))
        return None if found is None else _read(found, SpendDay)

    async def put(self, day: SpendDay, *, fence: int) -> None:
        headers = {HEADER_EXPECTED: str(fence), HEADER_EXPECTED_OF: self._subjects.spend_cursor}
        subject = self._subjects.spend_day(checked(day.tenant), checked(day.day))
        await self._mux.store(subject, codec.encode(day), headers=headers)

    async def days(self, tenant: str | None, *, first: str, last: str) -> AsyncIterator[SpendDay]:
        whose = "*" if tenant is None else checked(tenant)
        for day in _each(first, last):
            newest: dict[str, SpendDay] = {}
            async for item in self._own.scan(self._subjects.spend_day(whose, day), seq=1):
                # Older ones lie below: the last that a replica wrote counts.
                if is_by_replica(item) and (found := _read(item, SpendDay)) is not None:
                    newest[item.subject] = found
            for found in newest.values():
                if first <= found.day <= last:
                    yield found

    async def jobs(self) -> JobsStream:
        return JobsStream(*await self._stream.age())

    async def ends(self, *, after_seq: int, limit: int) -> tuple[Sequence[StoredEnd], bool]:
        found, has_more = await self._stream.batch(self._ends, seq=after_seq + 1, limit=limit)
        return [_end(item) for item in found], has_more

    async def has_ends(self, *, after_seq: int, up_to: int) -> bool:
        if not self._is_replicated:
            return False
        found = await self._stream.next(self._ends, seq=after_seq + 1)
        return found is not None and found.seq <= up_to

    async def ended_at(self, jobs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        found = await self._stream.last_of(self._subjects.log(*job, "result") for job in jobs)
        return {
            _names(item.subject.rpartition(".")[0]): item.seq for item in found.values() if is_by_replica(item)
        }

    async def documents_of(self, jobs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        found = await self._stream.last_of(f"{self._documents}{tenant}.{job}" for tenant, job in jobs)
        return {_names(item.subject): item.payload for item in found.values() if is_by_replica(item)}

    async def documents(self, *, after_seq: int, up_to: int) -> AsyncIterator[StoredDocument]:
        async for item in self._stream.scan(f"{self._documents}*.*", seq=after_seq + 1):
            if item.seq > up_to:
                return
            if is_by_replica(item) and not item.is_tombstone:
                yield StoredDocument(item.seq, *_names(item.subject), item.payload)


def _end(item: StoredMessage) -> StoredEnd:
    tenant, job = _names(item.subject.rpartition(".")[0])
    if not is_by_replica(item) or item.is_tombstone:
        return StoredEnd(item.seq, tenant, job, None, b"")
    return StoredEnd(item.seq, tenant, job, item.headers.get(HEADER_CLASS), item.payload)


def _names(subject: str) -> tuple[str, str]:
    tenant, job = subject.rsplit(".", 2)[1:]
    return tenant, job


def _read(found: StoredMessage, kind: type[T]) -> T | None:
    try:
        return codec.decode(found.payload, kind)
    except InvalidRequest as e:
        log.warning("%s at %d is not as a replica writes it: %s", shown(found.subject), found.seq, e.message)
        return None


def _each(first: str, last: str) -> list[str]:
    """The days as the last token of a subject; `*` for many."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    count = (end - begin).days + 1
    if count > _FEW_DAYS:
        return ["*"]
    return [(begin + timedelta(days=n)).isoformat() for n in range(count)]
