"""Signing on a machine whose clock is wrong: AWS's answer says the time."""

from email.utils import formatdate

import pytest

from sidecar.adapters.bedrock.aws_time import AwsTime, date_of

NOW = 1_800_000_000.0
HOUR = 3600.0


def answer(at: float = NOW) -> dict[str, str]:
    return {"Date": formatdate(at, usegmt=True)}


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR, 301.0])
def test_a_signature_that_is_refused_for_its_time_is_made_by_awss_clock(ahead_s: float) -> None:
    time = AwsTime(lambda: NOW + ahead_s)
    assert time.learns("invalidsignature", answer())
    assert time.now() == NOW
    assert not time.learns("invalidsignature", answer()), "a second time it is something else"


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("invalidsignature", answer()),
        ("invalidsignature", answer(NOW + 100)),
        ("accessdenied", answer(NOW + HOUR)),
        ("expiredtoken", answer(NOW + HOUR)),
        ("", answer(NOW + HOUR)),
        ("invalidsignature", {}),
        ("invalidsignature", {"Date": "today"}),
    ],
)
def test_other_refusals_teach_nothing(kind: str, headers: dict[str, str]) -> None:
    time = AwsTime(lambda: NOW)
    assert not time.learns(kind, headers)
    assert time.now() == NOW


def test_a_clock_that_was_set_right_later_is_learned_too() -> None:
    local = [NOW + HOUR]
    time = AwsTime(lambda: local[0])
    assert time.learns("invalidsignature", answer())
    local[0] = NOW
    assert time.learns("invalidsignature", answer())
    assert time.now() == NOW


def test_dates_that_cannot_be_read_are_none() -> None:
    assert date_of({"date": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 1445412480.0
    assert date_of({"Date": "Wed, 21 Oct 2015 07:28:00 -0000"}) == 1445412480.0
    for text in ("", "soon", "Wed, 99 Oct 99999 07:28:00 GMT"):
        assert date_of({"Date": text}) is None
