"""Statistics of one replica, as tests of what is made of them need them."""

from sidecar.models.stats import LaneStats, OtherTenants, PoolStats, Stats, TenantStats


def sample_stats(*, is_scheduler: bool = True) -> Stats:
    """One tenant with a queue and a budget, others summed up, one model with a quota."""
    return Stats(
        replica="one",
        version="0.1.0",
        time="2026-12-01T10:00:00.000Z",
        state="running",
        is_scheduler=is_scheduler,
        uptime_s=1.0,
        slots=8,
        slots_used=3,
        tenants=(
            TenantStats(
                tenant="acme",
                weight=1.0,
                lanes=(LaneStats(job_class="batch", queued=7, running=3),),
                share=1.0,
                fair_share=1.0,
                tokens_per_minute=100,
                spend_today_usd=0.5,
                budget_today_usd=1.0,
            ),
        ),
        other_tenants=OtherTenants(tenants=1, queued=1),
        pools=(
            PoolStats(
                model="nova-lite",
                invoke_id="amazon.nova-lite-v1:0",
                region="us-east-1",
                in_flight=3,
                used_share=0.5,
                tokens_per_minute=1000,
                tokens_remaining=500,
                throttles_last_minute=0,
                health="healthy",
            ),
        ),
    )
