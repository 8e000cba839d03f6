"""Names, times and subjects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.schema.meanings import ERRORS
from sidecar.errors import STATUS_CODES, InvalidRequest
from sidecar.models.base import epoch, rfc3339
from sidecar.models.codec import decode, encode
from sidecar.models.subjects import Subjects, is_name
from sidecar.models.tool import ToolDeregistration


@pytest.mark.parametrize("token", ["a", "A-Z_09", "x" * 64])
def test_names_are_up_to_64_plain_characters(token: str) -> None:
    assert is_name(token)


@pytest.mark.parametrize("token", ["", "x" * 65, "a.b", "a b", "a\n", "\na", "ä", "*", ">", "a\x00", "١"])
def test_nothing_else_is_a_name(token: str) -> None:
    assert not is_name(token)
    with pytest.raises(InvalidRequest) as caught:
        decode(encode({"name": token, "version": "1.0.0"}), ToolDeregistration)
    assert caught.value.path == "name"


@pytest.mark.parametrize("version", ["1.0.0", "0.10.3", "1.0.0-rc.1", "1.2.3+build.5"])
def test_semantic_versions_are_taken(version: str) -> None:
    assert decode(encode({"name": "a", "version": version}), ToolDeregistration).version == version


@pytest.mark.parametrize("version", ["1", "1.0", "01.0.0", "v1.0.0", "1.0.0\n", "١.0.0", "1.0.0-", "1.0.0 "])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(InvalidRequest, match="semantic version"):
        decode(encode({"name": "a", "version": version}), ToolDeregistration)


@given(st.integers(0, 4_102_444_800_000))
def test_times_keep_their_milliseconds(milliseconds: int) -> None:
    text = rfc3339(milliseconds / 1000)
    assert text.endswith("Z")
    assert len(text) == len("2026-12-01T10:00:00.000Z")
    assert round(epoch(text) * 1000) == milliseconds


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        epoch("2026-12-01T10:00:00")


def test_subjects_are_those_of_the_protocol() -> None:
    subjects = Subjects()
    assert subjects.request("acme", "batch") == "llm.v1.request.acme.batch"
    assert subjects.event("acme", "job1", "result") == "llm.v1.job.acme.job1.result"
    assert subjects.log("acme", "job1", "result") == "llm.v1.log.acme.job1.result"
    assert subjects.endpoint("tools", "acme", "list") == "llm.v1.tools.acme.list"
    assert subjects.call("acme", "orders", "1.2.0-rc.1") == "llm.v1.call.acme.orders.1_2_0-rc_1"
    assert Subjects("x.y").sys("stats") == "x.y.v1.sys.stats"


def test_every_error_code_has_a_number_and_a_meaning() -> None:
    assert set(ERRORS) <= set(STATUS_CODES)
    assert all(400 <= number < 600 for number in STATUS_CODES.values())
