"""What a tenant may have: jobs in its queue and at once, tokens a minute, classes, models; and who is unknown."""

from typing import Any

import pytest

from sidecar.models.result import Result, Usage
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock


def slow(seconds: float = 5.0) -> ScriptedModel:
    clock = VirtualClock()
    return ScriptedModel(clock, default=says("ok", usage=Usage(input_tokens=10, output_tokens=5), first_s=seconds))


async def results(made: Bench, jobs: list[str], tenant: str = "acme") -> list[Result]:
    return [await made.result(job, tenant=tenant) for job in jobs]


def codes(found: list[Result]) -> list[str | None]:
    return [result.error.code if result.error else None for result in found]


async def test_a_queue_smaller_than_the_servers_turns_the_newest_away_and_keeps_the_oldest() -> None:
    async with bench(slow()) as made:
        await made.replica(tenants={"acme": {"max_queue": 30, "max_concurrency": 1}})
        jobs = [await made.submit() for _ in range(100)]
        await made.until(lambda: made.requests() == 30)
        assert codes(await results(made, jobs[30:])) == ["queue_full"] * 70
        await made.until(lambda: made.requests() == 0, limit_s=300.0)
        assert codes(await results(made, jobs[:30])) == [None] * 30
        error = (await made.result(jobs[-1])).error
        assert error is not None
        assert error.details["max_queue"] == 30
        assert error.retryable


async def test_when_jobs_have_ended_there_is_room_in_the_queue_again() -> None:
    async with bench(slow(1.0)) as made:
        await made.replica(tenants={"acme": {"max_queue": 5}})
        for _ in range(10):
            jobs = [await made.submit() for _ in range(5)]
            assert codes(await results(made, jobs)) == [None] * 5


async def test_each_class_has_a_queue_of_its_own_and_each_tenant_too() -> None:
    async with bench(slow()) as made:
        await made.replica(tenants={"acme": {"max_queue": 2, "max_concurrency": 1}})
        first = [await made.submit(job_class="batch") for _ in range(3)]
        second = [await made.submit(job_class="standard") for _ in range(2)]
        third = [await made.submit(tenant="beta") for _ in range(5)]
        assert codes(await results(made, first)) == [None, None, "queue_full"]
        assert codes(await results(made, second)) == [None, None]
        assert codes(await results(made, third, "beta")) == [None] * 5


async def test_no_more_jobs_of_a_tenant_run_at_once_than_it_may() -> None:
    async with bench(slow()) as made:
        await made.replica(tenants={"acme": {"max_concurrency": 2}})
        jobs = [await made.submit(job_class=c) for c in ("batch", "standard", "interactive") * 3]
        most = 0
        while made.requests():
            most = max(most, made.model.open_calls)
            await made.clock.advance(0.5)
        assert most == 2
        assert codes(await results(made, jobs)) == [None] * 9


async def test_a_tenants_tokens_a_minute_hold_it_back_and_nobody_else() -> None:
    async with bench(slow(0.1)) as made:
        await made.replica(tenants={"acme": {"tokens_per_minute": 1_000}})
        mine = [await made.submit(params={"max_tokens": 400}) for _ in range(5)]
        others = [await made.submit(tenant="beta", params={"max_tokens": 400}) for _ in range(5)]
        began = made.clock.monotonic()
        await results(made, others, "beta")
        assert made.clock.monotonic() - began < 5
        await results(made, mine)
        # Each settles at 15 tokens, so that it is the reservation of 400 that has to be there.
        assert made.clock.monotonic() - began > 10


async def test_classes_and_models_outside_a_tenants_list_are_denied() -> None:
    async with bench() as made:
        await made.replica(tenants={"acme": {"classes": ["batch"], "models": ["claude-haiku-4-5"]}})
        wrong = [await made.submit(job_class="interactive"), await made.submit(job_class="batch")]
        right = await made.submit(job_class="batch", model="claude-haiku-4-5")
        assert codes(await results(made, wrong)) == ["tenant_denied"] * 2
        assert (await made.result(right)).state == "succeeded"


@pytest.mark.parametrize(
    ("tenants", "code"),
    [
        ({}, None),
        ({"default": {"deny": True}}, "tenant_denied"),
        ({"default": {"classes": ["batch"]}}, "tenant_denied"),
        ({"default": {"deny": True}, "acme": {}}, None),
    ],
)
async def test_a_tenant_without_a_section_gets_the_default_one(tenants: dict[str, Any], code: str | None) -> None:
    async with bench() as made:
        await made.replica(tenants=tenants)
        assert codes([await made.result(await made.submit())]) == [code]
