"""Statistics and readings of the bench: pure, values in and values out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Literal

TICK_FIELDS = (11, 12)
"""Places of utime and stime in `/proc/<pid>/stat`, counted after the command's closing bracket."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of the values do not exceed: nearest rank, nothing interpolated.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def spread(samples: Sequence[float]) -> float:
    """Half the distance between the extremes, as a share of the median; 0 for a single sample."""
    middle = median(samples)
    return (max(samples) - min(samples)) / 2 / middle if middle else 0.0


def cpu_seconds(stat: str, *, ticks_a_second: int) -> float:
    """User and system time of a process, all its threads included, from the text of `/proc/<pid>/stat`.

    The command stands in brackets and may hold blanks and brackets itself.
    """
    fields = stat.rpartition(")")[2].split()
    return sum(int(fields[place]) for place in TICK_FIELDS) / ticks_a_second


def status_bytes(status: str, name: str) -> int:
    """A size in kB (`VmRSS`, `VmHWM`) of `/proc/<pid>/status`, in bytes. Raises KeyError when it is not there."""
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def arrivals(rate: float, count: int) -> list[float]:
    """Seconds after the start at which an open loop of `rate` a second sends: evenly spaced, whatever returns."""
    return [i / rate for i in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a figure has to reach: at most, or at least, `value`."""

    value: float
    is_least: bool = False

    def holds(self, measured: float) -> bool:
        return measured >= self.value if self.is_least else measured <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {number(self.value)}"


Verdict = Literal["pass", "FAIL", "", "no figure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. `samples` are the repeats whose median is `measured`; `anchors` are what stands
    beside it, by name, in the same unit and measured in the same run. `error` says why there is no measurement.
    """

    name: str
    unit: str
    group: str
    bar: Bar | None = None
    samples: tuple[float, ...] = ()
    anchors: tuple[tuple[str, float], ...] = ()
    note: str = ""
    error: str = ""

    @property
    def measured(self) -> float | None:
        return median(self.samples) if self.samples else None

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "no figure"
        if self.bar is None:
            return ""
        return "pass" if self.bar.holds(self.measured) else "FAIL"

    def ratio(self, anchor: float) -> float | None:
        """This figure over the anchor's; None where either is missing or zero."""
        return self.measured / anchor if self.measured is not None and anchor else None


def number(value: float) -> str:
    """Three significant digits, without an exponent: 0.87, 12.4, 1,240."""
    if value and abs(value) < 100:
        digits = 2 if abs(value) < 10 else 1
        return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.{digits}f}"
    return f"{value:,.0f}"
