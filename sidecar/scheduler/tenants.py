"""A tenant's money of one day: what is settled, what running calls may still cost, what is left. Pure.

Amounts are millionths of a US dollar, days are UTC days since 1970. The settled total comes from the ledger that
all replicas share; reservations live here only, so that those of a scheduler that crashed are gone with it, and
its successor makes them anew for the calls that run. A call is charged to the day in which it ends.
"""

from collections.abc import Callable
from math import ceil, inf

from sidecar.errors import Permanent
from sidecar.models.base import rfc3339
from sidecar.scheduler.tickets import Ticket

DAY_S = 86_400.0
USD = 1_000_000

Price = Callable[[str, int, int], float | None]
"""The most a call can cost in US dollars, by pool, input tokens and max_tokens; None where no price is known."""


class Budget:
    """`settled` is None until the day's total was heard: nothing starts before."""

    __slots__ = ("cap", "day", "reserved", "settled")

    def __init__(self, cap: float, *, day: int) -> None:
        self.cap = cap
        self.day = day
        self.reserved = 0.0
        self.settled: float | None = None

    def roll(self, day: int) -> None:
        """A new day begins: nothing was spent yet. What runs stays reserved, and will be charged to it."""
        if day > self.day:
            self.day = day
            self.settled = None if self.settled is None else 0.0

    def heard(self, day: int, total: float) -> None:
        """A total from the ledger. Totals only grow, so the highest one of a day is the latest."""
        self.roll(day)
        if day == self.day:
            self.settled = max(self.settled or 0.0, total)

    @property
    def left(self) -> float:
        """What the rest of the day may cost, running calls included. Infinite while the total is not known."""
        return inf if self.settled is None else max(0.0, self.cap - self.settled)

    @property
    def free(self) -> float:
        """What a further call may cost now."""
        if self.cap == inf:
            return inf
        return -inf if self.settled is None else self.cap - self.settled - self.reserved


def money_of(ticket: Ticket, pool: str, *, price: Price) -> float:
    """The most the ticket's next call can cost on a pool; infinite where no price is known."""
    usd = price(pool, ticket.input_tokens, ticket.max_tokens)
    return inf if usd is None else float(ceil(usd * ticket.price_factor * USD))


def refusal(ticket: Ticket, budget: Budget, *, needed: float) -> Permanent:
    """Why a job cannot run any more today, with the numbers."""
    spent_usd, cap_usd = (budget.settled or 0.0) / USD, budget.cap / USD
    resets_at = rfc3339((budget.day + 1) * DAY_S)
    details: dict[str, object] = {"budget_usd": cap_usd, "spent_usd": spent_usd, "resets_at": resets_at}
    if needed == inf:
        return Permanent(
            f"tenant {ticket.lane.tenant} has a daily budget, and no price is known for any of"
            f" {', '.join(ticket.pools)}: configure prices, or name another model",
            code="budget_exceeded",
            details=details,
        )
    return Permanent(
        f"tenant {ticket.lane.tenant} has spent {spent_usd:.6f} of {cap_usd:g} USD today, and this call may cost"
        f" {needed / USD:.6f} USD: the budget begins anew at {resets_at}",
        code="budget_exceeded",
        details={**details, "needed_usd": needed / USD},
    )
