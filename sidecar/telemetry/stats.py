"""What a replica says of itself once a second: `models.stats` filled from the scheduler's books. Pure.

Queues are the stream's (as of the last reconcile and what was heard since), shares and waits of the last minute.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import NamedTuple, cast, get_args

import msgspec

from sidecar.config.settings import Policy
from sidecar.coordinator.health import Phase
from sidecar.models.base import JobClass, rfc3339
from sidecar.models.profile import public_id
from sidecar.models.stats import (
    MAX_PAUSES,
    MAX_POOLS,
    MAX_TENANTS,
    PAGE_OF_TENANTS,
    ClassStats,
    HoldStats,
    LaneStats,
    ModelHealth,
    ModelStats,
    OtherTenants,
    PoolStats,
    ReplicaState,
    Stats,
    TenantStats,
)
from sidecar.ports.bus import Lane
from sidecar.scheduler.meter import Meter
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tenants import USD
from sidecar.telemetry.queues import Queues

_CLASSES: tuple[JobClass, ...] = get_args(JobClass)
_HEALTH: Mapping[Phase, ModelHealth] = {
    "closed": "healthy",
    "half_open": "degraded",
    "open": "open",
    "denied": "open",
}
_BEST: tuple[ModelHealth, ...] = ("healthy", "unknown", "degraded", "open")


class Own(NamedTuple):
    """What a replica knows of itself, whether it schedules or not. `now`: seconds since 1970."""

    replica: str
    version: str
    now: float
    state: ReplicaState
    uptime_s: float
    slots: int
    slots_used: int
    holds: tuple[HoldStats, ...] = ()


class SchedulerView(NamedTuple):
    """What only the scheduler knows. `stored`: requests in the stream, `in_flight`: granted of them, by lane.

    `now` is monotonic. `alias_of` names the model of a pool, `phases` are the pools' breakers.
    """

    scheduler: Scheduler
    meter: Meter
    stored: Mapping[Lane, int]
    in_flight: Mapping[Lane, int]
    policy: Policy
    replicas: int
    alias_of: Callable[[str], str | None]
    phases: Mapping[str, Phase]
    now: float


def own_stats(own: Own, books: SchedulerView | None = None) -> Stats:
    """The message. Without `books` of a replica that does not schedule: its own part."""
    stats = Stats(
        replica=own.replica,
        version=own.version,
        time=rfc3339(own.now),
        state=own.state,
        is_scheduler=books is not None,
        uptime_s=round(own.uptime_s, 1),
        slots=own.slots,
        slots_used=own.slots_used,
        running=own.slots_used,
        holds=own.holds,
    )
    return stats if books is None else _with_books(stats, books, own.now)


def _with_books(stats: Stats, books: SchedulerView, epoch: float) -> Stats:
    books.meter.roll(epoch)
    queues = _queues(books)
    tenants, more, others = _tenants(books, queues, epoch)
    keys = sorted(books.scheduler.ledger.pools)
    pools = _pools(keys, books)
    return Stats(
        **{
            **{name: getattr(stats, name) for name in stats.__struct_fields__},
            "replicas": books.replicas,
            "queued": sum(queues.queued.values()),
            "running": sum(queues.running.values()),
            "held": books.scheduler.holding.count,
            "pauses": books.scheduler.paused.rules[:MAX_PAUSES],
            "paused": books.scheduler.paused.count,
            "classes": _classes(books, queues),
            "tenants": tenants,
            "other_tenants": others,
            "more_tenants": more,
            "pools": pools[:MAX_POOLS],
            "other_pools": max(0, len(pools) - MAX_POOLS),
            "models": _models(keys, pools, books),
        }
    )


def _queues(books: SchedulerView) -> Queues:
    weights = books.scheduler.share.classes
    policy = books.policy
    return Queues(
        books.stored,
        books.in_flight,
        classes={name: weights[name] for name in _CLASSES if name in weights},
        tenants={name: tenant.weight for name, tenant in policy.tenants.items()},
        any_tenant=policy.tenant("").weight,
    )


def _classes(books: SchedulerView, queues: Queues) -> tuple[ClassStats, ...]:
    weights = books.scheduler.share.classes
    costs = {name: account.cost.sum(books.now) for name, account in books.meter.classes.items()}
    total = sum(costs.values())
    known = [name for name in _CLASSES if name in weights]
    active = {name for name in known if queues.has_class(name) or costs.get(name)}
    weighs = sum(weights[name] for name in active)
    return tuple(
        ClassStats(
            job_class=name,
            weight=weights[name],
            queued=queues.queued[name],
            running=queues.running[name],
            share=_part(costs.get(name, 0.0), total),
            fair_share=_part(weights[name], weighs) if name in active else 0.0,
        )
        for name in known
    )


def _tenants(
    books: SchedulerView, queues: Queues, epoch: float
) -> tuple[tuple[TenantStats, ...], tuple[TenantStats, ...], OtherTenants]:
    spent = _spent(books)
    names = _most_important(queues.jobs, spent, books.meter.tenants)
    # Of all tenants: each settlement is entered under its class, too, and of those there are few.
    total = sum(account.cost.sum(books.now) for account in books.meter.classes.values())
    # Who spent something stays where it stands all day, so that a page's tenants are the same in each round.
    known = dict.fromkeys(chain(spent, books.meter.tenants, queues.jobs))
    listed, more = (
        tuple(_tenant(name, books, queues, spent=spent, total=total) for name in part)
        for part in (names, _page(known, names, int(epoch)))
    )
    return listed, more, _others(listed, books, queues, spent, others=len(known) - len(names))


def _most_important(
    jobs: Mapping[str, int], spent: Mapping[str, float], lately: Mapping[str, object]
) -> list[str]:
    """The first by jobs, then by what they spent. Thousands that only spent something once must cost little."""
    names = heapq.nsmallest(MAX_TENANTS, jobs, key=lambda name: (-jobs[name], -spent.get(name, 0.0), name))
    room = MAX_TENANTS - len(names)
    if room:
        spenders = heapq.nlargest(room + len(names), spent.items(), key=itemgetter(1))
        idle = [name for name, _ in spenders if name not in jobs]
        idle += [name for name in lately if name not in jobs and name not in spent]
        names += idle[:room]
    return names


def _others(
    listed: Sequence[TenantStats], books: SchedulerView, queues: Queues, spent: Mapping[str, float], *, others: int
) -> OtherTenants:
    """What all have together, less those that are listed."""
    if not others:
        return OtherTenants()
    lanes = [lane for tenant in listed for lane in tenant.lanes]
    tokens = sum(account.tokens.sum(books.now) for account in books.meter.classes.values())
    return OtherTenants(
        tenants=others,
        queued=sum(queues.queued.values()) - sum(lane.queued for lane in lanes),
        running=sum(queues.running.values()) - sum(lane.running for lane in lanes),
        tokens_per_minute=max(0, round(tokens - sum(_tokens(books, tenant.tenant) for tenant in listed))),
        spend_today_usd=max(0.0, round(sum(spent.values()) - sum(tenant.spend_today_usd for tenant in listed), 6)),
    )


def _page(known: Collection[str], listed: Collection[str], turn: int) -> list[str]:
    """Those of this turn's page that are not listed anyway."""
    if len(known) <= len(listed):
        return []
    start = turn % -(-len(known) // PAGE_OF_TENANTS) * PAGE_OF_TENANTS
    others = set(listed)
    return [name for name in islice(known, start, start + PAGE_OF_TENANTS) if name not in others]


def _tenant(
    name: str, books: SchedulerView, queues: Queues, *, spent: Mapping[str, float], total: float
) -> TenantStats:
    policy = books.policy.tenant(name)
    account = books.meter.tenants.get(name)
    return TenantStats(
        tenant=name,
        weight=policy.weight,
        lanes=tuple(_lane(lane, books, queues.busy[lane]) for lane in sorted(queues.lanes.get(name, ()))),
        share=_part(account.cost.sum(books.now), total) if account else 0.0,
        fair_share=round(queues.fair_share(name), 4),
        tokens_per_minute=round(_tokens(books, name)),
        spend_today_usd=round(spent.get(name, 0.0), 6),
        budget_today_usd=policy.budget_usd_per_day,
    )


def _lane(lane: Lane, books: SchedulerView, jobs: tuple[int, int]) -> LaneStats:
    waits = books.meter.waits_ms(lane, now=books.now)
    return LaneStats(
        job_class=cast(JobClass, lane.job_class),
        queued=jobs[0],
        running=jobs[1],
        wait_p50_ms=waits[0] if waits else None,
        wait_p95_ms=waits[1] if waits else None,
    )


def _tokens(books: SchedulerView, name: str) -> float:
    account = books.meter.tenants.get(name)
    return account.tokens.sum(books.now) if account else 0.0


def _spent(books: SchedulerView) -> dict[str, float]:
    """By the shared ledger where there is a budget, else as far as this scheduler saw it."""
    spent = dict(books.meter.spent_usd)
    ledger = books.scheduler.ledger
    for name, tenant in ledger.with_budget.items():
        budget = ledger.budget(tenant)
        if budget is not None and budget.settled:
            spent[name] = budget.settled / USD
    return spent


def _pools(keys: Sequence[str], books: SchedulerView) -> list[PoolStats]:
    """One for each of `keys`, in order, each with a name of its own."""
    seen: Counter[tuple[str, str]] = Counter()
    pools = []
    for key in keys:
        pool = _pool(key, books)
        place = (pool.invoke_id, pool.region)
        seen[place] += 1
        if seen[place] > 1:
            # By ARNs of several accounts, say: what tells them apart is not shown.
            pool = msgspec.structs.replace(pool, invoke_id=f"{pool.invoke_id}#{seen[place]}")
        pools.append(pool)
    return pools


def _pool(key: str, books: SchedulerView) -> PoolStats:
    pool = books.scheduler.ledger.pools[key]
    pool.refill(books.now)
    invoke_id, _, region = key.rpartition("@")
    quota = pool.tokens_per_minute
    alias = books.alias_of(invoke_id) or public_id(invoke_id, "unknown")
    return PoolStats(
        model=alias,
        invoke_id=public_id(invoke_id, alias),
        region=region,
        in_flight=pool.in_flight,
        used_share=_part(pool.used_per_minute(books.now), quota),
        tokens_per_minute=round(quota),
        tokens_remaining=round(pool.tokens.level),
        throttles_last_minute=round(pool.throttled_lately.sum(books.now)),
        health=_HEALTH.get(books.phases.get(key, "closed"), "unknown"),
    )


def _models(keys: Sequence[str], pools: Sequence[PoolStats], books: SchedulerView) -> tuple[ModelStats, ...]:
    """By model: the health of its best pool, calls settled and refused within the last minute."""
    by_model: dict[str, list[tuple[str, PoolStats]]] = {}
    for key, pool in zip(keys, pools, strict=True):
        by_model.setdefault(pool.model, []).append((key, pool))
    return tuple(
        ModelStats(
            model=model,
            health=min((pool.health for _, pool in own), key=_BEST.index),
            calls=round(sum(books.meter.calls_of(key, now=books.now) for key, _ in own)),
            errors=sum(pool.throttles_last_minute for _, pool in own),
        )
        for model, own in sorted(by_model.items())[:MAX_POOLS]
    )


def _part(amount: float, of: float) -> float:
    return round(amount / of, 4) if of else 0.0
