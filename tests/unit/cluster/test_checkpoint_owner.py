"""Who may write the scheduler's checkpoint: the one who schedules."""

from sidecar.adapters.memory.checkpoints import MemoryCheckpoints
from sidecar.adapters.memory.clock import MemoryClock
from sidecar.adapters.memory.model import ScriptedModel, says
from tests.support.replica import bench


async def test_a_replica_that_schedules_no_more_writes_no_checkpoint() -> None:
    clock = MemoryClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=30.0))) as b:
        replica = await b.replica()
        await b.submit()
        await clock.advance(5.0)
        checkpoints = MemoryCheckpoints(b.bus, replica="successor")
        assert await checkpoints.load("scheduler") is not None
        old = replica.scheduler
        replica.requests.follow()
        await checkpoints.save("scheduler", b"the successor's")
        old.throttled("some pool", now=clock.monotonic())
        await clock.advance(5.0)
        assert await checkpoints.load("scheduler") == b"the successor's"
