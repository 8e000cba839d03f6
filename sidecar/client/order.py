"""The order of a job's events, decided from their places alone. Pure: no I/O, no time."""

from enum import Enum
from typing import NamedTuple


class Place(NamedTuple):
    """Where an event stands: attempts count up, `n` counts from 1 within one. (0, 0) is before the first."""

    attempt: int
    n: int


START = Place(0, 0)


class Verdict(Enum):
    NEXT = "next"
    DUPLICATE = "duplicate"
    GAP = "gap"


def judge(last: Place, event: Place) -> Verdict:
    """What an event at `event` is for somebody who has seen everything up to `last`.

    A higher attempt starts at 1 whatever the lower one still had to say: its output is void by then. An event
    of a lower attempt comes from an owner that was shut out, or twice: both are to be dropped.
    """
    if event <= last:
        return Verdict.DUPLICATE
    expected_n = last.n + 1 if event.attempt == last.attempt else 1
    return Verdict.NEXT if event.n == expected_n else Verdict.GAP
