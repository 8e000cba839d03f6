"""Whose turn it is among those who want the same workers."""

import pytest

from sidecar.errors import Permanent
from sidecar.runtime.fair_queue import FairQueue


def queue_of(**items: int) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(most=100)
    for party, count in items.items():
        for n in range(count):
            queue.push(party, f"{party}{n}")
    return queue


def served(queue: FairQueue[str], costs: dict[str, float], *, turns: int) -> list[str]:
    order = []
    for _ in range(turns):
        found = queue.pop(())
        if found is None:
            break
        order.append(found[0])
        queue.charge(found[0], costs.get(found[0], 0.01))
    return order


def test_work_of_one_party_stays_in_order() -> None:
    queue = queue_of(a=3)
    assert [queue.pop(()) for _ in range(4)] == [("a", "a0"), ("a", "a1"), ("a", "a2"), None]


def test_equal_work_goes_round() -> None:
    order = served(queue_of(a=4, b=4, c=4), {}, turns=9)
    assert all(set(order[n : n + 3]) == {"a", "b", "c"} for n in (0, 3, 6))


def test_what_costs_more_comes_less_often() -> None:
    order = served(queue_of(dear=50, cheap=50), {"dear": 1.0, "cheap": 0.1}, turns=22)
    assert order.count("cheap") >= 9 * order.count("dear")


def test_a_newcomer_waits_for_no_more_than_one_turn_of_each() -> None:
    queue = queue_of(a=50, b=50)
    served(queue, {"a": 2.0, "b": 2.0}, turns=20)
    queue.push("new", "n")
    assert "new" in served(queue, {"a": 2.0, "b": 2.0}, turns=3)


def test_one_that_rested_gets_no_more_than_its_share_afterwards() -> None:
    queue = queue_of(busy=100)
    served(queue, {"busy": 1.0}, turns=50)
    for n in range(50):
        queue.push("rested", f"r{n}")
    order = served(queue, {"busy": 1.0, "rested": 1.0}, turns=20)
    assert abs(order.count("rested") - order.count("busy")) <= 2


def test_who_is_busy_is_passed_over() -> None:
    queue = queue_of(a=2, b=1)
    assert queue.pop({"a"}) == ("b", "b0")
    assert queue.pop({"a"}) is None
    assert len(queue) == 2


def test_what_is_not_wanted_any_more_is_taken_out() -> None:
    queue = queue_of(a=2)
    assert queue.remove("a", "a0")
    assert not queue.remove("a", "a0")
    assert not queue.remove("nobody", "x")
    assert queue.pop(()) == ("a", "a1")
    assert len(queue) == 0


def test_one_party_cannot_fill_the_queue_for_others() -> None:
    queue: FairQueue[int] = FairQueue(most=3)
    for n in range(3):
        queue.push("greedy", n)
    with pytest.raises(Permanent) as refused:
        queue.push("greedy", 4)
    assert refused.value.code == "queue_full"
    queue.push("modest", 1)


def test_nothing_is_remembered_of_those_who_are_gone() -> None:
    queue = queue_of(**{f"t{n}": 1 for n in range(50)})
    served(queue, {}, turns=50)
    assert not queue._marks
    assert not queue._waiting
