"""Cancelling jobs on real processes, in every state, by a client without our code."""

import asyncio
import json
from typing import Any

from tests.acceptance.conftest import World
from tests.support.process import wait_until
from tests.support.stranger import Stranger, asks, check_story

SLOW = "[[tokens=4000 tps=100]] take your time"


async def until_closed(world: World, tenant: str) -> None:
    """Wait until the emulator has no call of the tenant under way: the connection was closed."""

    def is_closed() -> bool:
        return not any(tenant in str(call) for call in world.emulator.control("GET", "active"))

    await asyncio.to_thread(wait_until, is_closed, what="closed")


async def test_a_streaming_job_ends_at_once_and_keeps_its_text(client: Stranger, world: World) -> None:
    feed = await client.submit(asks(SLOW, stream=True), job="job1")
    await feed.first_delta()
    reply = await client.answer("cancel", client.tenant, "job1", payload={"reason": "enough"})
    assert (reply["state"], reply["cancelled"], reply["requested"]) == ("cancelled", True, False)
    result = (await feed.result(limit_s=15))["data"]
    assert result["state"] == "cancelled"
    assert result["error"] is None
    assert result["partial"] is True
    assert feed.text == result["output"]["text"]
    assert result["usage_basis"] == "estimated"
    assert [a["outcome"] for a in result["attempts"]] == ["cancelled"]
    assert check_story(await client.replay("job1")) == result
    await until_closed(world, client.tenant)


async def test_a_running_unary_job_is_cancelled(client: Stranger) -> None:
    feed = await client.submit(asks("[[latency_ms=60000]] wait"), job="job1")
    await feed.until(lambda events: any(e["data"].get("state") == "running" for e in events))
    await client.answer("cancel", client.tenant, "job1")
    result = (await feed.result(limit_s=15))["data"]
    assert (result["state"], result["output"]["text"]) == ("cancelled", "")


async def test_a_job_is_cancelled_before_it_was_published(client: Stranger) -> None:
    reply = await client.answer("cancel", client.tenant, "early")
    assert (reply["state"], reply["cancelled"], reply["requested"]) == ("unknown", False, True)
    result = await client.run(asks(SLOW), job="early")
    assert (result["state"], result["attempts"]) == ("cancelled", [])


async def test_cancelling_again_and_after_the_end_changes_nothing(client: Stranger) -> None:
    done = await client.run(asks("[[tokens=2]] quick"), job="done")
    reply = await client.answer("cancel", client.tenant, "done")
    assert (reply["state"], reply["cancelled"], reply["requested"]) == ("succeeded", False, False)
    feed = await client.submit(asks(SLOW), job="twice")
    await feed.until(lambda events: len(events) > 0)
    for _ in range(3):
        await client.answer("cancel", client.tenant, "twice")
    cancelled = (await feed.result(limit_s=15))["data"]
    assert (await client.answer("cancel", client.tenant, "twice"))["state"] == "cancelled"
    assert check_story(await client.replay("twice")) == cancelled
    assert check_story(await client.replay("done")) == done


async def test_many_cancellations_at_random_moments_end_every_job_once(client: Stranger) -> None:
    feed = await client.follow("*", "result")

    async def one(i: int) -> None:
        await client.publish(asks("[[tokens=40 tps=200]] go", stream=i % 2 == 0), job=f"j{i}")
        await asyncio.sleep(0.004 * (i % 60))
        replies[f"j{i}"] = await client.answer("cancel", client.tenant, f"j{i}")

    replies: dict[str, Any] = {}
    await asyncio.gather(*(one(i) for i in range(120)))
    events = await feed.until(lambda events: len(events) >= 120)
    for event in events:
        reply, state = replies[event["job"]], event["data"]["state"]
        assert reply["cancelled"] == (not reply["requested"] and state == "cancelled")
        assert reply["requested"] or reply["state"] == state
    assert sorted(e["job"] for e in events) == sorted(f"j{i}" for i in range(120))
    assert {e["data"]["state"] for e in events} <= {"cancelled", "succeeded"}
    for i in range(0, 120, 10):
        check_story(await client.replay(f"j{i}"))


async def test_an_asker_hears_of_the_cancellation(client: Stranger) -> None:
    request = asks(SLOW)
    asking = asyncio.ensure_future(
        client.ask("ask", client.tenant, "standard", payload=request, headers={"Llm-Job-Id": "asked"})
    )
    feed = await client.follow("asked")
    await client.answer("cancel", client.tenant, "asked")
    assert json.loads((await asking).data)["state"] == "cancelled"
    assert feed.events[-1]["data"]["state"] == "cancelled" if feed.events else True
