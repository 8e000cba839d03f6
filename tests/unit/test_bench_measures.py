"""The bench's arithmetic: percentiles, readings of /proc, bars and verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measures import (
    Bar,
    Figure,
    arrivals,
    cpu_seconds,
    number,
    percentile,
    spread,
    status_bytes,
)

STAT = (
    "4242 (python (x) y) S 1 4242 4242 0 -1 4194304 100 0 0 0 150 50 7 9 20 0 5 0 380482 3133440 388 "
    "18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0"
)
STATUS = "Name:\tpython\nVmHWM:\t   90000 kB\nVmRSS:\t   61440 kB\nThreads:\t5\n"


def test_a_percentile_is_one_of_the_values_by_nearest_rank() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile(values, 0.2) == 1.0
    assert percentile(values, 0.0) == 1.0


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_percentiles_rise_with_their_share_and_stay_among_the_values(
    values: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert percentile(values, low) <= percentile(values, high)
    assert percentile(values, low) in values
    assert sum(v <= percentile(values, high) for v in values) >= high * len(values)


def test_cpu_time_is_read_behind_a_command_with_blanks_and_brackets() -> None:
    assert cpu_seconds(STAT, ticks_a_second=100) == 2.0


def test_sizes_of_a_process_are_bytes() -> None:
    assert status_bytes(STATUS, "VmRSS") == 61440 * 1024
    assert status_bytes(STATUS, "VmHWM") == 90000 * 1024


def test_a_size_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="VmSwap"):
        status_bytes(STATUS, "VmSwap")


def test_an_open_loop_sends_evenly() -> None:
    assert arrivals(4, 5) == [0, 0.25, 0.5, 0.75, 1.0]


def test_spread_is_half_the_range_as_a_share_of_the_median() -> None:
    assert spread([9, 10, 12]) == pytest.approx(0.15)
    assert spread([7]) == 0
    assert spread([0, 0]) == 0


@pytest.mark.parametrize(
    ("bar", "measured", "holds"),
    [
        (Bar(value=0.9), 0.9, True),
        (Bar(value=0.9), 0.91, False),
        (Bar(value=1000, is_least=True), 1000, True),
        (Bar(value=1000, is_least=True), 999, False),
    ],
)
def test_a_bar_holds_up_to_its_value(bar: Bar, measured: float, holds: bool) -> None:
    assert bar.holds(measured) is holds


def test_the_median_of_the_repeats_counts() -> None:
    figure = Figure(name="f", unit="ms", group="g", bar=Bar(value=2), samples=(1.0, 9.0, 1.5))
    assert figure.measured == 1.5
    assert figure.verdict == "pass"
    assert figure.ratio(3.0) == 0.5


def test_what_was_not_measured_has_no_ratio_and_says_so() -> None:
    figure = Figure(name="f", unit="ms", group="g", bar=Bar(value=2), error="it ended")
    assert figure.measured is None
    assert figure.ratio(3.0) is None
    assert figure.verdict == "no figure"


def test_a_figure_without_a_bar_is_neither_passed_nor_failed() -> None:
    assert Figure(name="f", unit="ms", group="g", samples=(1.0,)).verdict == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0456, "0.046"),
        (0.876, "0.88"),
        (4, "4.00"),
        (12.44, "12.4"),
        (150, "150"),
        (2345.6, "2,346"),
    ],
)
def test_numbers_are_short_and_never_in_exponents(value: float, text: str) -> None:
    assert number(value) == text
