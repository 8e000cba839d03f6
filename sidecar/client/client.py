"""The client: submits jobs, follows them, asks the sidecar's endpoints."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import msgspec

from sidecar.client.bus import Bus
from sidecar.client.errors import UnknownJob, pause_after
from sidecar.client.feed import Feed
from sidecar.client.job import Job
from sidecar.client.objects import Objects
from sidecar.client.order import START, Place
from sidecar.client.publish import publish_anew, publish_request
from sidecar.client.requests import Request, RequestFields, build_request
from sidecar.client.results import JobResult, decode_event
from sidecar.client.spending import request_of, spend_of
from sidecar.errors import BusUnavailable, Permanent, RateLimited, SidecarError, Temporary
from sidecar.models.api import CancelReply, CancelRequest, JobsPage, JobsRequest, ModelInfo, ModelsPage
from sidecar.models.base import JobClass
from sidecar.models.bulk import RetriedJob, RetryRequest
from sidecar.models.codec import encode
from sidecar.models.event import Event
from sidecar.models.job import JobState, JobView, State
from sidecar.models.objects import ObjectInfo
from sidecar.models.plain import UNREADABLE
from sidecar.models.request import JobRequest
from sidecar.models.spend import SpendPage
from sidecar.models.subjects import HEADER_JOB_ID, HEADER_MESSAGE_ID, Subjects, checked

if TYPE_CHECKING:
    from sidecar.client.tools.definition import Tool
    from sidecar.client.tools.provider import ToolProvider

DEFAULT_SERVER = "nats://127.0.0.1:4222"
_PAGE = 1000
# When to ask whether a job is known that the stream says it has: at once, and when it may have been read.
_KNOWN_AFTER_S = (0.0, 0.3)
# What a request's headers may take of the server's limit.
_HEADERS = 1024
T = TypeVar("T")


class SidecarClient:
    """A tenant's door to the sidecar, over one NATS connection.

    ```python
    async with await SidecarClient.connect("nats://localhost:4222", tenant="acme") as client:
        job = await client.submit("What is JetStream?", stream=True)
        async for piece in job.text():
            print(piece, end="")
        print((await job.result()).usage)
    ```
    Belongs to the event loop it was made in. Every method may be cancelled at any await: a request that was
    sent may have been stored, and submitting it again under the same job id is safe.
    """

    def __init__(self, bus: Bus, *, tenant: str, prefix: str = "llm", request_timeout_s: float = 5.0) -> None:
        self.bus = bus
        self.tenant = checked(tenant, what="tenant", path="tenant")
        self.subjects = Subjects(prefix)
        self.request_timeout_s = request_timeout_s
        self.objects = Objects(self)
        self._is_closed = False

    @classmethod
    async def connect(
        cls,
        servers: str | Sequence[str] = DEFAULT_SERVER,
        *,
        tenant: str,
        prefix: str = "llm",
        creds: str | Path | None = None,
        connect_timeout_s: float = 5.0,
        request_timeout_s: float = 5.0,
        **options: Any,
    ) -> "SidecarClient":
        """A connected client. `servers` are URLs, a sequence or comma separated; `creds` a credentials file.

        `request_timeout_s` bounds each question to the sidecar (not the jobs). `options` go to nats-py's
        `connect` as they are (`user`, `password`, `token`, `nkeys_seed`, `tls`, `name`, …). The inbox prefix
        is `_INBOX_<tenant>` unless given as `inbox_prefix`, as the sidecar's permission templates have it.

        Raises BusUnavailable when no server answers within `connect_timeout_s`, AccessDenied when it does not
        take the credentials, InvalidRequest for a tenant that is no name. Later, a lost connection is made
        anew for as long as it takes.
        """
        nats_options: dict[str, Any] = {
            "name": f"sidecar-client {tenant}",
            "inbox_prefix": f"_INBOX_{tenant}",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.5,
            "ping_interval": 20,
            "max_outstanding_pings": 2,
            **options,
        }
        if creds is not None:
            nats_options["user_credentials"] = str(creds)
        urls = servers.split(",") if isinstance(servers, str) else servers
        bus = Bus([u.strip() for u in urls], connect_timeout_s=connect_timeout_s, options=nats_options)
        client = cls(bus, tenant=tenant, prefix=prefix, request_timeout_s=request_timeout_s)
        await bus.connect()
        return client

    async def close(self) -> None:
        """Close the connection; jobs go on without it. Idempotent."""
        self._is_closed = True
        await self.bus.close()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def __aenter__(self) -> "SidecarClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(
        self,
        request: Request | None = None,
        *,
        job_class: JobClass = "interactive",
        job_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        ack_timeout_s: float = 30.0,
        follow: bool = True,
        **fields: Unpack[RequestFields],
    ) -> Job:
        """Hand in a job and return once it is stored durably: from then on it ends in exactly one result.

        `request` is a prompt, messages, or a whole request as `JobRequest` or dict; `fields` are laid over it.
        `job_id` makes the call repeatable: a job that exists is never run again, the handle then shows the
        one that exists. `headers` are sent along (`traceparent`). `follow=False` opens no subscription, for
        jobs whose events this process will not read soon.

        Tries again, under the same id, until `ack_timeout_s` is over. Raises InvalidRequest that names the
        field, QueueFull, Permanent (`payload_too_large`), AccessDenied, BusUnavailable when no
        acknowledgement came (the job may be stored nevertheless).
        """
        payload = await self._encoded(build_request(request, fields))
        subject = self.subjects.request(self.tenant, job_class)
        is_repeatable = job_id is not None
        job_id = uuid.uuid4().hex if job_id is None else self._job_name(job_id)
        sent = {**(headers or {}), HEADER_JOB_ID: job_id}
        feed = await self._open_feed(job_id) if follow else None
        try:
            ack = await publish_request(
                self.bus,
                subject,
                payload,
                headers={**sent, HEADER_MESSAGE_ID: f"{self.tenant}:{job_id}"},
                timeout_s=ack_timeout_s,
            )
            if ack.duplicate and is_repeatable and not await self._is_known(job_id):
                ack = await publish_anew(self.bus, subject, payload, headers=sent, before=ack)
        except BaseException:
            if feed is not None:
                await feed.close()
            raise
        if feed is not None and ack.duplicate:
            feed.mark_dirty()
        return Job(self, job_id, sequence=ack.seq, feed=feed)

    async def ask(
        self,
        request: Request | None = None,
        *,
        job_class: JobClass = "interactive",
        job_id: str | None = None,
        wait_s: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> JobResult:
        """Submit and wait for the result, durably: a reconnect in between loses nothing.

        Raises what `submit` raises, and CallTimeout when there is no result after `wait_s` (the job goes on).
        """
        job = await self.submit(request, job_class=job_class, job_id=job_id, **fields)
        return await job.result(timeout_s=wait_s)

    def job(self, job_id: str) -> Job:
        """A handle on a job of this tenant, whoever submitted it. Raises InvalidRequest for an id that is none."""
        return Job(self, self._job_name(job_id))

    async def get(self, job_id: str) -> JobView:
        """What is known of a job: its state document, with its result once there is one; while it is queued, its
        place. Raises UnknownJob, NotReady (the queue is not known yet: ask again), BusUnavailable.
        """
        subject = self.subjects.endpoint("get", self.tenant, self._job_name(job_id))
        state = await self.ask_endpoint(subject, b"", JobView)
        if state.result is None or state.result.output.object is None:
            return state
        return msgspec.structs.replace(state, result=await self.objects.resolved(state.result))

    async def cancel(
        self, job_id: str, *, reason: str | None = None, timeout_s: float | None = None
    ) -> CancelReply:
        """Cancel a job in any state; see `Job.cancel`."""
        subject = self.subjects.endpoint("cancel", self.tenant, self._job_name(job_id))
        payload = msgspec.json.encode(CancelRequest(reason=reason))
        reply = await self.ask_endpoint(subject, payload, CancelReply, timeout_s=timeout_s)
        if reply.cancelled and reply.state != "cancelled":
            # Replicas of 0.1 say so as soon as the mark is left.
            return msgspec.structs.replace(reply, cancelled=False, requested=True)
        return reply

    async def jobs(
        self, *, state: State | None = None, limit: int | None = None
    ) -> AsyncGenerator[JobState, None]:
        """The tenant's jobs, newest first and without results, page by page; at most `limit`."""
        subject = self.subjects.endpoint("jobs", self.tenant)
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page_size = _PAGE if left is None else min(left, _PAGE)
            request = JobsRequest(state=state, limit=page_size, cursor=cursor)
            page = await self.ask_endpoint(subject, msgspec.json.encode(request), JobsPage)
            for job in page.jobs:
                yield job
            left = None if left is None else left - len(page.jobs)
            cursor = page.cursor
            if cursor is None:
                return

    async def models(self) -> tuple[ModelInfo, ...]:
        """The catalogue as this tenant may use it. Raises BusUnavailable."""
        page = await self.ask_endpoint(self.subjects.endpoint("models", self.tenant), b"", ModelsPage)
        return page.models

    async def retry(self, job_id: str, *, keep: bool = False, dry_run: bool = False) -> RetriedJob:
        """Run a job again that failed, from the request that is kept of it; `retried_as` is the new job's id.

        Repeatable: it runs again once, unless its request is to be kept. Raises UnknownJob where none is kept,
        Permanent where objects that it names are gone, BusUnavailable, AccessDenied.
        """
        subject = self.subjects.endpoint("retry", self.tenant, self._job_name(job_id))
        payload = msgspec.json.encode(RetryRequest(keep=keep, dry_run=dry_run))
        return await self.ask_endpoint(subject, payload, RetriedJob)

    async def spend(
        self, *, first: str | None = None, last: str | None = None, by: Sequence[str] = ("day", "model")
    ) -> SpendPage:
        """What this tenant's jobs took, from the day `first` to `last` (as `2026-12-01`; default: 30 days).

        Raises InvalidRequest, BusUnavailable, AccessDenied.
        """
        return await spend_of(self, self.subjects.endpoint("spend", self.tenant), request_of(first, last, by))

    async def replay(self, job_id: str, *, after: Place = START) -> AsyncGenerator[Event, None]:
        """What is stored of a job's events after `after`, in order, and no more; `Job.events` also follows.

        Raises UnknownJob, BusUnavailable.
        """
        async for payload in self.job(job_id).replay(Place(*after)):
            _, event = decode_event(payload)
            if event is not None:
                yield await self.resolved(event)

    async def put_object(self, name: str, data: bytes) -> ObjectInfo:
        """Store content for `{"object": name}` sources. Raises BusUnavailable, Permanent (a full bucket).

        Large sources of a request need not be put by hand: `submit` does it.
        """
        return await self.objects.put(name, data)

    async def get_object(self, name: str) -> bytes:
        """An object's content. Raises UnknownObject, BusUnavailable."""
        return await self.objects.get(name)

    async def resolved(self, event: Event) -> Event:
        """The event; a result comes with its whole output, also where the bus was too small for it."""
        data = event.data
        if not isinstance(data, JobResult) or data.output.object is None:
            return event
        return msgspec.structs.replace(event, data=await self.objects.resolved(data))

    def provide(
        self,
        tools: "Iterable[Tool[..., Any]]",
        *,
        scope: str | None = None,
        grace_s: float = 10.0,
        heartbeat_s: float = 3.0,
    ) -> "ToolProvider":
        """A provider of `tools` over this client's connection; `async with` starts and stops it.

        See `ToolProvider`. Stop it before the client is closed.
        """
        from sidecar.client.tools.provider import ToolProvider

        return ToolProvider(self, tools, scope=scope, grace_s=grace_s, heartbeat_s=heartbeat_s)

    async def _open_feed(self, job_id: str) -> Feed:
        return await self.bus.subscribe(self.subjects.event(self.tenant, job_id, "*"), is_dirty=False)

    async def ask_endpoint(
        self, subject: str, payload: bytes, kind: type[T], *, timeout_s: float | None = None
    ) -> T:
        """One question, asked again while the bus is in trouble: all may be repeated. Not for applications."""
        if self._is_closed:
            raise BusUnavailable("the client was closed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.request_timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                remaining_s = max(deadline - loop.time(), 0.01)
                reply = await self.bus.request(subject, payload, timeout_s=remaining_s)
                return msgspec.json.decode(reply.data, type=kind)
            except UNREADABLE as e:
                raise Permanent(f"the reply on {subject} cannot be read ({e}): update the client") from e
            except Temporary as e:
                pause_s = pause_after(e)
                if loop.time() + pause_s >= deadline:
                    raise
            await asyncio.sleep(pause_s)

    async def ask_for_many(self, subject: str, payload: bytes) -> AsyncGenerator[bytes, None]:
        """One question with many answers; asked again where it was refused before the first. Not for applications.

        Raises BusUnavailable after a pause of `request_timeout_s`, or what the last refusal was.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.request_timeout_s
        while True:
            replies = self.bus.request_many(subject, payload, idle_timeout_s=self.request_timeout_s)
            try:
                async with aclosing(replies):
                    async for reply in replies:
                        yield reply.data
                return
            except RateLimited as e:
                # Nothing was answered: the refusal came in place of the first part.
                pause_s = pause_after(e)
                if loop.time() + pause_s >= deadline:
                    raise
            await asyncio.sleep(pause_s)

    async def _is_known(self, job_id: str) -> bool:
        """Whether the sidecar has heard of a job, now or in a moment. True where nobody can say."""
        for pause_s in _KNOWN_AFTER_S:
            await asyncio.sleep(pause_s)
            try:
                await self.get(job_id)
            except UnknownJob:
                continue
            except SidecarError:
                return True
            return True
        return False

    def _job_name(self, job_id: str) -> str:
        return checked(job_id, what="job id", path="job_id")

    async def _encoded(self, request: JobRequest) -> bytes:
        """The request as it is sent: images and documents that make it too large go to the object store."""
        payload, limit = encode(request), self.bus.max_payload - _HEADERS
        if len(payload) > limit:
            payload = encode(await self.objects.lightened(request, size=len(payload), limit=limit))
        if len(payload) > limit:
            raise Permanent(
                f"the request has {len(payload)} bytes without images and documents, the server takes {limit}: "
                "send long texts as documents",
                code="payload_too_large",
                details={"bytes": len(payload), "limit_bytes": limit},
            )
        return payload
