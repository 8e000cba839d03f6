"""Spans of jobs: what they say, whom they are linked to, and what they cost where nobody wants them."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from sidecar.models.result import ErrorInfo, Output, Result, Timings, Usage
from sidecar.tracing import Tracer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "Llm-Job-Id": "job1"}
CANARY = "the-secret-answer"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracer(provider.get_tracer("test"))


def result(error: ErrorInfo | None = None) -> Result:
    return Result(
        state="failed" if error else "succeeded",
        output=Output(text=CANARY),
        stop_reason="end_turn",
        model="nova-lite",
        model_id="us.amazon.nova-lite-v1:0",
        usage=Usage(input_tokens=10, output_tokens=5),
        cost_usd=0.5,
        error=error,
        timings=Timings(queued_ms=250, total_ms=1250),
    )


def test_a_job_is_one_client_span_with_the_times_it_had(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    tracer.ended(result(), tenant="acme", job="job1", headers={}, stored_at=1_800_000_000.0)
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat nova-lite"
    assert span.kind is SpanKind.CLIENT
    assert span.start_time == 1_800_000_000_250_000_000
    assert span.end_time == 1_800_000_001_250_000_000
    assert span.attributes is not None
    assert span.attributes["gen_ai.provider.name"] == "aws.bedrock"
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


def test_it_is_linked_to_who_submitted_it(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    tracer.ended(result(), tenant="acme", job="job1", headers=HEADERS, stored_at=1.0)
    (span,) = exporter.get_finished_spans()
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]
    assert span.parent is None


def test_a_broken_traceparent_links_to_nothing(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    tracer.ended(result(), tenant="acme", job="job1", headers={"traceparent": "nonsense"}, stored_at=1.0)
    (span,) = exporter.get_finished_spans()
    assert not span.links


def test_a_failure_says_its_code_and_no_span_says_content(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    error = ErrorInfo(code="timeout", message=CANARY)
    tracer.ended(result(error), tenant="acme", job="job1", headers=HEADERS, stored_at=1.0)
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "timeout"
    assert CANARY not in span.to_json()


def test_without_a_tracer_nothing_happens() -> None:
    Tracer().ended(result(), tenant="acme", job="job1", headers=HEADERS, stored_at=1.0)
