"""Which jobs a filter means."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sidecar.errors import InvalidRequest
from sidecar.models.codec import decode
from sidecar.models.job import JobState
from sidecar.models.job_filter import JobFilter
from sidecar.models.result import ErrorInfo, Result

FAILED = Result(state="failed", stop_reason=None, error=ErrorInfo(code="throttled", message="no"))
JOB = JobState(
    job="j1",
    tenant="acme",
    job_class="batch",
    state="failed",
    attempt=1,
    owner=None,
    model=None,
    request_seq=7,
    created="2026-12-01T10:00:00.000Z",
    updated="2026-12-01T10:00:01.000Z",
    result=FAILED,
    result_n=3,
    metadata={"ticket": 42, "urgent": True},
)
NOON, TEN = datetime(2026, 12, 1, 12, tzinfo=UTC), datetime(2026, 12, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({}, True),
        ({"tenant": "acme", "state": "failed", "job_class": "batch", "error": "throttled"}, True),
        ({"tenant": "globex"}, False),
        ({"state": "queued"}, False),
        ({"job_class": "standard"}, False),
        ({"error": "timeout"}, False),
        ({"since": TEN, "until": NOON}, True),
        ({"since": NOON}, False),
        ({"until": TEN}, False),
        ({"metadata": {"ticket": "42"}}, True),
        ({"metadata": {"ticket": 42, "urgent": "true"}}, True),
        ({"metadata": {"ticket": 42, "urgent": 1}}, False),
        ({"metadata": {"other": None}}, False),
    ],
)
def test_a_filter_fits_what_has_all_that_is_given(given: dict[str, Any], fits: bool) -> None:
    assert JobFilter(**given).matches(JOB) is fits
    assert JobFilter(**given).is_empty is not bool(given)


def test_a_job_without_a_result_has_no_error() -> None:
    running = msgspec.structs.replace(JOB, state="running", result=None)
    assert not JobFilter(error="throttled").matches(running)


def test_what_is_wrong_in_a_filter_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(b'{"tenants": "acme"}', JobFilter)
    assert "tenants" in refused.value.message
    with pytest.raises(InvalidRequest) as refused:
        decode(b'{"since": "1h"}', JobFilter)
    assert refused.value.path == "since"


def test_documents_of_the_first_release_have_no_metadata() -> None:
    old = msgspec.json.decode(msgspec.json.encode(JOB))
    del old["metadata"]
    assert decode(msgspec.json.encode(old), JobState).metadata == {}
