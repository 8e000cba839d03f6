"""The dashboard's surroundings for tests and measurements: statistics of many tenants, and a page in a browser."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import get_args

import msgspec

from sidecar.cli.dashboard_command import serving
from sidecar.models.base import JobClass
from sidecar.models.stats import (
    MAX_TENANTS,
    PAGE_OF_TENANTS,
    ClassStats,
    LaneStats,
    ModelStats,
    OtherTenants,
    PoolStats,
    Stats,
    TenantStats,
)

_MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "nova-lite", "nova-pro", "llama-4-scout")
_REGIONS = ("us-east-1", "us-west-2")
_SHARES: tuple[tuple[JobClass, float, float], ...] = (
    ("interactive", 0.8, 0.78),
    ("standard", 0.17, 0.19),
    ("batch", 0.03, 0.03),
)


def tenant_name(i: int) -> str:
    return f"tenant-{i:04d}"


def tenant_stats(i: int, second: int, *, of: int) -> TenantStats:
    """Tenant `i` of so many, as it might be in this second; the first ones are the busiest."""
    now = random.Random(i * 7919 + second)
    weight = random.Random(i).choice((1.0, 1.0, 1.0, 2.0, 5.0))
    return TenantStats(
        tenant=tenant_name(i),
        weight=weight,
        lanes=tuple(
            LaneStats(
                job_class=name,
                queued=now.randrange(0, 200 // (i // 100 + 1) + 1),
                running=now.randrange(0, 3),
                wait_p50_ms=now.randrange(5, 200),
                wait_p95_ms=now.randrange(200, 9000),
            )
            for name in get_args(JobClass)
        ),
        share=round(now.random() * 2 / of, 4),
        fair_share=round(weight / of, 4),
        tokens_per_minute=now.randrange(0, 50_000),
        spend_today_usd=round(now.random() * 20, 6),
        budget_today_usd=random.Random(i).choice((None, 25.0)),
    )


def many_tenants(count: int, second: int, **more: object) -> Stats:
    """What the scheduler says in this second with so many tenants: the busiest, and a page of the others."""
    rest = max(0, count - MAX_TENANTS)
    start = second % -(-count // PAGE_OF_TENANTS) * PAGE_OF_TENANTS
    fields = {
        "replica": "sidecar-0",
        "version": "1.0.0",
        "time": "2026-11-22T10:00:00.000Z",
        "state": "running",
        "is_scheduler": True,
        "uptime_s": 100.0 + second % 100,
        "slots": 256,
        "slots_used": 180,
        "queued": 30_000 + second % 500 * 10,
        "running": 180,
        "classes": tuple(
            ClassStats(job_class=name, weight=100.0, queued=10_000, running=60, share=share, fair_share=fair)
            for name, share, fair in _SHARES
        ),
        "tenants": tuple(tenant_stats(i, second, of=count) for i in range(min(count, MAX_TENANTS))),
        "other_tenants": OtherTenants(tenants=rest, queued=9_000, running=100, tokens_per_minute=800_000),
        "more_tenants": tuple(
            tenant_stats(i, second, of=count)
            for i in range(max(start, MAX_TENANTS), min(count, start + PAGE_OF_TENANTS))
        ),
        "pools": tuple(
            PoolStats(
                model=model,
                invoke_id=f"us.{model}-v1:0",
                region=region,
                in_flight=18,
                used_share=0.6,
                tokens_per_minute=1_000_000,
                tokens_remaining=100_000,
                throttles_last_minute=0,
                health="healthy",
            )
            for model in _MODELS
            for region in _REGIONS
        ),
        "models": tuple(ModelStats(model=model, health="healthy", calls=100) for model in _MODELS),
    }
    return msgspec.convert({**fields, **more}, Stats, from_attributes=True)


@asynccontextmanager
async def served(websocket: str, *, tenant: str | None = None) -> AsyncIterator[str]:
    """The page's address, served for a NATS server that listens for WebSocket there."""
    config = {"websocket": websocket, "prefix": "llm", "tenant": tenant}
    async with serving(host="127.0.0.1", port=0, config=config) as server:
        yield f"http://127.0.0.1:{server.port}/"
