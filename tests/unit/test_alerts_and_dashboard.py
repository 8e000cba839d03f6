"""Alert rules and the dashboard speak of what /metrics exports, and each alert has its page."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.errors import ErrorCode
from sidecar.models.base import JobClass
from sidecar.models.result import Attempt, ErrorInfo, Result, TerminalState, Timings, Usage
from sidecar.models.stats import Stats
from sidecar.telemetry.counters import Counters
from sidecar.telemetry.metrics import Scrape, render
from tests.support.promql import Expression, parse
from tests.support.stats_sample import sample_stats

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/llm-sidecar.json"
CHART_FILES = ROOT / "deploy/helm/nats-llm-sidecar/files"
RUNBOOKS = ROOT / "docs/runbooks.md"
# What Prometheus itself adds to every sample.
TARGET = {"instance", "job"}
VALUES = {
    "class": set(get_args(JobClass)),
    "outcome": {*get_args(TerminalState), "ok", *get_args(ErrorCode)},
    "code": set(get_args(ErrorCode)),
}


def exported() -> dict[str, set[str]]:
    """Every sample's name and its labels, of a replica of which everything is known."""
    tally = Counters()
    tally.ended(
        "acme",
        Result(
            state="failed",
            model="nova-lite",
            usage=Usage(input_tokens=1, output_tokens=1),
            cost_usd=0.25,
            error=ErrorInfo(code="throttled", message="slow down"),
            attempts=(Attempt(model_id="nova", region="us-east-1", outcome="ok"),),
            timings=Timings(queued_ms=1, first_token_ms=2, total_ms=3),
        ),
    )
    text = render(Scrape(sample_stats(), tally, 0.02, False, True, foreign_writes={"LLM_CTL": 1})).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[Any]:
    for rule in alerts():
        yield pytest.param(rule["expr"], id=rule["alert"])
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["definition"], id=variable["name"])


def unknown(found: Expression) -> list[str]:
    """What of an expression is not exported."""
    wrong = [s.metric for s in found.selectors if s.metric not in EXPORTED and s.metric != "tenant"]
    labels = set(TARGET)
    for selector in found.selectors:
        own = EXPORTED.get(selector.metric, set())
        labels |= own
        for label, operator, value in selector.matchers:
            if label not in own:
                wrong.append(f"{selector.metric}{{{label}}}")
            elif operator == "=" and value not in VALUES[label]:
                wrong.append(f"{label}={value}")
    return wrong + sorted(found.grouped - labels)


@pytest.mark.parametrize("text", list(expressions()))
def test_expressions_name_what_is_exported(text: str) -> None:
    found = parse(text)
    assert found.selectors
    assert not unknown(found)


@pytest.mark.parametrize(
    "text",
    [
        "sum(sidecar_job_total)",
        'rate(sidecar_jobs_total{tennant="a"}[5m])',
        'rate(sidecar_jobs_total{outcome="exploded"}[5m])',
        "sum by (color) (sidecar_queue_depth)",
    ],
)
def test_what_is_not_exported_is_found(text: str) -> None:
    assert unknown(parse(text))


@pytest.mark.parametrize("text", ["sum(sidecar_slots", "rate > 3", "sidecar_slots ? 1"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"brackets|no metric|not understood"):
        parse(text)


def test_labels_in_texts_are_those_of_the_expression() -> None:
    for rule in alerts():
        found = parse(rule["expr"])
        known = TARGET.union(*(EXPORTED[s.metric] for s in found.selectors))
        text = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= known, rule["alert"]


def test_each_alert_has_a_severity_and_a_page_of_the_runbooks() -> None:
    headings = re.findall(r"^## (\S+)$", RUNBOOKS.read_text("utf-8"), re.MULTILINE)
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    assert headings == names
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert {"summary", "description"} <= set(rule["annotations"])


def test_panels_have_titles_units_and_numbers_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels if panel["type"] != "row")


def test_the_chart_ships_the_same_files() -> None:
    for original in (ALERTS, DASHBOARD):
        assert (CHART_FILES / original.name).read_bytes() == original.read_bytes()


def test_compose_mounts_what_exists_and_scrapes_the_sidecar() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text("utf-8"))["services"]
    for name in ("prometheus", "grafana"):
        for volume in services[name]["volumes"]:
            assert (ROOT / "deploy" / volume.split(":")[0]).exists(), volume
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["sidecar:8081"]
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


RULE_TESTS = ROOT / "deploy/prometheus/alerts.test.yaml"


def test_each_alert_is_tried_both_ways() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text("utf-8"))["tests"]
    tried = {
        (re.findall(r'alertname="(\w+)"', asked["expr"])[0], sample["value"])
        for test in tests
        for asked in test["promql_expr_test"]
        for sample in asked["exp_samples"]
    }
    assert tried == {(rule["alert"], fires) for rule in alerts() for fires in (0, 1)}


def test_alerts_fire_when_they_should() -> None:
    """By Prometheus itself, as the file says what is scraped over hours."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: the package prometheus)")
    done = subprocess.run([promtool, "test", "rules", str(RULE_TESTS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_closed_labels_begin_at_zero() -> None:
    """A counter that is born at 1 has no rate: nobody hears of the first crash loop."""
    stats = Stats(
        replica="one", version="1", time="2026-12-01T10:00:00.000Z", state="running", is_scheduler=False,
        uptime_s=1.0, slots=8, slots_used=0,
    )  # fmt: skip
    text = render(Scrape(stats, Counters(), 0.0, False, True)).decode()
    for code in get_args(ErrorCode):
        assert f'sidecar_job_errors_total{{code="{code}"}} 0.0' in text
    for outcome in get_args(TerminalState):
        assert f'sidecar_ended_jobs_total{{outcome="{outcome}"}} 0.0' in text
    for name in get_args(JobClass):
        assert f'sidecar_queue_wait_seconds_count{{class="{name}"}} 0.0' in text
