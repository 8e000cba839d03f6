"""Spans and metrics of whole jobs: what they say, whose children they are, and what carries them on."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from sidecar.errors import Permanent, StartupError
from sidecar.models.trace import TRACE, within_trace
from sidecar.ports.bus import Lane
from sidecar.telemetry import conventions
from sidecar.telemetry.tracing import Subject, Tracer, is_exported, open_tracer, resource_attributes
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, fails, says
from tests.support.tool_jobs import Providers, by_turn, call
from tests.support.virtual_time import VirtualClock

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
CANARY = "canary-content"


class Seen(NamedTuple):
    tracer: Tracer
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self, prefix: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(prefix)]

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def seen() -> Iterator[Seen]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    spans = TracerProvider(shutdown_on_exit=False)
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    metrics = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    yield Seen(Tracer(spans.get_tracer("test"), metrics.get_meter("test")), exporter, reader)
    spans.shutdown()
    metrics.shutdown()


async def submit(b: Bench, job: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> str:
    request = {"messages": [{"role": "user", "content": CANARY}], "model": MODEL, **more}
    given = {"Llm-Job-Id": job, "traceparent": PARENT, **(headers or {})}
    intake = (await b.outside()).intake
    await intake.submit(Lane("acme", "standard"), json.dumps(request).encode(), given)
    return job


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


async def test_a_job_is_a_child_of_its_submitter_and_its_calls_are_its_children(seen: Seen) -> None:
    clock = VirtualClock()
    async with bench(by_turn(clock, [call("add", n=2)], says("four"))) as b:
        b.tracer = seen.tracer
        await b.replica()
        tools = Providers(b)
        await tools.add("add", lambda given: {"sum": 4})
        await b.result(await submit(b, "job1", tools=["add"], stream=True))
        await b.clock.settle()
    (process,) = seen.spans("process")
    assert (process.name, process.kind) == ("process llm.v1.request.{tenant}.standard", SpanKind.CONSUMER)
    assert attributes(process)[conventions.DESTINATION] == "llm.v1.request.acme.standard"
    assert process.parent is not None
    assert f"{process.parent.trace_id:032x}" == TRACE_ID
    assert not process.links
    assert attributes(process)[conventions.OUTCOME] == "succeeded"
    children = [*seen.spans("chat"), *seen.spans("execute_tool")]
    model_id = attributes(children[0])[conventions.REQUEST_MODEL]
    assert "anthropic" in model_id
    assert [span.name for span in children] == [f"chat {model_id}"] * 2 + ["execute_tool add"]
    assert process.context is not None
    for span in children:
        assert span.kind is (SpanKind.INTERNAL if "tool" in span.name else SpanKind.CLIENT)
        assert span.parent is not None
        assert span.parent.span_id == process.context.span_id
    said = attributes(children[1])
    assert said[conventions.PROVIDER_NAME] == "aws.bedrock"
    assert said[conventions.OUTPUT_TOKENS] == 5
    assert said[conventions.FINISH_REASONS] == ("end_turn",)
    assert said[conventions.REQUEST_STREAM] is True
    assert said[conventions.RESPONSE_FIRST_CHUNK] >= 0
    (made,) = tools.log
    tool = children[2]
    assert tool.context is not None
    assert made.headers["traceparent"].split("-")[2] == f"{tool.context.span_id:016x}"
    assert made.headers["traceparent"].split("-")[1] == f"{process.context.trace_id:032x}"


async def test_events_carry_the_trace_of_their_job(seen: Seen) -> None:
    async with bench() as b:
        b.tracer = seen.tracer
        await b.replica()
        job = await submit(b, "job1", stream=True)
        await b.result(job)
        (process,) = seen.spans("process")
        assert process.context is not None
        assert process.context.trace_id == int(TRACE_ID, 16)
        carried = {e.headers["traceparent"][:-3] for e in b.bus.jobs.find(f"llm.v1.log.acme.{job}.>")}
        assert carried == {f"00-{process.context.trace_id:032x}-{process.context.span_id:016x}"}


async def test_without_telemetry_the_submitters_trace_is_carried_through() -> None:
    async with bench() as b:
        await b.replica()
        job = await submit(b, "job1", headers={"tracestate": "a=b"})
        await b.result(job)
        refused = await submit(b, "job2", model="none-such")
        await b.result(refused)
        for name, state in ((job, "a=b"), (refused, None)):
            for event in b.bus.jobs.find(f"llm.v1.log.acme.{name}.>"):
                assert (event.headers.get("traceparent"), event.headers.get("tracestate")) == (PARENT, state)
        plain = await b.submit()
        await b.result(plain)
        assert not any(e.headers.get("traceparent") for e in b.bus.jobs.find(f"llm.v1.log.acme.{plain}.>"))
    assert not TRACE.get()


async def test_a_failure_says_its_code_and_no_span_says_content(seen: Seen) -> None:
    clock = VirtualClock()
    model = ScriptedModel(clock, default=fails(Permanent(CANARY, code="model_error")))
    async with bench(model) as b:
        b.tracer = seen.tracer
        await b.replica(models={MODEL: {"fallback": []}})
        result = await b.result(await submit(b, "job1"))
        assert result.state == "failed"
    (process,) = seen.spans("process")
    assert attributes(process)[conventions.ERROR_TYPE] == "model_error"
    assert {attributes(span)[conventions.ERROR_TYPE] for span in seen.spans("chat")} == {"model_error"}
    assert CANARY not in "".join(span.to_json() for span in seen.exporter.get_finished_spans())


async def test_a_job_that_never_ran_has_a_span_of_its_own(seen: Seen) -> None:
    async with bench() as b:
        b.tracer = seen.tracer
        await b.replica()
        result = await b.result(await submit(b, "job1", model="none-such"))
        assert result.state == "rejected"
    (process,) = seen.spans("process")
    assert attributes(process)[conventions.OUTCOME] == "rejected"
    assert process.parent is not None
    assert f"{process.parent.trace_id:032x}" == TRACE_ID


async def test_calls_are_measured(seen: Seen) -> None:
    async with bench() as b:
        b.tracer = seen.tracer
        await b.replica()
        await b.result(await submit(b, "job1", stream=True))
        await b.result(await submit(b, "job2"))
    found = seen.metrics()
    assert sum(point.count for point in found[conventions.DURATION]) == 2
    assert sum(point.count for point in found[conventions.FIRST_CHUNK]) == 1
    kinds = {point.attributes[conventions.TOKEN_TYPE]: point.count for point in found[conventions.TOKEN_USAGE]}
    assert kinds == {"input": 2, "output": 2}
    assert CANARY not in str(found)


def subject_with(headers: Mapping[str, str], *, waited_s: float = 1.0) -> Subject:
    address, template = "llm.v1.request.acme.standard", "llm.v1.request.{tenant}.standard"
    return Subject("acme", "job1", "standard", headers, address, template, waited_s)


def test_a_job_that_waited_longer_than_a_trace_lives_is_linked(seen: Seen) -> None:
    with seen.tracer.job(subject_with({"traceparent": PARENT}, waited_s=61)):
        pass
    (span,) = seen.spans("process")
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE_ID]


@pytest.mark.parametrize(
    ("name", "value", "is_on"),
    [
        ("OTEL_SDK_DISABLED", "true", False),
        ("OTEL_TRACES_EXPORTER", "none", False),
        ("OTEL_TRACES_EXPORTER", "otlp", True),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", True),
        ("OTEL_TRACES_EXPORTER", "console", None),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", None),
    ],
)
def test_the_environment_of_opentelemetry_holds(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_on: bool | None
) -> None:
    monkeypatch.setenv(name, value)
    if is_on is None:
        with pytest.raises(StartupError, match=name):
            open_tracer(version="1", traces=True, metrics=False)
        return
    assert is_exported("TRACES") is is_on


@pytest.mark.parametrize("name", ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"])
def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "mine" if name == "OTEL_SERVICE_NAME" else "service.name=mine")
    assert Resource.create(resource_attributes("1")).attributes["service.name"] == "mine"
    monkeypatch.delenv(name)
    assert Resource.create(resource_attributes("1")).attributes["service.name"] == "llm-sidecar"


async def test_a_broken_traceparent_links_to_nothing(seen: Seen) -> None:
    subject = subject_with({"traceparent": "nonsense"})
    with seen.tracer.job(subject):
        pass
    (span,) = seen.spans("process")
    assert not span.links


def test_without_a_tracer_nothing_happens() -> None:
    subject = subject_with({"traceparent": PARENT})
    with Tracer().job(subject):
        assert not TRACE.get()
    assert not Tracer().is_active


def test_a_trace_that_is_there_already_stays() -> None:
    with within_trace({"traceparent": PARENT}):
        with within_trace({"traceparent": "another"}):
            assert TRACE.get()["traceparent"] == PARENT
        assert TRACE.get()["traceparent"] == PARENT
    assert not TRACE.get()
