"""A queued job that stands still says why: quota, its tenant's cap, or a slot."""

from typing import Any

import pytest

from sidecar.models.event import Event, Status
from sidecar.models.result import Usage
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock


def model(seconds: float) -> ScriptedModel:
    clock = VirtualClock()
    usage = Usage(input_tokens=300, output_tokens=300)
    return ScriptedModel(clock, default=says("ok", usage=usage, first_s=seconds))


def waits(events: list[Event]) -> list[Status]:
    return [e.data for e in events if isinstance(e.data, Status) and e.data.state == "waiting"]


async def last_of(made: Bench, count: int, **more: Any) -> str:
    return [await made.submit(params={"max_tokens": 400}, **more) for _ in range(count)][-1]


@pytest.mark.parametrize(
    ("settings", "seconds", "reason"),
    [
        ({"scheduler": {"slots": 1}}, 10.0, "slot"),
        ({"tenants": {"acme": {"max_concurrency": 1}}}, 10.0, "tenant"),
        ({"models": {MODEL: {"tokens_per_minute": 600, "fallback": []}}}, 0.1, "quota"),
    ],
)
async def test_why_a_job_waits_is_told_once(settings: dict[str, Any], seconds: float, reason: str) -> None:
    async with bench(model(seconds)) as made:
        await made.replica(**settings)
        job = await last_of(made, 3)
        await made.clock.advance(6.0)
        events = await made.events(job)
        assert [wait.waiting_for for wait in waits(events)] == [reason]
        assert [(e.attempt, e.n) for e in events] == [(0, 1), (0, 2)]
        result = await made.result(job)
        assert result.state == "succeeded"
        final = await made.events(job)
        assert [wait.waiting_for for wait in waits(final)] == [reason]


async def test_the_estimate_for_quota_is_kept_and_given_to_the_next_job_alone() -> None:
    async with bench(model(0.1)) as made:
        await made.replica(models={MODEL: {"tokens_per_minute": 6_000, "fallback": []}})
        jobs = [await made.submit(params={"max_tokens": 400}) for _ in range(6)]
        await made.clock.advance(3.0)
        told = [found[0] for job in jobs if (found := waits(await made.events(job)))]
        assert {wait.waiting_for for wait in told} == {"quota"}
        assert [wait.estimate_ms is None for wait in told] == [False] + [True] * (len(told) - 1)
        estimate_ms = told[0].estimate_ms
        assert estimate_ms is not None
        head = jobs[len(jobs) - len(told)]
        result = await made.result(head)
        assert abs(result.timings.queued_ms - estimate_ms) < 3_000


async def test_a_job_that_is_merely_not_next_is_told_nothing() -> None:
    async with bench(model(0.3)) as made:
        await made.replica(scheduler={"slots": 2, "interactive_reserve": 0.0})
        job = await last_of(made, 2)
        assert (await made.result(job)).state == "succeeded"
        assert waits(await made.events(job)) == []


async def test_under_a_flood_telling_is_bounded_and_costs_no_dispatch() -> None:
    async with bench(model(1.0)) as made:
        await made.replica(scheduler={"slots": 4, "interactive_reserve": 0.0})
        for i in range(300):
            await made.submit(tenant=f"t{i % 30}")
        await made.clock.advance(10.0)
        publishes = [op for op in made.bus.operations if op.name == "publisher.publish"]
        assert made.requests() <= 300 - 4 * 8
        assert len(publishes) < 10 * (32 + 32 * 2) * 10


async def test_a_cancelled_job_that_was_told_why_it_waits_ends_in_order() -> None:
    async with bench(model(20.0)) as made:
        await made.replica(scheduler={"slots": 1})
        await last_of(made, 1)
        job = await made.submit(job="j1")
        await made.clock.advance(4.0)
        assert len(waits(await made.events(job))) == 1
        await made.ask("cancel", "acme", job)
        assert (await made.result(job)).state == "cancelled"
        places = [(e.attempt, e.n) for e in await made.events(job)]
        assert places == sorted(set(places))
