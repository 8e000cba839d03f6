"""What the sidecar says about itself once a second on `llm.v1.sys.stats`: what `sidecar top` shows.

Every replica sends its own part; queues, shares, pools and spend come from the one that schedules
(`is_scheduler`), whose figures are for all replicas. Lists are capped, so that the message stays far below the
server's `max_payload` however many tenants there are; what is left out is summed up, never dropped.
"""

from typing import Literal

from sidecar.models.base import JobClass, Open, Timestamp
from sidecar.models.pauses import Pause

MAX_TENANTS = 100
PAGE_OF_TENANTS = 100
MAX_POOLS = 200
MAX_PAUSES = 50

ReplicaState = Literal["starting", "running", "degraded", "draining"]
ModelHealth = Literal["healthy", "degraded", "open", "unknown"]


class LaneStats(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """A tenant's queue of one class. Waits are those of the jobs dispatched within the last minute."""

    job_class: JobClass
    queued: int
    running: int
    wait_p50_ms: int | None = None
    wait_p95_ms: int | None = None


class TenantStats(Open, frozen=True, kw_only=True):
    """`share` is what the tenant got of the settled cost of the last minute, `fair_share` what its weight
    gives it among those that had work; both from 0 to 1.
    """

    tenant: str
    weight: float
    lanes: tuple[LaneStats, ...]
    share: float
    fair_share: float
    tokens_per_minute: int
    spend_today_usd: float
    budget_today_usd: float | None = None


class OtherTenants(Open, frozen=True, kw_only=True):
    """The sum of the tenants that are not listed one by one."""

    tenants: int = 0
    queued: int = 0
    running: int = 0
    tokens_per_minute: int = 0
    spend_today_usd: float = 0.0


class ClassStats(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """One class over all tenants; `share` and `fair_share` as for a tenant."""

    job_class: JobClass
    weight: float
    queued: int
    running: int
    share: float
    fair_share: float


class PoolStats(Open, frozen=True, kw_only=True):
    """A quota pool: one model or inference profile in one region. `used_share` is of its tokens a minute."""

    model: str
    invoke_id: str
    region: str
    in_flight: int
    used_share: float
    tokens_per_minute: int | None
    tokens_remaining: int | None
    throttles_last_minute: int
    health: ModelHealth


class ModelStats(Open, frozen=True, kw_only=True):
    """A model over all its pools, within the last minute."""

    model: str
    health: ModelHealth
    calls: int = 0
    errors: int = 0
    first_token_p50_ms: int | None = None


class HoldStats(Open, frozen=True, kw_only=True):
    """Why jobs are held: a cause, in words, what to do about it, and for how long it has stood here."""

    cause: str
    reason: str
    remedy: str
    since_s: float = 0.0


class Stats(Open, frozen=True, kw_only=True):
    """One replica's second. `tenants` are those with most queued and running jobs, `MAX_TENANTS` at most.

    Where there are more, all are divided into pages of `PAGE_OF_TENANTS`, a page for each second in turn, and
    `more_tenants` are those of the page that are not in `tenants`: who keeps them knows all after a round.
    `other_tenants` sums up all that are not in `tenants`. `holds` are why no calls can be made here or jobs are
    held, `held` how many jobs of the windows are. `pauses` are what operators hold back, `MAX_PAUSES` at most, and
    `paused` how many jobs in memory are.
    """

    replica: str
    version: str
    time: Timestamp
    state: ReplicaState
    is_scheduler: bool
    uptime_s: float
    slots: int
    slots_used: int
    replicas: int = 1
    queued: int = 0
    running: int = 0
    classes: tuple[ClassStats, ...] = ()
    tenants: tuple[TenantStats, ...] = ()
    other_tenants: OtherTenants = OtherTenants()
    more_tenants: tuple[TenantStats, ...] = ()
    pools: tuple[PoolStats, ...] = ()
    other_pools: int = 0
    models: tuple[ModelStats, ...] = ()
    holds: tuple[HoldStats, ...] = ()
    held: int = 0
    pauses: tuple[Pause, ...] = ()
    paused: int = 0
