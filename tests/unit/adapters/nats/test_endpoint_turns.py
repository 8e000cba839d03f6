"""Whose request is answered next, and what is too much."""

from collections import Counter
from typing import Any

import pytest

from sidecar.adapters.nats.fair.turnstile import FIRST_GUESS, Admitted, Bound, Bounds, Ration, Turnstile

PLENTY = Bound(10**6, 10**9)


class Door(Turnstile[Any]):
    """A turnstile with plenty of everything but what a test bounds; `freed` counts its calls."""

    def __init__(self, **bounds: Bound) -> None:
        self.freed = 0
        self.now = 0.0
        kept = {name: bounds.get(name, PLENTY) for name in Bounds._fields if name != "wait_s"}
        super().__init__(Bounds(**kept, wait_s=10.0), on_free=self._on_free)

    def _on_free(self) -> None:
        self.freed += 1

    def crowd(self, name: str, count: int, **more: Any) -> int:
        """How many of `count` requests of one party are taken."""
        return sum(self.offer(name, (name, i), size=0, now=self.now, **more) for i in range(count))

    def begun(self) -> list[Admitted[Any]]:
        found = []
        while (admitted := self.next(self.now)) is not None:
            found.append(admitted)
        return found


def names(admitted: list[Admitted[Any]]) -> list[str]:
    return [one.item[0] for one in admitted]


def test_parties_are_served_in_turn_and_each_in_its_own_order() -> None:
    door = Door(seats=Bound(100, 100))
    door.crowd("busy", 5)
    door.crowd("other", 2)
    assert [one.item for one in door.begun()] == [
        ("busy", 0), ("other", 0), ("busy", 1), ("other", 1), ("busy", 2), ("busy", 3), ("busy", 4),
    ]  # fmt: skip


def test_a_newcomer_is_next_however_much_others_have_waiting() -> None:
    door = Door(seats=Bound(4, 8))
    door.crowd("busy", 1000)
    running = door.begun()
    assert len(running) == 4
    door.crowd("newcomer", 1)
    assert names(door.begun()) == ["newcomer"]
    running[0].close()
    assert names(door.begun()) == ["busy"]


def test_something_is_left_of_every_total_for_one_that_comes_new() -> None:
    door = Door(seats=Bound(100, 64), waiting=Bound(10**6, 64))
    for i in range(12):
        door.crowd(f"crowd-{i}", 1000)
        door.begun()
    assert door.offer("newcomer", ("newcomer", 0), size=0, now=0.0)
    assert door.load.waiting <= 80
    assert door.load.seats <= 64
    for i in range(100):
        door.crowd(f"more-{i}", 1)
    assert door.load.waiting == 80
    assert door.is_full
    lone = Door(waiting=Bound(10**6, 64))
    assert lone.crowd("alone", 1000) == 32
    assert not lone.is_full


def test_a_party_waits_for_its_own_seats() -> None:
    door = Door(seats=Bound(2, 100))
    door.crowd("busy", 3)
    first, second = door.begun()
    assert door.next(0.0) is None
    second.close()
    second.close()
    assert door.freed == 1
    assert [one.item for one in door.begun()] == [("busy", 2)]
    first.close()


def test_what_reads_much_takes_several_seats() -> None:
    door = Door(seats=Bound(8, 100))
    door.crowd("busy", 10, seats=4)
    assert len(door.begun()) == 2


def test_requests_that_wait_are_bounded_by_number_and_by_bytes() -> None:
    door = Door(waiting=Bound(10, 100))
    assert door.crowd("busy", 100) == 10
    assert door.crowd("other", 1) == 1
    door = Door(waiting_bytes=Bound(1000, 10**6))
    assert [door.offer("busy", i, size=600, now=0.0) for i in range(3)] == [True, True, False]
    assert door.clear() == [0, 1]
    assert door.offer("busy", 3, size=600, now=0.0)


def test_requests_that_are_refused_leave_nothing_behind() -> None:
    door = Door(waiting=Bound(1, 1))
    assert door.crowd("first", 1) == 1
    assert door.crowd("refused", 1) == 0
    assert set(door.parties()) == {"first"}
    for one in door.begun():
        one.close()
    assert door.parties() == {}


def test_large_replies_are_made_one_by_one_and_small_ones_many_at_once() -> None:
    """What is expected of a request is what its party's last ones of the kind came to."""
    door = Door(seats=Bound(16, 64), reply_bytes=Bound(FIRST_GUESS * 4, 10**9))
    door.crowd("busy", 100, kind="get")
    many = door.begun()
    assert len(many) == 4
    for one in many:
        one.made(FIRST_GUESS * 4)
        one.close()
    assert len(door.begun()) == 1
    small = Door(seats=Bound(16, 64), reply_bytes=Bound(FIRST_GUESS * 4, 10**9))
    small.crowd("busy", 1000, kind="get")
    for _ in range(40):
        for one in small.begun():
            one.made(100)
            one.close()
    assert len(small.begun()) == 16


def test_an_estimate_of_one_kind_says_nothing_of_another() -> None:
    door = Door(seats=Bound(16, 64), reply_bytes=Bound(FIRST_GUESS * 4, 10**9))
    door.crowd("busy", 1, kind="get")
    (large,) = door.begun()
    large.made(FIRST_GUESS * 100)
    door.crowd("busy", 1, kind="cancel")
    assert door.begun() == []
    large.close()
    assert len(door.begun()) == 1


def test_asks_are_bounded_but_hold_no_seat_while_they_wait() -> None:
    door = Door(seats=Bound(1, 2), asks=Bound(3, 100))
    assert door.crowd("busy", 10, is_ask=True) == 3
    door.crowd("busy", 1)
    parked = []
    for _ in range(3):
        (one,) = door.begun()
        context = one.parked()
        context.__enter__()
        parked.append((one, context))
    assert [one.item for one in door.begun()] == [("busy", 0)]
    assert door.load == (1, 0, FIRST_GUESS, 3)
    assert door.crowd("busy", 1, is_ask=True) == 0
    one, context = parked[0]
    context.__exit__(None, None, None)
    one.close()
    assert door.crowd("busy", 1, is_ask=True) == 1


def test_one_that_waits_beyond_what_may_wait_keeps_its_seat() -> None:
    door = Door(seats=Bound(2, 10), asks=Bound(1, 100))
    door.crowd("busy", 3)
    first, second = door.begun()
    with first.parked(), second.parked():
        assert len(door.begun()) == 1
    assert door.load.seats == 3


def test_all_that_is_taken_is_given_back() -> None:
    door = Door(seats=Bound(4, 16), waiting=Bound(50, 100))
    turns: Counter[str] = Counter()
    for _ in range(20):
        for name in ("a", "b", "c"):
            door.crowd(name, 30, is_ask=name == "c", seats=2 if name == "b" else 1)
        for one in door.begun():
            turns[one.item[0]] += 1
            with one.parked():
                pass
            one.made(10_000)
            one.close()
    door.clear()
    assert door.load == (0, 0, 0, 0)
    assert door.parties() == {}
    assert max(turns.values()) <= 4 * min(turns.values())


def test_what_has_waited_too_long_is_given_up_and_the_rest_is_served() -> None:
    door = Door(seats=Bound(1, 8), asks=Bound(100, 100))
    door.crowd("busy", 3, is_ask=True)
    (running,) = door.begun()
    door.now = 9.0
    door.crowd("busy", 1)
    door.now = 11.0
    assert door.begun() == []
    assert door.late() == [("busy", 1), ("busy", 2)]
    assert door.late() == []
    assert door.load.asks == 1
    running.close()
    assert [one.item for one in door.begun()] == [("busy", 0)]


@pytest.mark.parametrize(("at", "expected"), [(0.0, 3), (0.5, 1), (100.0, 3)])
def test_a_ration_is_so_many_a_second(at: float, expected: int) -> None:
    ration = Ration(3.0)
    assert sum(ration.take(0.0) for _ in range(10)) == 3
    if at:
        assert sum(ration.take(at) for _ in range(10)) == expected
