"""The soak's own arithmetic: a leak is seen through noise, a single jump is no leak."""

import random
from collections import Counter

import pytest

from benchmarks.chaos_soak import Holdings, Sample, left_behind, slope_mb_an_hour
from benchmarks.processes import NotMeasured


def memory(*, mb_an_hour: float, jump_mb: float = 0.0, noise_mb: float = 0.3, minutes: int = 30) -> list[Sample]:
    chance = random.Random(4)
    found = []
    for i in range(minutes * 12):
        at_s = i * 5.0
        mb = 80 + mb_an_hour * at_s / 3600 + chance.uniform(0, noise_mb) + (jump_mb if i == minutes * 9 else 0)
        found.append(Sample(at_s, round(mb * 1e6)))
    return found


@pytest.mark.parametrize("slope", [0.0, 1.0, 5.0, -2.0])
def test_a_slope_is_found_in_noise(slope: float) -> None:
    assert slope_mb_an_hour(memory(mb_an_hour=slope)) == pytest.approx(slope, abs=0.3)


def test_a_single_jump_is_no_slope() -> None:
    assert slope_mb_an_hour(memory(mb_an_hour=0.0, jump_mb=50)) == pytest.approx(0.0, abs=0.3)


def test_too_short_a_run_gives_no_figure() -> None:
    with pytest.raises(NotMeasured):
        slope_mb_an_hour(memory(mb_an_hour=0.0, minutes=1))


def test_a_new_scheduler_is_held_against_the_old_one() -> None:
    def held(tasks: int, is_scheduler: bool) -> Holdings:
        counts = {"running": 0, "tasks": tasks, "subscriptions": 9, "requests": 0}
        return Holdings(counts, Counter(), is_scheduler)

    figures = left_behind([held(19, True), held(15, False)], [held(15, False), held(20, True)], active=0)
    leaked = {figure.name: figure.measured for figure in figures}
    assert leaked["soak: leaked tasks"] == 1


def test_what_one_replica_has_too_many_is_not_made_up_for_by_another() -> None:
    def held(tasks: int, sockets: int) -> Holdings:
        counts = {"running": 0, "tasks": tasks, "subscriptions": 9, "requests": 0}
        return Holdings(counts, Counter(socket=sockets, pipe=2))

    figures = left_behind([held(10, 5), held(10, 5)], [held(12, 5), held(7, 9)], active=0)
    leaked = {figure.name: figure.measured for figure in figures}
    assert leaked["soak: leaked tasks"] == 2
    assert leaked["soak: leaked open files"] == 4
    assert leaked["soak: leaked calls"] == 0
