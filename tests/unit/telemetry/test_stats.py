"""What the sidecar says about itself: queues, shares, waits, pools, money; bounded, and cheap when idle."""

from typing import Any

import msgspec

from sidecar.errors import Throttled
from sidecar.models.result import Usage
from sidecar.models.stats import MAX_TENANTS, Stats
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

ANSWER = Usage(input_tokens=100, output_tokens=200)


def model(seconds: float = 1.0) -> ScriptedModel:
    clock = VirtualClock()
    return ScriptedModel(clock, default=says("ok", usage=ANSWER, first_s=seconds))


async def listen(made: Bench) -> list[Stats]:
    heard: list[Stats] = []
    await (await made.outside()).bus.subscribe(
        "stats", lambda payload: heard.append(msgspec.json.decode(payload, type=Stats))
    )
    return heard


async def test_every_replica_speaks_once_a_second_and_one_of_them_for_the_queues() -> None:
    async with bench(model()) as made:
        heard = await listen(made)
        await made.replica("first")
        await made.replica("second")
        await made.clock.advance(5.0)
        assert {stats.replica for stats in heard} == {"first", "second"}
        last = heard[-2:]
        assert sorted(stats.is_scheduler for stats in last) == [False, True]
        scheduler = next(stats for stats in last if stats.is_scheduler)
        assert scheduler.replicas == 2
        assert scheduler.tenants == ()


async def test_queues_waits_shares_and_money_of_tenants() -> None:
    async with bench(model()) as made:
        replica = await made.replica(
            scheduler={"slots": 2, "interactive_reserve": 0.0},
            tenants={"acme": {"weight": 3, "budget_usd_per_day": 5}, "beta": {"weight": 1}},
        )
        for _ in range(40):
            await made.submit(tenant="acme")
            await made.submit(tenant="beta")
        await made.clock.advance(10.5)
        stats = replica.stats()
        acme, beta = stats.tenants[1], stats.tenants[0]
        assert (acme.tenant, beta.tenant) == ("acme", "beta")
        assert stats.queued + stats.running == made.requests()
        assert sum(lane.queued + lane.running for t in stats.tenants for lane in t.lanes) == made.requests()
        assert stats.running == stats.slots_used == 2
        assert (acme.fair_share, beta.fair_share) == (0.75, 0.25)
        assert 0.6 < acme.share < 0.9
        assert acme.lanes[0].wait_p95_ms is not None
        assert acme.lanes[0].wait_p50_ms is not None
        assert acme.lanes[0].wait_p95_ms >= acme.lanes[0].wait_p50_ms > 0
        assert acme.budget_today_usd == 5
        done = 40 - acme.lanes[0].queued - acme.lanes[0].running
        assert acme.spend_today_usd > 0.003 * (done - 2)
        assert acme.tokens_per_minute >= 300 * (done - 2)
        (standard,) = [c for c in stats.classes if c.job_class == "standard"]
        assert standard.share == standard.fair_share == 1.0
        (pool,) = [p for p in stats.pools if p.in_flight]
        assert pool.model == "claude-sonnet-4-5"
        assert pool.health == "healthy"
        assert stats.models[0].calls > 10


async def test_refusals_by_the_model_are_seen_in_its_pool() -> None:
    clock = VirtualClock()
    refusals = [True] * 3

    def script(call: Any) -> Any:
        turn = says("ok", usage=ANSWER)
        if not (refusals and refusals.pop()):
            return turn
        return turn._replace(error=Throttled("too much"), reply=None, deltas=())

    async with bench(ScriptedModel(clock, script)) as made:
        replica = await made.replica(models={"claude-sonnet-4-5": {"fallback": []}})
        job = await made.submit()
        assert (await made.result(job)).state == "succeeded"
        assert sum(pool.throttles_last_minute for pool in replica.stats().pools) == 3
        await clock.advance(70.0)
        assert sum(pool.throttles_last_minute for pool in replica.stats().pools) == 0


async def test_tenants_beyond_the_list_are_summed_up() -> None:
    async with bench(model(30.0)) as made:
        replica = await made.replica(scheduler={"slots": 5, "interactive_reserve": 0.0})
        for i in range(MAX_TENANTS + 20):
            for _ in range(2 if i < 10 else 1):
                await made.submit(tenant=f"t{i:03d}")
        await made.clock.advance(1.0)
        stats = replica.stats()
        assert len(stats.tenants) == MAX_TENANTS
        assert [tenant.tenant for tenant in stats.tenants[:10]] == [f"t{i:03d}" for i in range(10)]
        assert stats.other_tenants.tenants == 20
        listed = sum(lane.queued + lane.running for tenant in stats.tenants for lane in tenant.lanes)
        assert listed + stats.other_tenants.queued + stats.other_tenants.running == made.requests()
        assert len(msgspec.json.encode(stats)) < 100_000


async def test_what_was_long_ago_counts_no_more() -> None:
    async with bench(model()) as made:
        replica = await made.replica()
        assert (await made.result(await made.submit())).state == "succeeded"
        await made.clock.advance(1.0)
        (tenant,) = replica.stats().tenants
        assert tenant.share == 1.0
        await made.clock.advance(130.0)
        (tenant,) = replica.stats().tenants
        assert (tenant.share, tenant.tokens_per_minute, tenant.lanes) == (0.0, 0, ())
        assert tenant.spend_today_usd > 0
