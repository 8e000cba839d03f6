"""Reading that leaves the event loop to others, by a clock that stands still while nobody works."""

import asyncio

import pytest

from sidecar.adapters.nats.client.pace import BURST_S, HOLD_S, IDLE_S, IDLE_TURNS, SHARE, Pace, PacedParser
from tests.unit.adapters.nats.test_nats_wire import Ear


class Loop:
    """An event loop whose other work takes `busy_s` in each turn."""

    def __init__(self, busy_s: float) -> None:
        self.busy_s = busy_s
        self.now = 0.0
        self.turns = 0

    def clock(self) -> float:
        return self.now

    async def turn(self) -> None:
        self.turns += 1
        self.now += self.busy_s


def paced(loop: Loop) -> Pace:
    return Pace(clock=loop.clock, turn=loop.turn)


async def read(loop: Loop, pace: Pace, seconds: float, *, times: int = 1) -> None:
    for _ in range(times):
        loop.now += seconds
        await pace.spent(seconds)


@pytest.mark.parametrize("busy_s", [0.0002, 0.001, 0.02])
async def test_others_have_three_quarters_of_the_loop_while_they_need_it(busy_s: float) -> None:
    loop = Loop(busy_s)
    pace = paced(loop)
    await read(loop, pace, 0.001, times=1000)
    assert pace.read_s == pytest.approx(1.0)
    # Not more than its share; and not much less, as turns are as long as others make them.
    assert (1.0 - BURST_S) / loop.now <= SHARE
    assert loop.now <= (1.0 + BURST_S) / SHARE + busy_s * 1000
    assert pace.rested_s == pytest.approx(loop.now - pace.read_s)


async def test_where_nobody_waits_reading_hardly_rests() -> None:
    loop = Loop(IDLE_S / 10)
    pace = paced(loop)
    await read(loop, pace, 0.001, times=1000)
    assert pace.read_s / loop.now > 0.9
    assert loop.turns <= 1000 * IDLE_TURNS


async def test_ordinary_traffic_never_waits() -> None:
    loop = Loop(0.001)
    pace = paced(loop)
    for _ in range(10_000):
        loop.now += 0.0005
        await read(loop, pace, 0.0001)
    assert loop.turns == 0


async def test_what_was_not_used_is_not_saved_up() -> None:
    loop = Loop(0.001)
    pace = paced(loop)
    loop.now += 3600.0
    await read(loop, pace, 0.001, times=10)
    assert loop.now - 3600.0 >= (0.01 - BURST_S / SHARE) / SHARE


async def test_a_short_turn_between_long_ones_is_not_idleness() -> None:
    class Steps(Loop):
        async def turn(self) -> None:
            await super().turn()
            self.busy_s = 0.001 if self.turns % IDLE_TURNS == 0 else IDLE_S / 10

    loop = Steps(0.001)
    pace = paced(loop)
    await read(loop, pace, 0.001, times=100)
    assert pace.read_s / loop.now <= SHARE * 1.1


async def test_where_all_places_are_taken_it_waits_for_one_but_not_for_ever() -> None:
    loop = Loop(0.001)
    pace = Pace(clock=loop.clock, turn=loop.turn, moment=loop.turn)
    pace.is_full = lambda: loop.now < 0.05
    await read(loop, pace, 0.0001)
    assert loop.now == pytest.approx(0.05, abs=0.002)
    pace.is_full = lambda: True
    await read(loop, pace, 0.0001)
    assert loop.now == pytest.approx(0.05 + HOLD_S, abs=0.004)


async def test_a_parser_gives_the_same_and_rests_between_pieces() -> None:
    ear = Ear()
    loop = Loop(0.001)
    parser = PacedParser(ear, paced(loop))
    parser.handlers.update(ear.parser.handlers)
    handle = parser.handlers[b"w1"]

    def slow(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        loop.now += 0.01
        handle(subject, reply, header, payload)

    parser.handlers[b"w1"] = slow
    message = b"MSG a w1 1\r\nx\r\n"
    await parser.parse(message + message[:5])
    assert (len(ear.heard), loop.turns) == (1, pytest.approx(0.01 * (1 - SHARE) / SHARE / 0.001, abs=10))
    await parser.parse(message[5:])
    assert len(ear.heard) == 2


async def test_a_rest_ends_with_the_reading_task() -> None:
    begun = asyncio.Event()

    async def turn() -> None:
        begun.set()
        await asyncio.sleep(3600)

    pace = Pace(turn=turn)
    task = asyncio.create_task(pace.spent(1.0))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
