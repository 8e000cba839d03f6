"""Several replicas on one bus, in virtual time: who schedules, who works, and what happens when one goes."""

from sidecar.adapters.memory.clock import MemoryClock
from sidecar.adapters.memory.model import ScriptedModel, says
from tests.support.replica import bench


async def test_jobs_are_spread_over_all_replicas() -> None:
    clock = MemoryClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=5.0))) as b:
        replicas = [await b.replica(name, scheduler={"slots": 2}) for name in ("one", "two", "three")]
        await clock.advance(3)
        assert [r.cluster.members for r in replicas] == [3, 3, 3]
        jobs = [await b.submit(params={"max_tokens": 10}) for _ in range(6)]
        await clock.advance(1)
        assert [r.requests.running for r in replicas] == [2, 2, 2]
        assert [r.cluster.term > 0 for r in replicas] == [True, False, False]
        for job in jobs:
            assert (await b.result(job)).state == "succeeded"
        await clock.advance(3)
        assert replicas[0].scheduler.ledger.slots_used == 0
        assert replicas[0].scheduler.ledger.slots == 6
