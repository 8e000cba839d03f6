"""The bench's table, JSON document, exit code and command line."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import report
from benchmarks.anchor import MODEL_ID
from benchmarks.figures import BARS, GROUPS, UNARY
from benchmarks.http_load import completion
from benchmarks.load import MODEL, request
from benchmarks.measures import Bar, Figure
from sidecar.models.codec import decode_request

RUN = report.Run(
    started="2026-12-01T10:00:00Z", elapsed_s=12.34, version="1.2.3", load_before=0.5, load_after=1.5, peer=None
)
PASSED = Figure(
    name="CPU", unit="ms", group="unary", bar=Bar(value=0.9), samples=(0.4, 0.5, 0.6), anchors=(("boto3", 1.0),)
)
MISSED = Figure(name="rate", unit="1/s", group="unary", bar=Bar(value=1000, is_least=True), samples=(800.0,))
ABSENT = Figure(name="memory", unit="MB", group="memory", error="sidecar has ended")
OPEN = Figure(name="paced", unit="ms", group="stream", samples=(3.0,), note="NATS 1.00")


def test_the_table_shows_bar_measurement_anchor_and_verdict() -> None:
    lines = report.table([PASSED, MISSED, ABSENT, OPEN]).splitlines()
    assert lines[0].split() == ["figure", "bar", "measured", "±", "beside", "it"]
    assert lines[2].split() == ["CPU,", "ms", "<=", "0.90", "0.50", "20%", "boto3", "1.00", "(0.50x)", "pass"]
    assert lines[3].split() == ["rate,", "1/s", ">=", "1,000", "800", "FAIL"]
    assert lines[4].split() == ["memory,", "MB", "-", "sidecar", "has", "ended", "no", "figure"]
    assert lines[5].split() == ["paced,", "ms", "3.00", "NATS", "1.00"]


def test_the_columns_of_the_table_line_up() -> None:
    lines = report.table([PASSED, MISSED]).splitlines()
    assert lines[2].index("0.50 ") + len("0.50") == lines[3].index("800") + len("800")


def test_the_document_is_json_and_keeps_every_sample() -> None:
    document = json.loads(json.dumps(report.document(RUN, [PASSED, MISSED, ABSENT])))
    assert document["schema"] == "sidecar-bench/1"
    assert document["elapsed_s"] == 12.3
    first, second, third = document["figures"]
    assert first["samples"] == [0.4, 0.5, 0.6]
    assert first["bar"] == {"at_most": 0.9}
    assert first["anchors"] == {"boto3": {"value": 1.0, "ratio": 0.5}}
    assert first["verdict"] == "pass"
    assert second["bar"] == {"at_least": 1000}
    assert third["measured"] is None
    assert third["error"] == "sidecar has ended"


@pytest.mark.parametrize(
    ("figures", "is_strict", "code"),
    [
        ([PASSED, OPEN], True, 0),
        ([PASSED, MISSED], False, 0),
        ([PASSED, MISSED], True, 1),
        ([PASSED, ABSENT], False, 1),
    ],
)
def test_a_missed_bar_fails_only_when_strict_a_missing_figure_always(
    figures: list[Figure], is_strict: bool, code: int
) -> None:
    assert report.exit_code(figures, is_strict=is_strict) == code


def test_a_run_is_written_under_its_time_and_as_the_latest(tmp_path: Path) -> None:
    path = bench.write(report.document(RUN, [PASSED]), tmp_path / "out")
    assert path.name == "bench-2026-12-01T100000Z.json"
    assert json.loads(path.read_text()) == json.loads((path.parent / "latest.json").read_text())


def test_an_unknown_name_is_a_usage_error_that_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        bench.main(["unari"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "unari" in said
    assert all(name in said for name in GROUPS)


def test_groups_and_benches_of_their_own_have_different_names() -> None:
    assert not set(GROUPS) & set(bench.SEPARATE)


def test_the_bars_are_those_that_the_documentation_states() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    stated = {line.split("|")[1].strip().strip("`"): line.split("|")[3].strip() for line in rows(page)}
    assert stated == {key: str(bar) for key, bar in BARS.items()}


def rows(page: str) -> list[str]:
    """The lines of the table of bars."""
    return [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]


def test_the_jobs_that_are_measured_are_valid_requests() -> None:
    made = decode_request(request({"prompt": UNARY, "stream": True}))
    assert made.model == MODEL
    assert made.stream
    assert made.params.max_tokens == 512


def test_anchor_and_peer_are_asked_for_the_same_model_and_length() -> None:
    assert MODEL in MODEL_ID
    body = json.loads(completion({"prompt": UNARY}))
    assert body == {"messages": [{"role": "user", "content": UNARY}], "model": MODEL, "max_tokens": 512}
