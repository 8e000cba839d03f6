"""What can go wrong on the way to the server and back, said by a test.

A `FaultPlan` is asked about each message that a client sends, a `DeliveryPlan` about each that a client gets.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple


class Operation(NamedTuple):
    """A message on its way to the server. `name` says what it is for, as `traffic.py` tells: `jobs.create`, …"""

    replica: str
    name: str
    subject: str


class Fault(NamedTuple):
    """How a message fares, if not well.

    `lose`: `request` never arrives; `ack` arrives, its answers are lost; `late` is `ack` that arrives only
    `late_s` after its sender gave up (a buffer sent after a reconnect). `is_doubled`: it arrives twice.
    `refusal`: JetStream answers with this code, number and description instead of storing it.
    """

    delay_s: float = 0.0
    lose: Literal["nothing", "request", "ack", "late"] = "nothing"
    late_s: float = 1.0
    is_doubled: bool = False
    refusal: tuple[int, int, str] | None = None


class Delivery(NamedTuple):
    """A message on its way to a client. `seq` is its place in a stream, 0 for what was not stored."""

    replica: str
    subject: str
    seq: int


NO_FAULT = Fault()
FaultPlan = Callable[[Operation], Fault]
DeliveryPlan = Callable[[Delivery], Sequence[float]]
"""Delays in seconds at which a message arrives: `()` drops it, `(0, 0)` doubles it, `(0.5,)` lets others pass."""


def no_faults(_: Operation) -> Fault:
    return NO_FAULT


def deliver_once(_: Delivery) -> Sequence[float]:
    return (0.0,)
