"""Choosing, following failures and waiting, through the whole way of a job."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from sidecar.emulator import Emulator
from sidecar.models.event import Status
from tests.support.raw_bedrock import METADATA, START, STOP, raw_bedrock, streams, text
from tests.support.way import FIRST, SECOND, SECOND_ID, Way, statuses, texts, way

TIERED = "nova-pro"
WIDE = {"regions": ("us-east-1", "us-west-2")}


async def running(on: Way, job: str) -> Status:
    """The first `running` event of a job."""
    await on.result(job)
    return next(s for s in statuses(await on.events(job)) if s.state == "running")


async def test_the_running_event_says_why_and_who_was_passed_over() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        image = {"type": "image", "format": "png", "source": {"bytes": "iVBORw0KGgo="}}
        content = [{"type": "text", "text": "what is this?"}, image]
        status = await running(on, await on.submit(content, task={"kind": "chat", "quality": "fast"}))
        assert "quality fast" in (status.reason or "")
        passed_over = {r.model: r.reason for r in status.candidates or ()}
        assert "cannot do images" in passed_over["nova-micro"]
        named = await running(on, await on.submit(model=[FIRST, SECOND]))
        assert (named.model, named.reason) == (FIRST, "named by the request")


async def test_the_same_requests_take_the_same_way() -> None:
    async with Emulator() as emulator, way(emulator.url, bedrock=WIDE) as on:
        seen = []
        for _ in range(5):
            job = await on.submit(task={"kind": "code", "quality": "balanced"}, tenant="one")
            await on.result(job, tenant="one")
            events = await on.events(job, tenant="one")
            seen.append(next(s for s in statuses(events) if s.state == "running"))
        assert len({(s.model, s.model_id, s.region) for s in seen}) == 1
        assert all(s.candidates == seen[0].candidates for s in seen)


async def test_a_tenant_stays_where_its_prompt_cache_is_warm() -> None:
    """The region that stood in for another keeps the conversation once the other is back."""
    async with Emulator() as emulator, way(emulator.url, bedrock=WIDE) as on:
        # Long enough to be cached: what was not cached is warm nowhere.
        asked = {
            "task": {"kind": "chat", "quality": "balanced"},
            "system": "Answer in the words of the manual. " * 800,
        }
        cold = await on.ask(**asked)
        emulator.add_rule(region="us-east-1", nth=[1, 2], behave="fault=throttling")
        moved = await on.ask(**asked)
        job = await on.submit(**asked)
        stays = await on.result(job)
        place = [(r.model_id, r.attempts[-1].region) for r in (cold, moved, stays)]
        assert place[1] != place[0]
        assert place[2] == place[1]
        assert "warm" in ((await running(on, job)).reason or "")


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


@pytest.mark.parametrize(
    ("job_class", "left_s", "tier"),
    [
        ("batch", None, "flex"),
        ("batch", 3600, "flex"),
        ("batch", 60, None),
        ("interactive", 5, "priority"),
        ("standard", 5, None),
    ],
)
async def test_the_service_tier_goes_by_class_and_time_left(
    job_class: str, left_s: float | None, tier: str | None
) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        fields = {} if left_s is None else {"deadline": in_seconds(left_s)}
        job = await on.submit(model=TIERED, job_class=job_class, **fields)
        assert (await on.result(job)).state == "succeeded"
        assert emulator.calls[-1].request.get("serviceTier") == (tier and {"type": tier})


async def test_a_stand_in_is_asked_for_a_tier_that_it_has() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*nova*", behave="fault=throttling")
        job = await on.submit(model=[TIERED, FIRST], job_class="batch", deadline=in_seconds(3600))
        assert (await on.result(job)).model == FIRST
        nova, claude = emulator.calls
        assert nova.request["serviceTier"] == {"type": "flex"}
        assert "serviceTier" not in claude.request


async def test_a_parameter_is_bounded_anew_for_each_candidate() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*nova*", behave="fault=throttling")
        await on.ask(model=[SECOND, FIRST], params={"max_tokens": 30_000})
        limits = [c.request["inferenceConfig"]["maxTokens"] for c in emulator.calls]
        nova = on.replica.coordinator.profile(SECOND)
        assert nova is not None
        assert limits == [nova.max_output_tokens, 30_000]


async def test_a_configured_fallback_is_the_chain() -> None:
    policy = {FIRST: {"fallback": [SECOND]}, "nova-micro": {"fallback": []}}
    async with Emulator() as emulator, way(emulator.url, models_policy=policy) as on:
        emulator.add_rule(model="*claude*", behave="fault=access_denied")
        emulator.add_rule(model="*micro*", behave="fault=access_denied")
        assert (await on.ask(model=FIRST)).model == SECOND
        alone = await on.ask(model="nova-micro")
        assert (alone.state, alone.error and alone.error.code) == ("failed", "access_denied")
        assert len(alone.attempts) == 1


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_a_job_waits_while_every_candidate_is_down_and_goes_on(is_stream: bool) -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.behave("fault=unavailable")
        job = await on.submit('[[text="back again"]]', model=[FIRST, SECOND], stream=is_stream, timeout_s=60)
        status = await on.until_state(job, "waiting")
        assert status.waiting_for == "model"
        assert status.reason == "every model that the job may use has failed lately"
        emulator.behave("")
        result = await on.result(job)
        assert (result.state, result.output.text) == ("succeeded", "back again")
        order = [s.state for s in statuses(await on.events(job))]
        assert order[-1] == "running"
        # It was handed back while it was held: what goes on is a new attempt.
        assert {e.attempt for e in await on.events(job)} == {1, 2}


async def test_jobs_that_come_while_all_are_down_wait_too_and_one_probe_goes_first() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.behave("fault=unavailable")
        # A breaker opens on what several jobs met.
        first = [await on.submit(f"job {n}", model=[SECOND], timeout_s=120) for n in range(4)]
        for job in first:
            await on.until_state(job, "waiting")
        while on.replica.coordinator.health(time.time())[f"{SECOND_ID}@us-east-1"] != "open":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        before = len(emulator.calls)
        emulator.behave("latency_ms=300")
        jobs = [await on.submit(model=[SECOND], timeout_s=120) for _ in range(5)]
        for job in (*first, *jobs):
            assert (await on.result(job)).state == "succeeded"
        assert all(c.status == 200 for c in emulator.calls[before:])
        probe, *others = emulator.calls[before:]
        assert probe.finished_at is not None
        assert all(c.started_at >= probe.finished_at for c in others)


async def test_what_fails_for_good_everywhere_is_final_at_once() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.behave("fault=access_denied")
        result = await on.ask(model=[FIRST, SECOND], timeout_s=60)
        assert (result.state, result.error and result.error.code) == ("failed", "access_denied")
        assert len(result.attempts) == 2


async def test_nothing_temporary_is_final_while_time_is_left() -> None:
    """Throttled everywhere but at the end: the one answer comes, however often it was asked for in vain."""
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(nth=[1, 2, 3, 4], behave="fault=throttling")
        result = await on.ask(model=[FIRST, SECOND], timeout_s=120)
        assert result.state == "succeeded"
        assert [a.outcome for a in result.attempts] == ["error"] * 4 + ["ok"]


async def test_failover_after_text_is_a_new_attempt_that_stands_alone() -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = streams(START, text("The beginning of"))
        job = await on.submit(model=[FIRST], stream=True, timeout_s=30)
        await on.until_state(job, "waiting")
        raw.script = streams(START, text("All new"), STOP, METADATA)
        result = await on.result(job)
        events = await on.events(job)
        assert result.output.text == "All new"
        assert texts(events, attempt=1) == "The beginning of"
        assert texts(events, attempt=2) == "All new"
        assert [e.n for e in events if e.attempt == 2] == list(range(1, 1 + sum(e.attempt == 2 for e in events)))
