"""What the server denied is told, and a stranger cannot fill the log with it."""

import logging

import pytest

from sidecar.wire.matching import DENIALS_LOGGED, LOGGED_EVERY_S, Denials


def test_a_few_are_logged_at_a_time_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    denials = Denials(clock=lambda: now[0])
    with caplog.at_level(logging.ERROR):
        for _ in range(500):
            denials.note('Permissions Violation for Publish to "*"\n')
        assert (denials.count, len(caplog.records)) == (500, DENIALS_LOGGED)
        assert "\n" not in caplog.records[0].getMessage()
        now[0] += LOGGED_EVERY_S
        denials.note("again")
    assert "501 so far" in caplog.records[-1].getMessage()
