"""What every `Publisher` promises."""

import asyncio

import pytest

from sidecar.errors import Conflict, InvalidRequest
from sidecar.models import codec
from sidecar.models.event import Status
from sidecar.ports.bus import Publisher, StoredEvent
from tests.support.bus_world import World, event, job_state, result


async def events(publisher: Publisher, tenant: str = "acme", job: str = "j1") -> list[StoredEvent]:
    return [item async for item in publisher.replay(tenant, job)]


async def places(publisher: Publisher, tenant: str = "acme", job: str = "j1") -> list[tuple[str, int, int]]:
    decoded = [codec.decode_event(item.payload) for item in await events(publisher, tenant, job)]
    return [(item.type, item.attempt, item.n) for item in decoded]


async def test_events_are_replayed_in_the_order_they_were_stored_over_all_types(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    sent = [event(1, Status(state="running")), event(2), event(3), event(4, Status(state="waiting")), event(5)]
    for item in sent:
        await world.first.publisher.publish(item, fence=fence)
    assert await world.first.publisher.publish_result(event(6, result()))
    stored = await events(world.second.publisher)
    assert [item.type for item in stored] == ["status", "delta", "delta", "status", "delta", "result"]
    assert [item.payload for item in stored] == [codec.encode(item) for item in [*sent, event(6, result())]]


async def test_an_owner_that_lost_its_job_cannot_speak_for_it(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    await world.first.publisher.publish(event(1), fence=fence)
    newer = await world.second.jobs.update(job_state(state="running", owner="r2"), revision=fence)
    for stale in (fence, newer + 5, 0):
        with pytest.raises(Conflict):
            await world.first.publisher.publish(event(2), fence=stale)
    await world.second.publisher.publish(event(1, attempt=2), fence=newer)
    assert await places(world.first.publisher) == [("delta", 1, 1), ("delta", 2, 1)]


async def test_another_jobs_fence_opens_nothing(world: World) -> None:
    await world.first.jobs.create(job_state())
    other = await world.first.jobs.create(job_state("j2"))
    with pytest.raises(Conflict):
        await world.first.publisher.publish(event(1), fence=other)
    assert await events(world.first.publisher) == []


async def test_events_do_not_move_the_fence(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    for n in range(1, 6):
        await world.first.publisher.publish(event(n), fence=fence)
    found = await world.first.jobs.get("acme", "j1")
    assert found is not None
    assert found.revision == fence
    await world.first.jobs.update(job_state(state="running"), revision=fence)


async def test_one_result_is_stored_whoever_publishes_it(world: World) -> None:
    publishers = [world.first.publisher, world.second.publisher] * 5
    outcomes = await asyncio.gather(
        *(publisher.publish_result(event(i, result(f"by {i}"))) for i, publisher in enumerate(publishers, 1))
    )
    assert sorted(outcomes) == [False] * 9 + [True]
    stored = await events(world.first.publisher)
    winner = outcomes.index(True) + 1
    assert stored == [StoredEvent("result", codec.encode(event(winner, result(f"by {winner}"))))]
    assert not await world.second.publisher.publish_result(event(1, result()))
    assert await world.first.publisher.publish_result(event(1, result(), job="j2"))


async def test_an_event_that_was_published_twice_is_replayed_once(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    for n in (1, 2, 2, 3, 3, 3):
        await world.first.publisher.publish(event(n), fence=fence)
    await world.first.publisher.publish(event(1, attempt=2), fence=fence)
    await world.first.publisher.publish(event(2), fence=fence)
    assert await places(world.first.publisher) == [
        ("delta", 1, 1),
        ("delta", 1, 2),
        ("delta", 1, 3),
        ("delta", 2, 1),
    ]


async def test_more_events_than_one_batch_holds_are_replayed_whole(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    for n in range(1, 2_301):
        await world.first.publisher.publish(event(n), fence=fence)
    assert [n for _, _, n in await places(world.second.publisher)] == list(range(1, 2_301))


async def test_a_replay_is_of_one_job_alone(world: World) -> None:
    for tenant, job in (("acme", "j1"), ("acme", "j1-2"), ("acme2", "j1"), ("acme", "j")):
        fence = await world.first.jobs.create(job_state(job, tenant))
        await world.first.publisher.publish(event(1, job=job, tenant=tenant), fence=fence)
        assert len(await events(world.first.publisher, tenant, job)) == 1
    assert len(await events(world.first.publisher)) == 1
    assert await events(world.first.publisher, "acme", "unknown") == []


@pytest.mark.parametrize(("tenant", "job"), [("*", "j1"), ("acme", "*"), ("acme", ">"), ("", "j"), ("a b", "c")])
async def test_a_replay_or_a_wait_over_several_jobs_is_refused(world: World, tenant: str, job: str) -> None:
    with pytest.raises(InvalidRequest):
        await events(world.first.publisher, tenant, job)
    with pytest.raises(InvalidRequest):
        await world.first.publisher.wait_result(tenant, job)


async def test_leaving_a_replay_early_costs_nothing(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    for n in range(1, 4):
        await world.first.publisher.publish(event(n), fence=fence)
    async for item in world.first.publisher.replay("acme", "j1"):
        assert item.type == "delta"
        break
    assert len(await events(world.first.publisher)) == 3


async def test_a_waiter_gets_the_result_as_it_was_published_by_whatever_replica(world: World) -> None:
    waiter = await world.first.publisher.wait_result("acme", "j1")
    another = await world.second.publisher.wait_result("acme", "j1")
    fence = await world.second.jobs.create(job_state())
    await world.second.publisher.publish(event(1), fence=fence)
    await world.second.publisher.publish_result(event(1, result("other"), job="j2"))
    await world.second.publisher.publish_result(event(2, result("mine")))
    async with asyncio.timeout(30):
        assert await waiter.payload() == codec.encode(event(2, result("mine")))
        assert await waiter.payload() == await another.payload()
    await waiter.close()
    await waiter.close()
    await another.close()


async def test_a_wait_can_be_given_up_and_taken_up_again(world: World) -> None:
    waiter = await world.first.publisher.wait_result("acme", "j1")
    waiting = asyncio.create_task(waiter.payload())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await world.first.publisher.publish_result(event(1, result()))
    async with asyncio.timeout(30):
        assert await waiter.payload() == codec.encode(event(1, result()))
    await waiter.close()


async def test_events_end_after_their_time_and_the_state_stays(world: World) -> None:
    fence = await world.first.jobs.create(job_state())
    await world.brief.publish(event(1), fence=fence)
    await world.brief.publish_result(event(2, result()))
    assert await places(world.first.publisher) == [("delta", 1, 1), ("result", 1, 2)]
    for _ in range(100):
        if not await events(world.first.publisher):
            break
        await world.elapse(0.25)
    assert await events(world.first.publisher) == []
    assert await world.first.jobs.get("acme", "j1") is not None


@pytest.mark.parametrize("payload", [b"", b"garbage", b'{"stream":"LLM_REQ","seq":7}', codec.encode(event(1))])
async def test_what_is_no_result_keeps_none_from_being_said(world: World, payload: bytes) -> None:
    waiter = await world.second.publisher.wait_result("acme", "j1")
    await world.write("llm.v1.log.acme.j1.result", payload)
    assert await world.first.publisher.publish_result(event(3, result("the end")))
    assert codec.decode_event(await waiter.payload()).data == result("the end")
    await waiter.close()
    assert not await world.second.publisher.publish_result(event(4, result("another")))
