"""The way of a job over the in-memory twins, in virtual time."""

from tests.support.replica import bench

from sidecar.models.event import Delta, Status
from sidecar.models.result import Result


async def test_a_job_goes_the_whole_way() -> None:
    async with bench() as b:
        await b.replica()
        job = await b.submit(job="job1", metadata={"ticket": "42"})
        result = await b.result(job)
        assert result.state == "succeeded"
        assert result.output.text == "ok"
        assert result.usage.input_tokens == 10
        assert result.cost_usd is not None
        assert result.cost_usd > 0
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "succeeded"
        assert stored.state.result == result
        events = await b.events(job)
        assert [e.n for e in events] == [1, 2]
        assert [e.type for e in events] == ["status", "result"]
        assert all(e.metadata == {"ticket": "42"} for e in events)
        await b.clock.settle()
        assert (await b.replicas[0].requests._reader._intake.backlog()).counts == {}
