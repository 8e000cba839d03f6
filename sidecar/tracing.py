"""Spans of jobs, by OpenTelemetry's conventions for generative AI. All names stand here: they are still in flux.

A job's span is made when the job has ended, with the times it had: what runs pays nothing, and without the extra
`otel` and the setting `telemetry.traces` nothing is made. Content is never in a span.
"""

import logging
from collections.abc import Mapping
from typing import Any

from sidecar.errors import StartupError
from sidecar.models.result import Result
from sidecar.models.subjects import TRACE_HEADERS

log = logging.getLogger(__name__)

PROVIDER = "aws.bedrock"


class Tracer:
    """Makes spans with OpenTelemetry's `tracer`; without one it does nothing."""

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    def ended(
        self, result: Result, *, tenant: str, job: str, headers: Mapping[str, str], stored_at: float
    ) -> None:
        """One CLIENT span over all calls of a job that was stored at `stored_at`, in seconds since 1970.

        It is linked to whoever submitted the job (`traceparent`), not its child: the job may have waited long.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        span = self._tracer.start_span(
            f"chat {result.model or 'unknown'}",
            kind=SpanKind.CLIENT,
            links=_links(headers),
            attributes=_attributes(result, tenant=tenant, job=job),
            start_time=_nanoseconds(stored_at, result.timings.queued_ms),
        )
        if result.error is not None:
            span.set_attribute("error.type", result.error.code)
            span.set_status(Status(StatusCode.ERROR, result.error.code))
        span.end(_nanoseconds(stored_at, result.timings.total_ms))


def _nanoseconds(epoch_s: float, after_ms: int) -> int:
    return round(epoch_s * 1000) * 1_000_000 + after_ms * 1_000_000


def _attributes(result: Result, *, tenant: str, job: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": result.model_id or "",
        "gen_ai.usage.input_tokens": result.usage.input_tokens,
        "gen_ai.usage.output_tokens": result.usage.output_tokens,
        "sidecar.tenant": tenant,
        "sidecar.job": job,
        "sidecar.outcome": result.state,
        "sidecar.attempts": len(result.attempts),
    }
    if result.stop_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = (result.stop_reason,)
    if result.cost_usd is not None:
        attributes["sidecar.cost_usd"] = result.cost_usd
    return attributes


def _links(headers: Mapping[str, str]) -> list[Any]:
    carrier = {name: headers[name] for name in TRACE_HEADERS if name in headers}
    if not carrier:
        return []
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    return [Link(context)] if context.is_valid else []


def open_tracer(*, version: str) -> Tracer:
    """A tracer that exports by OTLP, as the `OTEL_…` environment says. Raises StartupError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        raise StartupError("telemetry.traces needs the extra `otel`: install nats-llm-sidecar[otel]") from e
    resource = Resource.create({"service.name": "llm-sidecar", "service.version": version})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider.get_tracer("sidecar", version))
