"""What the scheduler holds and hands out: jobs that wait, debits that are open, and what bounds a tenant."""

from typing import Any, Literal, NamedTuple

import msgspec

from sidecar.errors import ErrorCode, SidecarError
from sidecar.ports.bus import Lane

BlockedBy = Literal["quota", "tenant", "slot", "model", "pause"]


class Ticket(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One queued job in its lane's window: a reference, never the request itself.

    `pools` are quota pools (`Route.pool`) in the order of preference; equal tuples should be one object.
    `stored_at` and `deadline` are seconds since 1970. `max_tokens` bounds the output of the next model turn.
    `price_factor` is how much dearer a call may be than its pool's plain price (service tier, long-lived cache).
    """

    seq: int
    lane: Lane
    job_id: str
    size: int
    stored_at: float
    input_tokens: int
    max_tokens: int
    pools: tuple[str, ...]
    deadline: float | None = None
    price_factor: float = 1.0


class Grant(msgspec.Struct, gc=False, eq=False):
    """Permission for one model call: a debit of slot, lane, class and quota, settled or undone exactly once.

    `turn` counts a job's model turns from 1. `reserved` is in quota tokens, `cost` in pool-seconds, both
    predictions; `money` is what the call may cost at most, for a tenant with a budget (1e-6 USD). The fields after
    `is_open` belong to the scheduler.
    """

    id: int
    ticket: Ticket
    pool: str
    turn: int
    input_tokens: int
    max_tokens: int
    predicted_output: float
    reserved: float
    cost: float
    granted_at: float
    is_open: bool = True
    holds_slot: bool = True
    flow: Any = None
    quota: Any = None
    charged: tuple[float, float, float] = (0.0, 0.0, 0.0)
    prices: tuple[float, float, float] = (0.0, 0.0, 0.0)
    money: float = 0.0

    def price(self, quota_tokens: float, seconds: float) -> float:
        """What the call took of the scarcest resource of its pool, in pool-seconds."""
        return max(quota_tokens * self.prices[0], self.prices[1], seconds * self.prices[2])


class TenantCaps(NamedTuple):
    """What bounds a tenant in the scheduler. None: not bounded."""

    weight: float = 1.0
    max_concurrency: int | None = None
    tokens_per_minute: int | None = None
    budget_usd_per_day: float | None = None


class DroppedTicket(NamedTuple):
    """A queued job that can't run any more; the caller ends it with `error`, or where that is None with `code`."""

    ticket: Ticket
    code: ErrorCode
    error: SidecarError | None = None


class DeniedCall(NamedTuple):
    """A running job's next call that can't be made any more. `previous` is the grant of its last call."""

    previous: Grant
    error: SidecarError


class WaitReason(NamedTuple):
    """Why a lane's head does not run. `estimate_s` is None where nothing honest can be said, `why` says more."""

    reason: BlockedBy
    estimate_s: float | None = None
    why: str | None = None
