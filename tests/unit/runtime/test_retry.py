"""How long is waited between tries."""

import pytest

from sidecar.errors import BusRefused, BusUnavailable
from sidecar.runtime.retry import RetryDelay, keep_trying
from tests.support.virtual_time import VirtualClock


def test_pauses_grow_are_bounded_and_spread_by_chance() -> None:
    plain = RetryDelay(VirtualClock(), "trying", next_s=0.1, longest_s=2.0)
    assert [round(plain.take_s(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    spread = RetryDelay(VirtualClock(), "trying", next_s=0.1, longest_s=2.0, spread=0.5)
    pauses = [spread.take_s() for _ in range(50)]
    assert all(0.05 <= pause <= 2.0 for pause in pauses)
    assert all(pause >= 1.0 for pause in pauses[5:])
    assert len(set(pauses[5:])) > 1


async def test_the_other_side_says_how_long_and_pauses_grow_all_the_same() -> None:
    clock = VirtualClock()
    delay = RetryDelay(clock, "trying", next_s=1.0)
    asked = BusUnavailable("away")
    asked.retry_after = 7.0
    for error, pause_s in ((BusUnavailable("away"), 1.0), (asked, 7.0), (BusUnavailable("away"), 2.0)):
        began = clock.monotonic()
        await clock.run(delay.after(error))
        assert clock.monotonic() - began == pause_s


async def test_what_fails_for_want_of_the_bus_is_tried_until_it_does_not() -> None:
    clock, tried = VirtualClock(), 0

    async def attempt() -> str:
        nonlocal tried
        tried += 1
        if tried < 4:
            raise BusUnavailable("away")
        return "stored"

    began = clock.monotonic()
    assert await clock.run(keep_trying("storing", attempt, clock=clock)) == "stored"
    assert (tried, round(clock.monotonic() - began, 3)) == (4, 0.35)


async def test_another_error_ends_the_tries() -> None:
    clock, tried = VirtualClock(), 0

    async def attempt() -> str:
        nonlocal tried
        tried += 1
        raise BusUnavailable("away") if tried == 1 else BusRefused("full")

    with pytest.raises(BusRefused):
        await clock.run(keep_trying("storing", attempt, clock=clock))
    assert tried == 2
