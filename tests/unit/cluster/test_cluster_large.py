"""Fifty replicas and thousands of tenants in virtual time, with crashes of the scheduler and of workers."""

import os
import random

from tests.support.replica import PLENTY, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

REPLICAS = 50
# SIDECAR_TEST_TENANTS=10000 takes minutes.
TENANTS = int(os.environ.get("SIDECAR_TEST_TENANTS", "500"))
SLOTS = 8


async def test_fifty_replicas_and_many_tenants_survive_crashes() -> None:
    luck = random.Random(7)
    clock = VirtualClock()
    model = ScriptedModel(clock, lambda call: says("ok", first_s=luck.uniform(0.5, 4.0)))
    async with bench(model) as b:
        settings = {"models": PLENTY, "scheduler": {"slots": SLOTS, "interactive_reserve": 0.0}}
        for i in range(REPLICAS):
            await b.replica(f"r{i}", **settings)
        await b.clock.advance(2.5)
        assert b.leader.scheduler.ledger.slots == REPLICAS * SLOTS
        jobs = {f"t{i}": await b.submit(tenant=f"t{i}", params={"max_tokens": 9}) for i in range(TENANTS)}
        await b.clock.advance(1.0)
        b.kill(luck.choice(b.followers))
        await b.clock.advance(1.0)
        b.kill(b.leader)
        await b.until(lambda: b.requests() == 0, limit_s=600)
        await b.clock.advance(5)
        assert not b.crashes
        for tenant, job in jobs.items():
            events = await b.events(job, tenant=tenant)
            assert sum(event.type == "result" for event in events) == 1
            attempts = [event.attempt for event in events]
            assert attempts == sorted(attempts)
        ledger = b.leader.scheduler.ledger
        assert (ledger.slots_used, len(ledger.open)) == (0, 0)
        assert ledger.slots == (REPLICAS - 2) * SLOTS
        assert len(model.calls) <= TENANTS + 2 * SLOTS, "only what died with its replica was called twice"
