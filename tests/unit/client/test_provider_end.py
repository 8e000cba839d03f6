"""A provider's calls, registrations and connection share one time at its end."""

import asyncio

import pytest

from sidecar.client.tools.stopping import FAREWELL_S, ProviderEnd


class Loop:
    """The time of an event loop, as a test has it."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


def test_steps_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    end = ProviderEnd(10.0)
    assert (end.calls_left_s, end.limit_s(5.0)) == (10.0, 5.0)
    loop.now = 8.0
    assert (end.calls_left_s, end.limit_s(5.0)) == (2.0, pytest.approx(2.0 + FAREWELL_S))
    loop.now = 10.5
    assert (end.calls_left_s, end.limit_s(5.0)) == (0.0, pytest.approx(FAREWELL_S - 0.5))
    loop.now = 100.0
    assert 0.0 < end.limit_s(5.0) < 0.5
