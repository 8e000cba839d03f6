"""The request/reply endpoints about jobs: ask, get, replay, cancel, jobs."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from sidecar.endpoints.job_listing import JobListing
from sidecar.endpoints.views import queued_view, view_of
from sidecar.errors import BusUnavailable, InvalidRequest, NotReady, Permanent, SidecarError
from sidecar.models.api import (
    AdminJobsRequest,
    CancelReply,
    CancelRequest,
    JobsPage,
    JobsRequest,
    ReplayRequest,
    schemas_of,
)
from sidecar.models.base import JOB_CLASSES, Open
from sidecar.models.codec import decode, decode_event, decode_plain_or_request, encode
from sidecar.models.job import TERMINAL, JobView
from sidecar.models.request import JobRequest
from sidecar.models.result import Result
from sidecar.models.subjects import (
    HEADER_END,
    HEADER_JOB_ID,
    HEADER_MESSAGE_ID,
    check_job_id,
    checked,
)
from sidecar.models.trace import trace_of
from sidecar.ports.bus import (
    STREAM_READ_SEATS,
    Clock,
    Endpoint,
    Intake,
    JobStore,
    Lane,
    Parked,
    Publisher,
    Query,
    Reply,
    ResultWaiter,
)
from sidecar.ports.cluster import JobQueue
from sidecar.runtime.lifecycle import within

# How long a cancellation waits for the job's end before it is answered.
CANCEL_WAIT_S = 1.0


class _Place(Open, frozen=True, kw_only=True):
    """As much of an event as replay needs to know."""

    attempt: int
    n: int


class Queries:
    """Answers what clients ask about jobs. `SidecarError`s raised here become error replies."""

    def __init__(
        self, store: JobStore, publisher: Publisher, intake: Intake, *, queue: JobQueue, clock: Clock
    ) -> None:
        self._queue = queue
        self._listing = JobListing(store, queue)
        self._store = store
        self._publisher = publisher
        self._intake = intake
        self._clock = clock
        self._asks: dict[ResultWaiter, str] = {}
        self._no_asks = asyncio.Event()
        self._no_asks.set()

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("ask", "ask.*.*", self.ask, schemas_of(JobRequest, Result), is_ask=True),
            Endpoint("get", "get.*.*", self.get, schemas_of(None, JobView)),
            Endpoint(
                "replay", "replay.*.*", self.replay, schemas_of(ReplayRequest, None), seats=STREAM_READ_SEATS
            ),
            Endpoint("cancel", "cancel.*.*", self.cancel, schemas_of(CancelRequest, CancelReply)),
            Endpoint("jobs", "jobs.*", self.jobs, schemas_of(JobsRequest, JobsPage), seats=STREAM_READ_SEATS),
            Endpoint(
                "admin-jobs",
                "admin.jobs",
                self.admin_jobs,
                schemas_of(AdminJobsRequest, JobsPage),
                seats=STREAM_READ_SEATS,
            ),
        )

    async def ask(self, query: Query) -> Reply:
        """Submit a job and answer with its result's data."""
        tenant, job_class = _names(query, "tenant", "class")
        if job_class not in JOB_CLASSES:
            raise InvalidRequest(f"use one of {', '.join(JOB_CLASSES)}", path="subject.class")
        request = decode_plain_or_request(query.payload)
        given = query.headers.get(HEADER_JOB_ID)
        if given is not None and (problem := check_job_id(given)) is not None:
            raise InvalidRequest(problem, path=HEADER_JOB_ID)
        job = given or f"a{uuid.uuid4().hex}"
        headers = dict(trace_of(query.headers))
        headers |= {HEADER_JOB_ID: job, HEADER_MESSAGE_ID: f"{tenant}:{job}"}
        waiter = await self._publisher.wait_result(tenant, job)
        try:
            finished = await self._finished(tenant, job) if given is not None else None
            if finished is not None:
                return Reply(encode(finished))
            await self._intake.submit(Lane(tenant, job_class), encode(request), headers)
            parked = query.parked
            # Many may wait for as long as their jobs take: none keeps its request in memory.
            del query, request
            return Reply(encode(await self._awaited(waiter, tenant, job, parked)))
        finally:
            await waiter.close()

    async def _awaited(self, waiter: ResultWaiter, tenant: str, job: str, parked: Parked) -> Any:
        """A job's result. Raises BusUnavailable that names the job where this process ends before the job does."""
        self._asks[waiter] = job
        self._no_asks.clear()
        try:
            with parked():
                return decode_event(await waiter.payload()).data
        except BusUnavailable:
            # It may have ended in the same moment.
            with suppress(SidecarError):
                finished = await self._finished(tenant, job)
                if finished is not None:
                    return finished
            raise
        finally:
            self._asks.pop(waiter, None)
            if not self._asks:
                self._no_asks.set()

    async def answered(self) -> None:
        """Wait until no ask is open."""
        await self._no_asks.wait()

    def let_go(self) -> None:
        """The process ends: tell all that ask how to go on, since their jobs do."""
        for waiter, job in self._asks.items():
            waiter.fail(
                BusUnavailable(
                    f"the sidecar that was asked is stopping; job {job} goes on: `get` it, or ask again with the "
                    f"header {HEADER_JOB_ID}: {job}",
                    details={"job": job},
                )
            )

    async def _finished(self, tenant: str, job: str) -> Result | None:
        stored = await self._store.get(tenant, job)
        return stored.state.result if stored is not None else None

    async def get(self, query: Query) -> Reply:
        """A job's document; where there is none yet, what the queue knows of its request."""
        tenant, job = _names(query, "tenant", "job")
        stored = await self._store.get(tenant, job)
        if stored is None:
            queued = await self._queue.find(tenant, job)
            if queued is not None:
                return Reply(encode(queued_view(queued)))
            # Begun, or ended, since it was looked for.
            stored = await self._store.get(tenant, job)
        if stored is None:
            raise Permanent(
                f"no job {job!r} of tenant {tenant!r} is known: it is older than the retention, or was never "
                "submitted",
                code="not_found",
            )
        if stored.state.state != "queued":
            return Reply(encode(stored.state))
        with suppress(NotReady, BusUnavailable):
            queued = await self._queue.find(tenant, job)
            if queued is not None and queued.seq == stored.state.request_seq:
                return Reply(encode(view_of(stored.state, queued)))
        return Reply(encode(stored.state))

    async def replay(self, query: Query) -> AsyncIterator[Reply]:
        """All stored events after a place, then an empty reply that says so."""
        tenant, job = _names(query, "tenant", "job")
        asked = decode(query.payload, ReplayRequest)
        after = (asked.attempt, asked.n)
        async for event in self._publisher.replay(tenant, job):
            place = decode(event.payload, _Place)
            if (place.attempt, place.n) > after:
                yield Reply(event.payload)
        yield Reply(b"", {HEADER_END: "true"})

    async def cancel(self, query: Query) -> Reply:
        """Leave the mark that whoever owns the job, or will own it, goes by; say what has come of it so far."""
        tenant, job = _names(query, "tenant", "job")
        asked = decode(query.payload, CancelRequest)
        state = await self._state(tenant, job)
        if state not in TERMINAL:
            await self._mark_and_wait(tenant, job, asked.reason, query.parked)
            state = await self._state(tenant, job)
        reply = CancelReply(
            job=job,
            tenant=tenant,
            state=state,
            cancelled=state == "cancelled",
            requested=state not in TERMINAL,
        )
        return Reply(encode(reply))

    async def _mark_and_wait(self, tenant: str, job: str, reason: str | None, parked: Parked) -> None:
        """Mark the job, then wait for its result for a moment; how it ended is for its document to say."""
        # Heard from before the mark is left: the end may come before the mark's acknowledgement does.
        waiter = await self._publisher.wait_result(tenant, job)
        try:
            await self._store.mark_cancelled(tenant, job, reason=reason)
            with (
                suppress(BusUnavailable),
                parked(),
            ):  # Not heard in time: the reply says that the end is still to come.
                await within(self._clock, CANCEL_WAIT_S, waiter.payload(), what="the end of a cancelled job")
        finally:
            await waiter.close()

    async def _state(self, tenant: str, job: str) -> str:
        stored = await self._store.get(tenant, job)
        if stored is not None:
            return stored.state.state
        with suppress(NotReady, BusUnavailable):
            if await self._queue.find(tenant, job) is not None:
                return "queued"
            # Begun, or ended, since it was looked for.
            stored = await self._store.get(tenant, job)
        return stored.state.state if stored is not None else "unknown"

    async def jobs(self, query: Query) -> Reply:
        (tenant,) = _names(query, "tenant")
        asked = decode(query.payload, JobsRequest)
        page = await self._listing.page(asked.filter_of(tenant), limit=asked.limit, cursor=asked.cursor)
        return Reply(encode(page))

    async def admin_jobs(self, query: Query) -> Reply:
        """The jobs of all tenants that fit a filter."""
        asked = decode(query.payload, AdminJobsRequest)
        return Reply(encode(await self._listing.page(asked, limit=asked.limit, cursor=asked.cursor)))


def _names(query: Query, *expected: str) -> tuple[str, ...]:
    """The subject's tokens, each checked. Raises InvalidRequest that names the one that is wrong."""
    if len(query.tokens) != len(expected):
        raise InvalidRequest(f"the subject needs {' and '.join(expected)}", path="subject")
    for name, token in zip(expected, query.tokens, strict=True):
        checked(token, path=f"subject.{name}")
    return query.tokens
