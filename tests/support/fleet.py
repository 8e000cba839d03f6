"""What tests of several replicas share: slow models, jobs by the dozen, and the promises that hold at the end."""

from typing import Any

from tests.support.replica import Bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock


def slow(seconds: float = 5.0, *, clock: VirtualClock | None = None) -> ScriptedModel:
    clock = clock or VirtualClock()
    return ScriptedModel(clock, default=says("ok", first_s=seconds))


async def submit(b: Bench, count: int, **more: Any) -> list[str]:
    return [await b.submit(params={"max_tokens": 10}, **more) for _ in range(count)]


async def check_all_ended(b: Bench, jobs: list[str], *, state: str = "succeeded") -> None:
    for job in jobs:
        assert (await b.result(job, limit_s=200)).state == state
    await b.clock.advance(5)
    for job in jobs:
        events = await b.events(job)
        assert sum(event.type == "result" for event in events) == 1
        assert events[-1].type == "result"
        places = [(event.attempt, event.n) for event in events]
        assert places == sorted(places), "no event of an old attempt after a newer attempt's first"
    assert b.requests() == 0
    scheduler = b.leader.scheduler
    assert (scheduler.ledger.slots_used, len(scheduler.ledger.open)) == (0, 0)
    assert b.leader.requests.leader is not None
    assert b.leader.requests.leader.in_flight == 0
