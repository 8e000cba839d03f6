"""The request/reply endpoint by which operators cancel many jobs."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from sidecar.endpoints.parts import in_parts, not_empty
from sidecar.errors import InvalidRequest
from sidecar.models.api import schemas_of
from sidecar.models.bulk import BulkCancelled, BulkCancelRequest, JobName
from sidecar.models.codec import decode, decode_request
from sidecar.models.job import TERMINAL, State
from sidecar.models.subjects import is_name
from sidecar.ports.bus import (
    STREAM_READ_SEATS,
    Clock,
    Endpoint,
    Intake,
    JobStore,
    Lane,
    Query,
    Reply,
    StoredRequest,
)
from sidecar.request_handler.decode import job_of

READ_AT_ONCE = 50


class BulkCancel:
    """Goes through the stored requests: every job that has not ended has one there, read or not."""

    def __init__(self, intake: Intake, store: JobStore, *, clock: Clock) -> None:
        self._clock = clock
        self._intake = intake
        self._store = store

    def endpoints(self) -> tuple[Endpoint, ...]:
        schemas = schemas_of(BulkCancelRequest, BulkCancelled)
        return (Endpoint("admin_cancel", "admin.cancel", self.cancel, schemas, seats=STREAM_READ_SEATS),)

    async def cancel(self, query: Query) -> AsyncIterator[Reply]:
        """Leave the mark of a cancellation for all that match; tell which, in parts."""
        asked = decode(query.payload, BulkCancelRequest)
        not_empty(asked)
        if asked.state in TERMINAL:
            raise InvalidRequest("such jobs have ended: use queued, running or waiting", path="state")
        if asked.error is not None:
            raise InvalidRequest("only jobs that have ended have one, and they cannot be cancelled", path="error")
        count = 0

        def part(jobs: tuple[JobName, ...]) -> BulkCancelled:
            nonlocal count
            count += len(jobs)
            return BulkCancelled(jobs=jobs, count=count, dry_run=asked.dry_run)

        async for reply in in_parts(self._cancelled(asked), part, clock=self._clock):
            yield reply

    async def _cancelled(self, asked: BulkCancelRequest) -> AsyncIterator[JobName | None]:
        left = asked.limit
        async for batch in self._batches(asked):
            yield None
            meant = [job for job in await asyncio.gather(*(self._meant(item, asked) for item in batch)) if job]
            meant = meant if left is None else meant[:left]
            if not asked.dry_run:
                marks = (self._store.mark_cancelled(job.tenant, job.job, reason=asked.reason) for job in meant)
                await asyncio.gather(*marks)
            for job in meant:
                yield job
            left = None if left is None else left - len(meant)
            if left is not None and left <= 0:
                return

    async def _batches(self, asked: BulkCancelRequest) -> AsyncIterator[Sequence[StoredRequest]]:
        for lane in sorted((await self._intake.backlog()).counts):
            if not _may_hold(lane, asked):
                continue
            after = 0
            while batch := await self._intake.read(lane, after_seq=after, limit=READ_AT_ONCE):
                after = batch[-1].seq
                yield batch

    async def _meant(self, stored: StoredRequest, asked: BulkCancelRequest) -> JobName | None:
        job, _ = job_of(stored)
        if not asked.covers(stored.stored_at) or not _fits_metadata(stored, asked):
            return None
        state = await self._state(stored.lane.tenant, job)
        if state in TERMINAL or asked.state not in (None, state):
            return None
        return JobName(tenant=stored.lane.tenant, job=job)

    async def _state(self, tenant: str, job: str) -> State:
        found = await self._store.get(tenant, job)
        return found.state.state if found is not None else "queued"


def _may_hold(lane: Lane, asked: BulkCancelRequest) -> bool:
    return (
        bool(is_name(lane.tenant))
        and asked.tenant in (None, lane.tenant)
        and asked.job_class in (None, lane.job_class)
    )


def _fits_metadata(stored: StoredRequest, asked: BulkCancelRequest) -> bool:
    if not asked.metadata:
        return True
    try:
        return asked.fits_metadata(decode_request(stored.payload).metadata)
    except InvalidRequest:
        return False
