"""Spans and metrics by OpenTelemetry: of jobs, of their model calls, of their tool calls.

A job is a span (`process`): the child of its submitter's where it is begun within a trace's usual life, else one
of its own with a link, for it may have waited long. Model and tool calls are its children, and what leaves the
process on its behalf carries its `traceparent`: events, tool calls, jobs below it. Without the extra `otel` and
the settings `telemetry.traces` and `telemetry.metrics` nothing is made and nothing is paid. Content is never in a
span. All names are those of `conventions`.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sidecar.errors import SidecarError, StartupError
from sidecar.models.call import ModelCall, ModelReply
from sidecar.models.result import Result, Usage
from sidecar.models.trace import TRACE, trace_of
from sidecar.telemetry import conventions as names

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """Which job. `address` is the subject of its request and `template` that of all such; `headers` are its
    request's; `waited_s` is how long it has been stored.
    """

    tenant: str
    job: str
    job_class: str
    headers: Mapping[str, str]
    address: str
    template: str
    waited_s: float


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

    def __init__(
        self, tracer: Any = None, meter: Any = None, *, providers: Sequence[Any] = (), trace_life_s: float = 60.0
    ) -> None:
        """`providers` are shut down by `close`. A job that waited longer than `trace_life_s` has a trace of its
        own: most backends have closed its submitter's by then.
        """
        self._tracer = tracer
        self._trace_life_s = trace_life_s
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

        submitter = _submitter(subject.headers)
        is_child = submitter is not None and subject.waited_s <= self._trace_life_s
        span = self._tracer.start_span(
            f"{names.PROCESS} {subject.template}",
            context=_context(submitter) if is_child else None,
            kind=SpanKind.CONSUMER,
            links=_links(None if is_child else submitter),
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
    def call(
        self, call: ModelCall, *, is_stream: bool = False, server: tuple[str, int] | None = None
    ) -> Iterator[CallRecord]:
        """The span `chat` of a model call, and its measures. `server` is the endpoint's host and port."""
        record = CallRecord()
        attributes = _of_call(call, server)
        more = _asked(call, is_stream=is_stream)
        with self._span(f"{names.CHAT} {call.candidate.route.invoke_id}", attributes | more, "CLIENT") as span:
            try:
                yield record
            except BaseException as e:
                attributes[names.ERROR_TYPE] = _error_type(e)
                raise
            finally:
                _reply(span, record)
                if self._instruments is not None:
                    self._instruments.record(record, attributes)

    @contextmanager
    def tool(self, subject: str, headers: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
        """The span `execute_tool` of a call over the bus; gives the headers that carry it on."""
        name = subject.split(".")[-2]
        use = headers.get("Llm-Tool-Use-Id", "")
        attributes = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL_NAME: name,
            names.TOOL_CALL_ID: use,
            names.TOOL_TYPE: "function",
        }
        with self._span(f"{names.EXECUTE_TOOL} {name}", attributes, "INTERNAL") as span:
            yield {**headers, **_traceparent(span)}

    @contextmanager
    def _span(self, name: str, attributes: Mapping[str, Any], kind: str) -> Iterator[Any]:
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        # Not made the current one: a stream that is dropped is closed by another task, outside of its context.
        span = self._tracer.start_span(name, kind=SpanKind[kind], attributes=attributes)
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
        kept = dict(attributes)
        if record.reply is not None:
            kept[names.RESPONSE_MODEL] = attributes[names.REQUEST_MODEL]
        self._duration.record(time.monotonic() - record.began, kept)
        if record.first_chunk_s is not None:
            self._first_chunk.record(record.first_chunk_s, kept)
        if record.reply is not None:
            usage = record.reply.usage
            self._tokens.record(_all_input(usage), {**kept, names.TOKEN_TYPE: "input"})
            self._tokens.record(usage.output_tokens, {**kept, names.TOKEN_TYPE: "output"})


def _of_job(subject: Subject) -> dict[str, Any]:
    return {
        names.MESSAGING_SYSTEM: names.SYSTEM,
        names.MESSAGING_OPERATION: names.PROCESS,
        names.MESSAGING_KIND: names.PROCESS,
        names.DESTINATION: subject.address,
        names.DESTINATION_TEMPLATE: subject.template,
        names.MESSAGE_ID: subject.job,
        names.TENANT: subject.tenant,
        names.JOB: subject.job,
        names.JOB_CLASS: subject.job_class,
    }


def _of_call(call: ModelCall, server: tuple[str, int] | None) -> dict[str, Any]:
    """What spans and measures have in common: few values each."""
    attributes: dict[str, Any] = {
        names.OPERATION: names.CHAT,
        names.PROVIDER_NAME: names.PROVIDER,
        names.REQUEST_MODEL: call.candidate.route.invoke_id,
        names.REGION: call.candidate.route.region,
    }
    if server is not None:
        attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = server
    return attributes


def _asked(call: ModelCall, *, is_stream: bool) -> dict[str, Any]:
    params = call.params
    given: dict[str, Any] = {
        names.REQUEST_MAX_TOKENS: params.max_tokens,
        names.REQUEST_TEMPERATURE: params.temperature,
        names.REQUEST_TOP_P: params.top_p,
        names.REQUEST_STREAM: is_stream or None,
        names.OUTPUT_TYPE: "text" if call.output_schema is None else "json",
    }
    return {name: value for name, value in given.items() if value is not None}


def _all_input(usage: Usage) -> int:
    """Input tokens as the conventions count them: those read from and written to a cache are among them."""
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def _reply(span: Any, record: CallRecord) -> None:
    if span is None:
        return
    if record.first_chunk_s is not None:
        span.set_attribute(names.RESPONSE_FIRST_CHUNK, record.first_chunk_s)
    reply = record.reply
    if reply is None:
        return
    usage = reply.usage
    span.set_attribute(names.INPUT_TOKENS, _all_input(usage))
    span.set_attribute(names.OUTPUT_TOKENS, usage.output_tokens)
    if usage.cache_read_tokens or usage.cache_write_tokens:
        span.set_attribute(names.CACHE_READ_TOKENS, usage.cache_read_tokens)
        span.set_attribute(names.CACHE_WRITE_TOKENS, usage.cache_write_tokens)
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


def _submitter(headers: Mapping[str, str]) -> Any:
    """The span of whoever submitted a job; None where its request told none."""
    carrier = trace_of(headers)
    if not carrier:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    span = get_current_span(TraceContextTextMapPropagator().extract(dict(carrier)))
    return span if span.get_span_context().is_valid else None


def _context(span: Any) -> Any:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)


def _links(span: Any) -> list[Any]:
    if span is None:
        return []
    from opentelemetry.trace import Link

    return [Link(span.get_span_context())]


def _traceparent(span: Any) -> dict[str, str]:
    """The headers by which others continue a span."""
    if span is None or not span.get_span_context().is_valid:
        return {}
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return carrier


def open_tracer(*, version: str, traces: bool, metrics: bool, trace_life_s: float = 60.0) -> Tracer:
    """A tracer that exports by OTLP, as the `OTEL_…` environment says. Raises StartupError without the extra.

    `OTEL_SDK_DISABLED` and `OTEL_TRACES_EXPORTER=none`, `OTEL_METRICS_EXPORTER=none` turn off what the settings
    turn on; another exporter or protocol than OTLP over HTTP is refused by name.
    """
    traces, metrics = traces and is_exported("TRACES"), metrics and is_exported("METRICS")
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
    resource = Resource.create(resource_attributes(version))
    tracer = meter = None
    providers: list[Any] = []
    if traces:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        providers.append(provider)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracer = provider.get_tracer("sidecar", version, schema_url=names.SCHEMA_URL)
    if metrics:
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        providers.append(meters)
        meter = meters.get_meter("sidecar", version, schema_url=names.SCHEMA_URL)
    return Tracer(tracer, meter, providers=providers, trace_life_s=trace_life_s)


def resource_attributes(version: str) -> dict[str, str]:
    """What this process says of itself. The environment's name of the service goes before ours."""
    named = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or os.environ.get(
        "OTEL_SERVICE_NAME"
    )
    return {"service.version": version} if named else {"service.name": "llm-sidecar", "service.version": version}


def is_exported(signal: str) -> bool:
    """Whether the environment lets a signal (TRACES, METRICS) out. Raises StartupError for what is not shipped."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise StartupError(f"OTEL_{signal}_EXPORTER is {exporter!r}: the extra `otel` brings otlp alone (or none)")
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(name)
        if protocol:
            if protocol != "http/protobuf":
                raise StartupError(f"{name} is {protocol!r}: the extra `otel` brings http/protobuf alone")
            break
    return True
