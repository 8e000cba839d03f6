"""What a tenant may use at once: concurrent jobs over all its lanes, and tokens a minute.

A lane of a tenant at its cap leaves the heap. A cap on jobs lets it back when a job ends, a cap on tokens when
the bucket holds what its head needs.
"""

from math import inf

from sidecar.scheduler.buckets import Bucket
from sidecar.scheduler.fair_share import Flow
from sidecar.scheduler.quota import BURST_S
from sidecar.scheduler.tenants import USD, Budget
from sidecar.scheduler.tickets import TenantCaps


class Tenant:
    """A tenant's weight, its running jobs and its own bucket; `parked` are its lanes that wait for a cap."""

    __slots__ = ("bucket", "budget", "concurrency", "name", "parked", "running", "wakes_at", "weight")

    def __init__(self, name: str, caps: TenantCaps, *, now: float) -> None:
        self.name = name
        self.running = 0
        self.parked: list[Flow] = []
        self.wakes_at = inf
        self.bucket: Bucket | None = None
        self.budget: Budget | None = None
        self.set_caps(caps, now=now)

    @property
    def has_slot(self) -> bool:
        return self.running < self.concurrency

    def set_caps(self, caps: TenantCaps, *, now: float) -> None:
        """Take new bounds; what runs goes on."""
        self.weight = caps.weight
        self.concurrency = inf if caps.max_concurrency is None else caps.max_concurrency
        self._set_budget(caps.budget_usd_per_day)
        if caps.tokens_per_minute is None:
            self.bucket = None
            return
        rate = caps.tokens_per_minute / 60
        if self.bucket is None:
            self.bucket = Bucket(rate, rate * BURST_S, now=now)
        self.bucket.refill(now)
        self.bucket.rate = rate
        self.bucket.cap = rate * BURST_S

    def _set_budget(self, usd_per_day: float | None) -> None:
        """What runs keeps its reservations, so a budget that is taken away becomes an unbounded one."""
        cap = inf if usd_per_day is None else usd_per_day * USD
        if self.budget is not None:
            self.budget.cap = cap
        elif usd_per_day is not None:
            self.budget = Budget(cap, day=0)

    def wait_s(self, need: float, *, now: float) -> float:
        """Seconds until a job that reserves `need` tokens may start; infinite when one has to end first."""
        if self.running >= self.concurrency:
            return inf
        bucket = self.bucket
        if bucket is None:
            return 0.0
        bucket.refill(now)
        need = min(need, bucket.rate * 60)
        if need > bucket.cap:
            bucket.cap = need
        return bucket.wait_s(need)

    def reserve(self, need: float) -> None:
        """Debit tokens; a later turn may run into debt, which the next queued job waits for."""
        if self.bucket is not None:
            self.bucket.level -= need
            self.bucket.cap = self.bucket.rate * BURST_S

    def forget_debit(self, need: float) -> None:
        """Undo what `reserve` just did, for a call that was debited before."""
        if self.bucket is not None:
            self.bucket.level += need

    def settle(self, reserved: float, actual: float, *, now: float) -> None:
        """Correct a debit to what was used."""
        if self.bucket is not None:
            self.bucket.refill(now)
            self.bucket.add(reserved - actual)
