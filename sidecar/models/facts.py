"""What is known about a run when it ends, whichever way it ends."""

import msgspec

from sidecar.models.content import Message
from sidecar.models.job import Carried
from sidecar.models.result import Attempt, Child, StopReason, Timings, Usage, UsageBasis, worth_listing


class RunFacts(msgspec.Struct, kw_only=True):
    """Gathered while a job runs; the one mutable value here, owned by the task that runs the job.

    `text` holds what was streamed of the attempt that counts, in pieces; `has_streamed` says whether any delta
    of it went out, `is_bound_by_budget` whether the answer's length was bounded by the job's money. `cost_usd` is
    None as soon as one call's price is not known; `counted_micro_usd` is what of it the tenant's day was charged.
    `left_out` counts calls that cost nothing and were left out of the `attempts` by earlier owners.
    `messages` is what the job added to the conversation, where the client has to go on from it.
    """

    input_estimate: int = 0
    model: str | None = None
    model_id: str | None = None
    usage: Usage = Usage()
    usage_basis: UsageBasis = "observed"
    cost_usd: float | None = 0.0
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    children: list[Child] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
    messages: tuple[Message, ...] = ()
    text: list[str] = msgspec.field(default_factory=list)
    heard_chars: int = 0
    has_streamed: bool = False
    is_bound_by_budget: bool = False
    counted_micro_usd: int = 0
    left_out: int = 0
    stop_reason: StopReason | None = None
    queued_ms: int = 0
    first_token_ms: int | None = None
    total_ms: int = 0

    @property
    def calls(self) -> int:
        """How many calls the job has made, those included that are not among the `attempts` any more."""
        return len(self.attempts) + self.left_out

    @property
    def timings(self) -> Timings:
        return Timings(queued_ms=self.queued_ms, first_token_ms=self.first_token_ms, total_ms=self.total_ms)

    def take_up(self, carried: Carried) -> None:
        """Go on from what earlier owners of the job left."""
        self.usage += carried.usage
        if carried.usage_basis == "estimated":
            self.usage_basis = "estimated"
        known = self.cost_usd is not None and carried.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (carried.cost_usd or 0.0) if known else None
        self.counted_micro_usd += carried.counted_micro_usd
        self.attempts[:0] = carried.attempts
        self.left_out += carried.left_out
        self.warn(*carried.warnings)

    @property
    def carried(self) -> Carried | None:
        """What a later owner has to know of the calls so far; None when there were none."""
        if not self.attempts:
            return None
        listed = worth_listing(self.attempts)
        return Carried(
            usage=self.usage,
            usage_basis=self.usage_basis,
            cost_usd=self.cost_usd,
            counted_micro_usd=self.counted_micro_usd,
            attempts=listed,
            left_out=self.calls - len(listed),
            warnings=tuple(self.warnings),
        )

    def warn(self, *warnings: str) -> None:
        """Add what is not there yet, in order."""
        for warning in warnings:
            if warning not in self.warnings:
                self.warnings.append(warning)
