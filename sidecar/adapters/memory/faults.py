"""What can go wrong on the bus, said by a test: a function from each operation to its fault."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple


class Operation(NamedTuple):
    """Something a replica asks of the bus: `intake.read`, `jobs.update`, `events.publish`, …"""

    replica: str
    name: str
    subject: str


class Fault(NamedTuple):
    """How an operation goes wrong, if it does. Seconds are of the bus's clock.

    `lose`: `request` has no effect; `ack` has its effect, but the caller hears nothing; `late` is `ack` with the
    effect `late_s` after the caller gave up (a client's buffer sent after a reconnect). All raise BusUnavailable.
    """

    delay_s: float = 0.0
    lose: Literal["nothing", "request", "ack", "late"] = "nothing"
    late_s: float = 1.0


class Delivery(NamedTuple):
    """A hint on its way to a replica: a doorbell, the mark of a cancellation, a result's republished event."""

    replica: str
    subject: str
    seq: int


NO_FAULT = Fault()
FaultPlan = Callable[[Operation], Fault]
DeliveryPlan = Callable[[Delivery], Sequence[float]]
"""The delays in seconds at which a hint arrives: `()` drops it, `(0, 0)` doubles it, `(0.5,)` lets others pass."""


def no_faults(_: Operation) -> Fault:
    return NO_FAULT


def deliver_once(_: Delivery) -> Sequence[float]:
    return (0.0,)
