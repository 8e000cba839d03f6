"""What a scrape says, from what the replica knows."""

from typing import get_args

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.adapters.nats.fair.counts import EndpointCounts
from sidecar.adapters.nats.fair.turnstile import EndpointLoad
from sidecar.models.base import JobClass
from sidecar.models.result import Attempt, ErrorInfo, Result, Timings, Usage
from sidecar.models.stats import OtherTenants
from sidecar.telemetry.counters import MOST_TENANTS, OTHERS, Counters
from sidecar.telemetry.metrics import Scrape, render
from tests.support.stats_sample import sample_stats


def done(**more: object) -> Result:
    given = {
        "state": "succeeded",
        "model": "nova-lite",
        "usage": Usage(input_tokens=10, output_tokens=5),
        "cost_usd": 0.25,
        "timings": Timings(queued_ms=100, first_token_ms=400, total_ms=900),
    }
    return Result(**{**given, **more})  # type: ignore[arg-type]


def scraped(tally: Counters, *, is_scheduler: bool = True) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(Scrape(sample_stats(is_scheduler=is_scheduler), tally, 0.02, False, True)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_ended_jobs_are_counted_by_tenant_model_and_outcome() -> None:
    tally = Counters()
    tally.ended("acme", done())
    tally.ended("acme", done())
    tally.ended("acme", done(state="failed", cost_usd=None))
    found = scraped(tally)
    labels = (("model", "nova-lite"), ("outcome", "succeeded"), ("tenant", "acme"))
    assert found["sidecar_jobs_total", labels] == 2
    assert found["sidecar_cost_usd_total", (("model", "nova-lite"), ("tenant", "acme"))] == pytest.approx(0.5)


def test_waits_and_first_tokens_are_histograms() -> None:
    tally = Counters()
    tally.ended("acme", done())
    found = scraped(tally)
    assert found["sidecar_queue_wait_seconds_count", (("class", "standard"),)] == 1
    assert found["sidecar_queue_wait_seconds_bucket", (("class", "standard"), ("le", "0.1"))] == 1
    assert found["sidecar_first_token_seconds_sum", ()] == pytest.approx(0.3)


def test_queues_and_quotas_come_from_the_scheduler_alone() -> None:
    depth = ("sidecar_queue_depth", (("class", "batch"), ("tenant", "acme")))
    pool = (("model", "nova-lite"), ("model_id", "amazon.nova-lite-v1:0"), ("region", "us-east-1"))
    left = ("sidecar_quota_tokens_remaining", pool)
    leading = scraped(Counters())
    assert leading[depth] == 7
    assert leading[left] == 500
    following = scraped(Counters(), is_scheduler=False)
    assert depth not in following
    assert following["sidecar_inflight", ()] == 3


def test_calls_and_errors_are_counted_by_what_became_of_them() -> None:
    tally = Counters()
    refused = ErrorInfo(code="throttled", message="slow down")
    attempts = (
        Attempt(model_id="m", region="us-east-1", outcome="error", error=refused),
        Attempt(model_id="m", region="us-west-2", outcome="ok", usage_basis="estimated"),
    )
    tally.ended("acme", done(attempts=attempts))
    tally.ended("acme", done(state="failed", error=ErrorInfo(code="timeout", message="late")))
    bounded = ErrorInfo(code="model_error", message="broke", details={"limit": "max_calls"})
    tally.ended("acme", done(state="failed", error=bounded))
    tally.ended(
        "acme", done(state="failed", error=ErrorInfo(code="timeout", message="late", details={"limit": "x"}))
    )
    found = scraped(tally)

    def calls(region: str, outcome: str) -> float:
        return found["sidecar_model_calls_total", (("model_id", "m"), ("outcome", outcome), ("region", region))]

    assert (calls("us-east-1", "throttled"), calls("us-west-2", "ok")) == (1, 1)
    assert found["sidecar_job_errors_total", (("code", "timeout"),)] == 2
    assert found["sidecar_jobs_bounded_total", (("limit", "max_calls"),)] == 1
    assert found["sidecar_jobs_bounded_total", (("limit", "same_failure"),)] == 0
    assert found["sidecar_calls_estimated_total", ()] == 1
    assert found["sidecar_job_duration_seconds_count", ()] == 1


def test_classes_that_do_not_exist_share_a_label() -> None:
    tally = Counters()
    for number in range(50):
        tally.ended("acme", done(), job_class=f"made-up-{number}")
    assert set(tally.waits) == {*get_args(JobClass), OTHERS}


def test_tenants_that_are_not_listed_are_in_the_sum() -> None:
    more = msgspec.structs.replace(sample_stats(), other_tenants=OtherTenants(tenants=9, queued=90))
    text = render(Scrape(more, Counters(), 0.0, False, True)).decode()
    assert 'sidecar_queue_depth{class="_other",tenant="_other"} 90.0' in text


def test_tenants_past_the_bound_share_a_label() -> None:
    tally = Counters()
    for number in range(MOST_TENANTS + 5):
        tally.ended(f"t{number}", done())
    assert len({label.tenant for label, _ in tally.jobs}) == MOST_TENANTS + 1
    assert sum(count for (label, _), count in tally.jobs.items() if label.tenant == OTHERS) == 5


def test_live_tools_are_told_by_every_replica() -> None:
    scrape = Scrape(sample_stats(is_scheduler=False), Counters(), 0.0, False, True, live_tools=12)
    assert b"sidecar_tools_live 12.0" in render(scrape)


def test_foreign_writes_are_told_by_bucket() -> None:
    scrape = Scrape(sample_stats(is_scheduler=False), Counters(), 0.0, False, True, foreign_writes={"LLM_CTL": 3})
    assert b'sidecar_foreign_writes_total{bucket="LLM_CTL"} 3.0' in render(scrape)


def test_dropped_messages_are_counted() -> None:
    scrape = Scrape(sample_stats(is_scheduler=False), Counters(), 0.0, False, True, misdelivered=3)
    assert b"sidecar_misdelivered_messages_total 3.0" in render(scrape)


@pytest.mark.parametrize(("offset_s", "line"), [(3600.5, "sidecar_clock_offset_seconds 3600.5"), (None, None)])
def test_the_clocks_offset_is_told_where_it_is_known(offset_s: float | None, line: str | None) -> None:
    scrape = Scrape(sample_stats(is_scheduler=False), Counters(), 0.0, False, True, clock_offset_s=offset_s)
    found = [text for text in render(scrape).decode().splitlines() if text.startswith("sidecar_clock")]
    assert found == ([line] if line else [])


def test_requests_to_endpoints_by_endpoint_and_by_tenant() -> None:
    counts = EndpointCounts()
    counts.answered("get", "acme", "ok")
    counts.answered("get", "acme", "not_found")
    counts.answered("models", "globex", "rate_limited")
    counts.unheard("models", "globex")
    counts.answered("get", "not a\nname", "ok")
    for i in range(2 * MOST_TENANTS):
        counts.answered("jobs", f"t{i}", "ok")
    load = {("acme", False): EndpointLoad(1, 2, 300, 4), ("acme", True): EndpointLoad(4, 1, 50, 0)}
    scrape = Scrape(
        stats=sample_stats(is_scheduler=False),
        tally=Counters(),
        lag_s=0.0,
        is_degraded=False,
        is_policy_current=True,
        endpoints=counts.figures(load),
    )
    text = render(scrape).decode()
    assert 'sidecar_endpoint_requests_total{endpoint="get",outcome="ok"} 2.0' in text
    assert 'sidecar_endpoint_requests_total{endpoint="models",outcome="unheard"} 1.0' in text
    assert 'sidecar_endpoint_tenant_requests_total{outcome="rate_limited",tenant="globex"} 1.0' in text
    assert 'sidecar_endpoint_tenant_requests_total{outcome="answered",tenant="acme"} 2.0' in text
    assert 'sidecar_endpoint_waiting{tenant="acme"} 3.0' in text
    assert 'sidecar_endpoint_reply_bytes{tenant="acme"} 350.0' in text
    (family,) = [f for f in text_string_to_metric_families(text) if f.name == "sidecar_endpoint_tenant_requests"]
    names = {sample.labels["tenant"] for sample in family.samples}
    assert OTHERS in names
    assert len(names) <= MOST_TENANTS + 1
