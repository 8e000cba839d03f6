"""Streamed answers on real processes: whole, in order, gathered, and honest about what broke."""

import asyncio

import pytest

from tests.support.stranger import Stranger, asks, check_story


async def test_fast_answers_come_in_far_fewer_events_than_tokens(client: Stranger) -> None:
    feed = await client.submit(asks("[[tokens=2000 chunk_tokens=1]] go", stream=True), job="job1")
    result = (await feed.result())["data"]
    deltas = [e for e in feed.events if e["type"] == "delta"]
    assert feed.text == result["output"]["text"]
    assert len(deltas) < 400


async def test_slow_answers_come_piece_by_piece(client: Stranger) -> None:
    feed = await client.submit(asks("[[tokens=20 chunk_tokens=2 tps=20]] go", stream=True), job="job1")
    result = (await feed.result())["data"]
    assert feed.text == result["output"]["text"]
    assert sum(e["type"] == "delta" for e in feed.events) >= 8


async def test_many_streams_at_once_are_all_whole(client: Stranger) -> None:
    feeds = [
        await client.submit(asks("[[tokens=120 tps=300]] go", stream=True), job=f"j{i}", job_class="interactive")
        for i in range(40)
    ]
    for i, feed in enumerate(feeds):
        result = (await feed.result())["data"]
        assert result["state"] == "succeeded"
        assert feed.text == result["output"]["text"]
        if i % 10 == 0:
            assert check_story(await client.replay(f"j{i}")) == result


async def test_reasoning_is_told_apart_from_the_answer(client: Stranger) -> None:
    request = asks('[[reasoning="let me think" text="done"]] hm', stream=True, reasoning={"budget_tokens": 2000})
    feed = await client.submit(request, job="job1")
    result = (await feed.result())["data"]
    assert result["state"] == "succeeded", result["error"]
    thought = "".join(e["data"].get("reasoning") or "" for e in feed.events if e["type"] == "delta")
    assert thought == "let me think"
    assert feed.text == result["output"]["text"] == "done"


@pytest.mark.parametrize("fault", ["cut", "reset", "close", "bad_crc", "missing_stop", "model_stream_error"])
async def test_an_answer_that_breaks_off_begins_anew_and_ends_whole(client: Stranger, fault: str) -> None:
    request = asks(f"[[tokens=60 tps=400]] [[fault={fault} at=mid times=1]] go {client.tenant}", stream=True)
    feed = await client.submit(request, job="job1")
    result = (await feed.result())["data"]
    assert result["state"] == "succeeded", result["error"]
    assert feed.text == result["output"]["text"]
    assert [a["outcome"] for a in result["attempts"]] == ["error", "ok"]
    assert check_story(await client.replay("job1")) == result


async def test_a_follower_that_comes_late_misses_nothing(client: Stranger) -> None:
    early = await client.submit(asks("[[tokens=200 tps=200]] go", stream=True), job="job1")
    await early.first_delta()
    late = await client.follow("job1")
    stored = await client.replay("job1")
    await asyncio.gather(early.result(), late.result())
    taken = {(e["attempt"], e["n"]): e for e in [*stored, *late.events]}
    assert sorted(taken) == [(e["attempt"], e["n"]) for e in early.events]


async def test_empty_and_unicode_answers_arrive_as_they_are(client: Stranger) -> None:
    for i, text in enumerate(["ünï¢ødé 🦀 日本", '"quotes" \\\\ \\n', " leading and trailing "]):
        feed = await client.submit(asks("[[echo chunk_tokens=1]]" + text, stream=True), job=f"j{i}")
        result = (await feed.result())["data"]
        assert result["state"] == "succeeded", result["error"]
        assert feed.text == result["output"]["text"]
        assert result["output"]["text"].strip() == text.strip()
