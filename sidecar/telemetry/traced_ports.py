"""Ports with spans around them. Used only where telemetry is wanted: else the ports stand alone, at no cost."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from sidecar.cluster.work import Work
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.replica import Outcome
from sidecar.models.result import Result
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import ModelClient
from sidecar.ports.tools import ToolBus, ToolCall
from sidecar.request_handler.decode import DecodedRequest
from sidecar.runtime.clock import Clock
from sidecar.telemetry.tracing import Subject, Tracer


class JobSpans:
    """The spans of jobs that run or end here; without telemetry nothing is wrapped and nothing is made."""

    def __init__(self, tracer: Tracer, subjects: Subjects, clock: Clock) -> None:
        self._tracer = tracer
        self._subjects = subjects
        self._clock = clock

    def around(self, work: Work) -> Work:
        return TracedWork(work, self._tracer, self._subject_of) if self._tracer.is_active else work

    def ended(self, result: Result, opened: DecodedRequest) -> None:
        if self._tracer.is_active:
            self._tracer.ended(result, self._subject_of(opened))

    def _subject_of(self, opened: DecodedRequest) -> Subject:
        stored, (tenant, job_class) = opened.stored, opened.stored.lane
        return Subject(
            tenant,
            opened.job,
            job_class,
            stored.headers,
            address=self._subjects.request(tenant, job_class),
            template=self._subjects.request("{tenant}", job_class),
            waited_s=self._clock.now() - stored.stored_at,
        )


class TracedModels:
    """`ModelClient` with a span around each call. What it does not wrap it hands on."""

    def __init__(self, models: ModelClient, tracer: Tracer) -> None:
        self._models = models
        self._tracer = tracer
        # Known of an endpoint once it was looked up; a stand-in has none.
        self._address: Callable[[str], tuple[str, int] | None] = getattr(models, "address", lambda region: None)
        self.apply_guardrail = models.apply_guardrail
        self.look = models.look
        self.close = models.close

    async def converse(self, call: ModelCall) -> ModelReply:
        server = self._address(call.candidate.route.region)
        with self._tracer.call(call, server=server) as record:
            record.reply = await self._models.converse(call)
            return record.reply

    async def stream(self, call: ModelCall) -> AsyncIterator[ModelDelta | ModelReply]:
        """Closed early, the call's own iterator is closed with it, and its connection."""
        server = self._address(call.candidate.route.region)
        with self._tracer.call(call, is_stream=True, server=server) as record:
            items: Any = self._models.stream(call)
            try:
                async for item in items:
                    if isinstance(item, ModelReply):
                        record.reply = item
                    else:
                        record.chunk()
                    yield item
            finally:
                if hasattr(items, "aclose"):
                    await items.aclose()


class TracedTools:
    """`ToolBus` with a span around each call, which the provider can continue."""

    def __init__(self, bus: ToolBus, tracer: Tracer) -> None:
        self._bus = bus
        self._tracer = tracer

    async def call(self, call: ToolCall) -> bytes:
        with self._tracer.tool(call.subject, call.headers) as headers:
            return await self._bus.call(msgspec.structs.replace(call, headers=dict(headers)))

    async def services(self, *, wait_s: float) -> Sequence[bytes]:
        return await self._bus.services(wait_s=wait_s)


class TracedWork:
    """`Work` with a span around each job that runs."""

    def __init__(self, work: Work, tracer: Tracer, subject_of: Callable[[DecodedRequest], Subject]) -> None:
        self._work = work
        self._tracer = tracer
        self._subject_of = subject_of
        self.admit = work.admit
        self.refuse = work.refuse
        self.bereave = work.bereave
        self.record_blocked = work.record_blocked
        self.record_queued = work.record_queued
        self.record_progress = work.record_progress
        self.keeps_s = work.keeps_s
        self.keep_queued = work.keep_queued

    async def run(self, opened: DecodedRequest, share: Any, *, known: Any) -> Outcome:
        with self._tracer.job(self._subject_of(opened)):
            return await self._work.run(opened, share, known=known)
