"""A thousand tenants in messages of bounded size: the busiest every second, the others page by page."""

from typing import get_args

import msgspec

from sidecar.models.base import JobClass
from sidecar.models.result import Usage
from sidecar.models.stats import (
    MAX_POOLS,
    MAX_TENANTS,
    PAGE_OF_TENANTS,
    LaneStats,
    ModelStats,
    PoolStats,
    Stats,
    TenantStats,
)
from tests.support.replica import bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

DEFAULT_MAX_PAYLOAD = 1_048_576
TENANTS = MAX_TENANTS + 2 * PAGE_OF_TENANTS + 30


async def test_who_keeps_the_pages_knows_all_tenants() -> None:
    model = ScriptedModel(VirtualClock(), default=says("ok", usage=Usage(), first_s=600.0))
    async with bench(model) as made:
        replica = await made.replica(scheduler={"slots": 2, "interactive_reserve": 0.0})
        for i in range(TENANTS):
            await made.submit(tenant=f"t{i:03d}")
        await made.clock.advance(1.0)
        heard = []
        for _ in range(4):
            heard.append(replica.stats())
            await made.clock.advance(1.0)
        for stats in heard:
            listed = {tenant.tenant for tenant in stats.tenants}
            paged = {tenant.tenant for tenant in stats.more_tenants}
            assert len(listed) == MAX_TENANTS
            assert len(paged) <= PAGE_OF_TENANTS
            assert not listed & paged
            assert stats.other_tenants.tenants == TENANTS - MAX_TENANTS
        everyone = {tenant.tenant for stats in heard for tenant in (*stats.tenants, *stats.more_tenants)}
        assert everyone == {f"t{i:03d}" for i in range(TENANTS)}


async def test_few_tenants_need_no_pages() -> None:
    model = ScriptedModel(VirtualClock(), default=says("ok", usage=Usage(), first_s=600.0))
    async with bench(model) as made:
        replica = await made.replica()
        await made.submit(tenant="acme")
        await made.clock.advance(1.0)
        assert replica.stats().more_tenants == ()


def test_the_largest_message_is_far_below_what_a_server_takes() -> None:
    lanes = tuple(
        LaneStats(job_class=name, queued=10**7, running=10**5, wait_p50_ms=10**8, wait_p95_ms=10**8)
        for name in get_args(JobClass)
    )
    tenant = TenantStats(
        tenant="t" * 64,
        weight=1234.5678,
        lanes=lanes,
        share=0.1234,
        fair_share=0.1234,
        tokens_per_minute=10**10,
        spend_today_usd=123456.123456,
        budget_today_usd=123456.123456,
    )
    pool = PoolStats(
        model="m" * 64,
        invoke_id="arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/" + "p" * 64,
        region="ap-southeast-1",
        in_flight=10**4,
        used_share=0.1234,
        tokens_per_minute=10**9,
        tokens_remaining=10**9,
        throttles_last_minute=10**5,
        health="degraded",
    )
    model = ModelStats(model="m" * 64, health="degraded", calls=10**6, errors=10**6, first_token_p50_ms=10**6)
    stats = Stats(
        replica="r" * 64,
        version="1.0.0",
        time="2026-11-22T10:00:00.000Z",
        state="running",
        is_scheduler=True,
        uptime_s=1e9,
        slots=10**5,
        slots_used=10**5,
        tenants=(tenant,) * MAX_TENANTS,
        more_tenants=(tenant,) * PAGE_OF_TENANTS,
        pools=(pool,) * MAX_POOLS,
        models=(model,) * MAX_POOLS,
    )
    assert len(msgspec.json.encode(stats)) < DEFAULT_MAX_PAYLOAD / 3
