"""Spans and metrics by OpenTelemetry: of jobs, of their model calls, of their tool calls.

A job is a span of its own (`process`), linked to whoever submitted it and not its child, for it may have waited
long. Model and tool calls are its children, and what leaves the process on its behalf carries its `traceparent`:
events, tool calls, jobs below it. Without the extra `otel` and the settings `telemetry.traces` and
`telemetry.metrics` nothing is made and nothing is paid. Content is never in a span. All names are those of
`conventions`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sidecar.errors import SidecarError, StartupError
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.result import Result
from sidecar.models.trace import TRACE, trace_of
from sidecar.telemetry import conventions as names

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """Which job. `stored_at` in seconds since 1970; `headers` are its request's."""

    tenant: str
    job: str
    job_class: str
    headers: Mapping[str, str]
    stored_at: float


class CallRecord:
    """One model call as it goes on."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first_chunk_s: float | None = None
        self.reply: ModelReply | None = None

    def chunk(self) -> None:
        if self.first_chunk_s is None:
            self.first_chunk_s = time.monotonic() - self.began


class Tracer:
    """Makes spans with OpenTelemetry's `tracer` and measures with its `meter`; without them it does nothing."""

    def __init__(self, tracer: Any = None, meter: Any = None, *, providers: Sequence[Any] = ()) -> None:
        """`providers` are shut down by `close`."""
        self._tracer = tracer
        self._providers = providers
        self._instruments = _Instruments(meter) if meter is not None else None
        self.is_active = tracer is not None or meter is not None

    async def close(self) -> None:
        """Send what was not sent yet. Cancelled, it leaves off at once, and the process may end."""
        if not self._providers:
            return
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def shut_down() -> None:
            for provider in self._providers:
                provider.shutdown()
            with suppress(RuntimeError):  # The loop has gone: nobody waited any more.
                loop.call_soon_threadsafe(closed.set)

        # An exporter may try for a minute to reach a collector that is away: a thread that no exit waits for.
        threading.Thread(target=shut_down, name="telemetry-shutdown", daemon=True).start()
        await closed.wait()

    @contextmanager
    def job(self, subject: Subject) -> Iterator[None]:
        """The span of a job that runs here; what is done inside belongs to it."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.trace import SpanKind, use_span

        span = self._tracer.start_span(
            f"{names.PROCESS} {subject.job_class}",
            kind=SpanKind.CONSUMER,
            links=_links(subject.headers),
            attributes=_of_job(subject),
        )
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            token = TRACE.set(_traceparent(span) or trace_of(subject.headers))
            try:
                yield
            finally:
                TRACE.reset(token)

    def ended(self, result: Result, subject: Subject) -> None:
        """What became of a job: on its span, or on one made for a job that never ran."""
        if self._tracer is None:
            return
        from opentelemetry.trace import get_current_span

        span = get_current_span()
        if span.is_recording():
            _finish(span, result)
            return
        with self.job(subject):
            _finish(get_current_span(), result)

    @contextmanager
    def call(self, call: ModelCall) -> Iterator[CallRecord]:
        """The span `chat` of a model call, and its measures."""
        record = CallRecord()
        attributes = _of_call(call)
        with self._span(f"{names.CHAT} {call.candidate.profile.alias}", attributes) as span:
            try:
                yield record
            except BaseException as e:
                attributes[names.ERROR_TYPE] = _error_type(e)
                raise
            finally:
                _reply(span, record.reply)
                if self._instruments is not None:
                    self._instruments.record(record, attributes)

    @contextmanager
    def tool(self, subject: str, headers: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
        """The span `execute_tool` of a call over the bus; gives the headers that carry it on."""
        name = subject.split(".")[-2]
        use = headers.get("Llm-Tool-Use-Id", "")
        attributes = {names.OPERATION: names.EXECUTE_TOOL, names.TOOL_NAME: name, names.TOOL_CALL_ID: use}
        with self._span(f"{names.EXECUTE_TOOL} {name}", attributes) as span:
            yield {**headers, **_traceparent(span)}

    @contextmanager
    def _span(self, name: str, attributes: Mapping[str, Any]) -> Iterator[Any]:
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        # Not made the current one: a stream that is dropped is closed by another task, outside of its context.
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        try:
            yield span
        except BaseException as e:
            span.set_attribute(names.ERROR_TYPE, _error_type(e))
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()


class _Instruments:
    def __init__(self, meter: Any) -> None:
        def histogram(name: str, unit: str, bounds: tuple[float, ...]) -> Any:
            return meter.create_histogram(name, unit=unit, explicit_bucket_boundaries_advisory=list(bounds))

        self._duration = histogram(names.DURATION, "s", names.DURATION_BOUNDS_S)
        self._first_chunk = histogram(names.FIRST_CHUNK, "s", names.DURATION_BOUNDS_S)
        self._tokens = histogram(names.TOKEN_USAGE, "{token}", names.TOKEN_BOUNDS)

    def record(self, record: CallRecord, attributes: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in attributes.items() if name != names.REQUEST_MAX_TOKENS}
        self._duration.record(time.monotonic() - record.began, kept)
        if record.first_chunk_s is not None:
            self._first_chunk.record(record.first_chunk_s, kept)
        if record.reply is not None:
            usage = record.reply.usage
            self._tokens.record(usage.input_tokens, {**kept, names.TOKEN_TYPE: "input"})
            self._tokens.record(usage.output_tokens, {**kept, names.TOKEN_TYPE: "output"})


def _of_job(subject: Subject) -> dict[str, Any]:
    return {
        names.MESSAGING_SYSTEM: names.SYSTEM,
        names.MESSAGING_OPERATION: names.PROCESS,
        names.MESSAGING_KIND: names.PROCESS,
        names.DESTINATION: f"request.{subject.tenant}.{subject.job_class}",
        names.MESSAGE_ID: subject.job,
        names.TENANT: subject.tenant,
        names.JOB: subject.job,
        names.JOB_CLASS: subject.job_class,
    }


def _of_call(call: ModelCall) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        names.OPERATION: names.CHAT,
        names.PROVIDER_NAME: names.PROVIDER,
        names.REQUEST_MODEL: call.candidate.route.invoke_id,
        names.REGION: call.candidate.route.region,
    }
    if call.params.max_tokens is not None:
        attributes[names.REQUEST_MAX_TOKENS] = call.params.max_tokens
    return attributes


def _reply(span: Any, reply: ModelReply | None) -> None:
    if span is None or reply is None:
        return
    span.set_attribute(names.INPUT_TOKENS, reply.usage.input_tokens)
    span.set_attribute(names.OUTPUT_TOKENS, reply.usage.output_tokens)
    span.set_attribute(names.FINISH_REASONS, (reply.stop_reason,))


def _finish(span: Any, result: Result) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute(names.OUTCOME, result.state)
    span.set_attribute(names.ATTEMPTS, len(result.attempts))
    span.set_attribute(names.QUEUED_MS, result.timings.queued_ms)
    if result.cost_usd is not None:
        span.set_attribute(names.COST_USD, result.cost_usd)
    if result.error is not None:
        span.set_attribute(names.ERROR_TYPE, result.error.code)
        span.set_status(Status(StatusCode.ERROR, result.error.code))


def _error_type(error: BaseException) -> str:
    """A code or a type; never a message, which may quote content."""
    return error.code if isinstance(error, SidecarError) else type(error).__name__


def _links(headers: Mapping[str, str]) -> list[Any]:
    carrier = trace_of(headers)
    if not carrier:
        return []
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = get_current_span(TraceContextTextMapPropagator().extract(dict(carrier))).get_span_context()
    return [Link(context)] if context.is_valid else []


def _traceparent(span: Any) -> dict[str, str]:
    """The headers by which others continue a span."""
    if span is None or not span.get_span_context().is_valid:
        return {}
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return carrier


def open_tracer(*, version: str, traces: bool, metrics: bool) -> Tracer:
    """A tracer that exports by OTLP, as the `OTEL_…` environment says. Raises StartupError without the extra."""
    if not (traces or metrics):
        return Tracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        raise StartupError(
            "telemetry.traces and telemetry.metrics need the extra `otel`: install nats-llm-sidecar[otel]"
        ) from e
    resource = Resource.create({"service.name": "llm-sidecar", "service.version": version})
    tracer = meter = None
    providers: list[Any] = []
    if traces:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        providers.append(provider)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracer = provider.get_tracer("sidecar", version)
    if metrics:
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        providers.append(meters)
        meter = meters.get_meter("sidecar", version)
    return Tracer(tracer, meter, providers=providers)
