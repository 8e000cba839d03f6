"""Who may write the scheduler's checkpoint: the one who schedules."""

from tests.support.replica import bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock


async def test_a_replica_that_schedules_no_more_writes_no_checkpoint() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=30.0))) as b:
        replica = await b.replica()
        await b.submit()
        await clock.advance(5.0)
        checkpoints = (await b.outside()).checkpoints
        assert await checkpoints.load("scheduler") is not None
        old = replica.scheduler
        replica.requests.follow()
        await checkpoints.save("scheduler", b"the successor's")
        old.throttled("some pool", now=clock.monotonic())
        await clock.advance(5.0)
        assert await checkpoints.load("scheduler") == b"the successor's"
