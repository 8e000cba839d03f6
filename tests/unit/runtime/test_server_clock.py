"""Time by the server's clock: bounded by round trips, unmoved by whoever sets the machine's."""

import random

import pytest

from sidecar.runtime.server_clock import ServerClock, shown_offset
from tests.support.replica import WrongClock
from tests.support.virtual_time import VirtualClock


class Server:
    """A server whose clock is `ahead_s` ahead of the true time, and takes its time to answer."""

    def __init__(self, true: VirtualClock) -> None:
        self._true = true
        self.ahead_s = 0.0

    def now(self) -> float:
        return self._true.now() + self.ahead_s

    async def asked_by(self, clock: ServerClock, *, there_s: float = 0.01, back_s: float = 0.01) -> None:
        sent = clock.steady()
        await self._true.advance(there_s)
        stamp = self.now()
        await self._true.advance(back_s)
        clock.observe(stamp, sent=sent, received=clock.steady())


@pytest.fixture
def true() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server(true: VirtualClock) -> Server:
    return Server(true)


async def test_until_the_first_sample_it_is_the_machines_own_time(true: VirtualClock) -> None:
    clock = ServerClock(WrongClock(true, 3600.0))
    assert clock.now() == true.now() + 3600
    assert clock.offset_s is None
    assert not clock.is_known


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0, 2.5, -86_400.0])
async def test_it_is_the_servers_time_within_the_round_trip(
    true: VirtualClock, server: Server, ahead_s: float
) -> None:
    clock = ServerClock(WrongClock(true, ahead_s))
    await server.asked_by(clock, there_s=0.05, back_s=0.15)
    assert clock.now() == pytest.approx(true.now(), abs=0.21)
    assert clock.offset_s == pytest.approx(ahead_s, abs=0.21)
    await true.advance(500)
    assert clock.now() == pytest.approx(true.now(), abs=0.21)


async def test_a_clock_that_may_be_right_is_left_alone(true: VirtualClock, server: Server) -> None:
    clock = ServerClock(WrongClock(true, 0.004))
    for _ in range(20):
        await server.asked_by(clock)
        await true.advance(2)
        assert clock.now() == pytest.approx(true.now() + 0.004, abs=1e-6)


async def test_one_slow_answer_makes_it_no_worse_and_a_quick_one_better(
    true: VirtualClock, server: Server
) -> None:
    clock = ServerClock(WrongClock(true, 3600.0))
    await server.asked_by(clock, there_s=2, back_s=0.01)
    await server.asked_by(clock, there_s=0.001, back_s=0.001)
    good = clock.now() - true.now()
    assert good == pytest.approx(0, abs=0.01)
    await server.asked_by(clock, there_s=4, back_s=4)
    assert clock.now() - true.now() == pytest.approx(good, abs=1e-6)


async def test_setting_the_machines_clock_under_way_changes_nothing(true: VirtualClock, server: Server) -> None:
    local = WrongClock(true, 3600.0)
    clock = ServerClock(local)
    await server.asked_by(clock)
    before = clock.now() - true.now()
    local.ahead_s = -120.0
    assert clock.now() - true.now() == pytest.approx(before)
    assert clock.offset_s == pytest.approx(-120, abs=0.1)
    await server.asked_by(clock)
    assert clock.now() - true.now() == pytest.approx(before)


async def test_a_server_whose_clock_was_set_is_believed_the_second_time(
    true: VirtualClock, server: Server
) -> None:
    clock = ServerClock(WrongClock(true))
    await server.asked_by(clock)
    server.ahead_s = 600.0
    await server.asked_by(clock)
    assert clock.now() == pytest.approx(true.now(), abs=0.1)
    assert clock.is_in_doubt
    await server.asked_by(clock)
    assert clock.now() == pytest.approx(true.now() + 600, abs=0.1)
    assert not clock.is_in_doubt
    assert clock.offset_s == pytest.approx(-600, abs=0.1)


async def test_a_single_wrong_stamp_is_passed_over(true: VirtualClock, server: Server) -> None:
    clock = ServerClock(WrongClock(true))
    await server.asked_by(clock)
    for wrong in (600.0, -600.0, 60.0):
        server.ahead_s = wrong
        await server.asked_by(clock)
        server.ahead_s = 0.0
        await server.asked_by(clock)
        assert clock.now() == pytest.approx(true.now(), abs=0.1)


async def test_it_follows_a_server_whose_clock_drifts(true: VirtualClock, server: Server) -> None:
    clock = ServerClock(WrongClock(true))
    rng = random.Random(7)
    for _ in range(2000):
        await server.asked_by(clock, there_s=rng.uniform(0, 0.05), back_s=rng.uniform(0, 0.05))
        await true.advance(2)
        server.ahead_s += 2 * 400e-6
        assert clock.now() == pytest.approx(server.now(), abs=0.12)


@pytest.mark.parametrize(
    ("offset_s", "text"),
    [
        (3599.7, "3600 s ahead of the NATS server's clock"),
        (-2.31, "2.3 s behind the NATS server's clock"),
        (-47.3, "47 s behind the NATS server's clock"),
    ],
)
def test_the_offset_is_shown_so_that_it_does_not_flicker(offset_s: float, text: str) -> None:
    assert shown_offset(offset_s) == text
