"""The watch over waiting jobs: a fault that keeps them from running is told once, counted and mended."""

import logging

import pytest

from sidecar.ports.bus import Lane
from tests.support.replica import bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

LANE = Lane("acme", "standard")
SAID = "jobs wait though slots are free and nothing is in their way"


@pytest.mark.parametrize("fault", ["a read position that passed it", "a doorbell that was lost", "a lost kick"])
async def test_a_job_that_stands_still_is_found_within_two_seconds(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(ScriptedModel(VirtualClock(), default=says("ok", first_s=0.1))) as b:
        await b.fleet("one", slots=4)
        leader = b.leader.requests.leader
        assert leader is not None
        index = leader.reader._index.lane(LANE)
        if fault == "a read position that passed it":
            index.read_seq = 100
            index.stored = 1
        elif fault == "a doorbell that was lost":
            leader.reader.is_open = False
        else:
            leader._is_kicked = True
        job = await b.submit()
        await b.clock.settle()
        if fault == "a doorbell that was lost":
            leader.reader.is_open, index.has_more = True, False
        with caplog.at_level(logging.WARNING):
            assert (await b.result(job, limit_s=2.5)).state == "succeeded"
        assert b.leader.requests.standstills == 1
        assert caplog.text.count(SAID) == 1


async def test_what_waits_for_a_slot_or_for_quota_does_not_stand_still(caplog: pytest.LogCaptureFixture) -> None:
    model = ScriptedModel(VirtualClock(), default=says("ok", first_s=5.0))
    async with bench(model) as b:
        await b.fleet("one", slots=4, models={"claude-sonnet-4-5": {"requests_per_minute": 4}})
        for _ in range(6):
            await b.submit()
        await b.clock.advance(30)
        assert b.leader.requests.standstills == 0
        assert SAID not in caplog.text
