"""What a job costs, and what a job's budget does, through the whole way of a job."""

import json
from typing import Any

import pytest

from sidecar.emulator import Emulator
from sidecar.models.profile import Price
from sidecar.models.result import Result
from tests.support.raw_bedrock import START, STOP, answer, event, raw_bedrock, response, sends, streams, text
from tests.support.way import FIRST, FIRST_ID, SECOND, Way, texts, way

LONG = "[[tokens=400]] tell me a story"


def price_of(on: Way, alias: str) -> tuple[Price, float]:
    """The list price of a model, and the factor of its first route."""
    profile = on.replica.coordinator.profile(alias)
    assert profile is not None
    return profile.prices[0], profile.routes[0].price_factor


def usage_cost(result: Result, price: Price, factor: float) -> float:
    usage = result.usage
    assert price.cache_read is not None
    write = price.input if price.cache_write is None else price.cache_write
    total = (
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_tokens * price.cache_read
        + usage.cache_write_tokens * write
    )
    return total * factor / 1e6


@pytest.mark.parametrize("model", [FIRST, "claude-haiku-4-5", SECOND])
async def test_cost_is_that_of_the_observed_usage_with_cache_reads_and_writes(model: str) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        result = await on.ask("[[tokens=50 cache_read=3000 cache_write=2000]] go", model=model, stream=True)
        assert (result.usage.cache_read_tokens, result.usage.cache_write_tokens) == (3000, 2000)
        assert result.usage_basis == "observed"
        assert result.cost_usd == pytest.approx(usage_cost(result, *price_of(on, model)))


async def test_an_hour_long_cache_write_costs_more() -> None:
    prompt = "[[cache_write=2000]] go"
    async with Emulator() as emulator, way(emulator.url) as on:
        costs = []
        for ttl in ("5m", "1h"):
            block = [{"type": "text", "text": prompt}, {"type": "cache_point", "ttl": ttl}]
            costs.append((await on.ask(block, model=FIRST)).cost_usd or 0.0)
        price, factor = price_of(on, FIRST)
        assert price.cache_write is not None
        assert costs[1] - costs[0] == pytest.approx(2000 * price.cache_write * 0.6 * factor / 1e6, rel=1e-3)


async def test_a_geographic_profile_costs_its_factor_over_the_global_one() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        us = await on.ask("[[tokens=50]] go", model=FIRST_ID)
        world = await on.ask("[[tokens=50]] go", model=FIRST_ID.replace("us.", "global.", 1))
        assert us.usage == world.usage
        assert us.cost_usd == pytest.approx((world.cost_usd or 0.0) * 1.1)


async def test_a_service_tier_is_in_the_price() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        plain = await on.ask("[[tokens=50]] go", model=SECOND)
        cheap = await on.ask("[[tokens=50]] go", model=SECOND, service_tier="flex")
        assert plain.cost_usd is not None
        assert cheap.cost_usd == pytest.approx(plain.cost_usd / 2)


async def test_every_call_of_a_job_is_in_its_cost() -> None:
    """A call that broke off after text counts as estimated; one refused before text costs nothing."""
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*claude*", behave="fault=throttling at=mid chunk_tokens=1")
        result = await on.ask("[[tokens=60]] go", model=[FIRST, SECOND], stream=True)
        alone = await on.ask("[[tokens=60]] go", model=[SECOND], stream=True)
        assert (result.usage_basis, alone.usage_basis) == ("estimated", "observed")
        assert result.usage.output_tokens > alone.usage.output_tokens
        assert (result.cost_usd or 0.0) > (alone.cost_usd or 0.0)


async def test_a_model_without_a_price_has_no_cost_and_says_so() -> None:
    policy = {"odd": {"id": "acme.odd-v1:0"}}
    async with Emulator() as emulator, way(emulator.url, models_policy=policy) as on:
        result = await on.ask(model="odd")
        assert result.state == "succeeded"
        assert result.cost_usd is None
        assert any("no price" in warning for warning in result.warnings)
        refused = await on.ask(model="odd", budget={"max_cost_usd": 1.0})
        assert (refused.state, refused.error and refused.error.code) == ("rejected", "budget_exceeded")


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_that_the_budget_cannot_pay_ends_early_and_says_so(is_stream: bool) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        budget = 0.0025
        result = await on.ask(LONG, model=FIRST, stream=is_stream, budget={"max_cost_usd": budget})
        assert result.state == "succeeded"
        assert (result.stop_reason, result.partial) == ("budget", True)
        assert result.output.text
        assert result.cost_usd is not None
        assert 0 < result.cost_usd <= budget
        assert emulator.calls[-1].request["inferenceConfig"]["maxTokens"] < 400


async def test_an_answer_within_the_budget_is_whole() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        result = await on.ask("[[tokens=30]] go", model=FIRST, budget={"max_cost_usd": 0.01})
        assert (result.stop_reason, result.partial) == ("end_turn", False)
        limited = await on.ask(LONG, model=FIRST, params={"max_tokens": 20}, budget={"max_cost_usd": 0.01})
        assert (limited.stop_reason, limited.partial) == ("max_tokens", False)


@pytest.mark.parametrize("model", [FIRST, None], ids=["named", "chosen"])
async def test_a_budget_too_small_for_any_answer_is_refused_at_admission(model: str | None) -> None:
    fields: dict[str, Any] = {} if model is None else {"model": model}
    async with Emulator() as emulator, way(emulator.url) as on:
        result = await on.ask("a question", budget={"max_cost_usd": 1e-7}, **fields)
        assert result.state == "rejected"
        assert result.error is not None
        assert result.error.code == "budget_exceeded"
        assert "max_cost_usd" in result.error.message
        assert emulator.calls == []


async def test_where_the_sidecar_chooses_a_small_budget_takes_a_cheaper_model() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        task = {"kind": "chat", "quality": "best"}
        dear = await on.ask(task=task)
        cheap = await on.ask(task=task, params={"max_tokens": 1000}, budget={"max_cost_usd": 0.002})
        assert dear.model != cheap.model
        assert cheap.stop_reason == "end_turn"


async def test_what_a_broken_answer_cost_is_missing_from_the_budget_of_the_next_call() -> None:
    """The first answer breaks off when most of the money is spent: the second one is bounded by what is left."""
    story = "x" * 4 * 1500
    half = streams(START, text(story), is_ended=True)
    async with raw_bedrock() as raw, way(raw.url) as on:

        async def script(writer: Any) -> None:
            if len(raw.requests) == 1:
                return await half(writer)
            metadata = event("metadata", usage={"inputTokens": 5, "outputTokens": 1, "totalTokens": 6})
            return await streams(START, text("end"), STOP, metadata)(writer)

        raw.script = script
        result = await on.ask(model=[FIRST], stream=True, budget={"max_cost_usd": 0.03})
        first, second = (_body(request)["inferenceConfig"]["maxTokens"] for request in raw.requests)
        assert result.state == "succeeded"
        assert second < first
        assert first - second == pytest.approx(1500, abs=30)


async def test_when_the_money_is_spent_the_job_ends_with_what_it_has() -> None:
    story = "x" * 4 * 2000
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = streams(START, text(story))
        job = await on.submit(model=[FIRST], stream=True, budget={"max_cost_usd": 0.03})
        result = await on.result(job)
        assert (result.stop_reason, result.partial) == ("budget", True)
        assert result.error is not None
        assert result.error.code == "budget_exceeded"
        assert result.output.text == story == texts(await on.events(job), attempt=1)
        assert len(raw.requests) == 1


async def test_a_dear_stand_in_is_passed_over_when_the_budget_does_not_pay_for_it() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*nova-micro*", nth=[1], behave="fault=throttling")
        budget = {"max_cost_usd": 0.0002}
        result = await on.ask("a question", model=["nova-micro", "claude-opus-4-1", SECOND], budget=budget)
        assert result.model == SECOND
        assert result.state == "succeeded"


def _body(request: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
    return found


async def test_usage_that_was_not_told_is_marked_estimated() -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = streams(START, text("Hello"), STOP)
        result = await on.ask(model=[FIRST], stream=True)
        assert (result.state, result.usage_basis) == ("succeeded", "estimated")
        assert result.cost_usd is not None
        raw.script = sends(response(answer([{"text": "Hello"}]), connection="close"))
        assert (await on.ask(model=[FIRST])).usage_basis == "observed"
