"""Every accepted job is known, wherever in the queue it lies and whichever replica is asked."""

import asyncio
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from sidecar.cluster.queue_desk import QueueDesk
from sidecar.models.api import CancelReply, JobsPage
from sidecar.models.base import rfc3339
from sidecar.models.event import Status
from sidecar.models.job import JobView
from sidecar.ports.bus import Lane
from tests.support.jetstream.faults import Delivery
from tests.support.replica import PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

REQUEST = b'{"messages":[{"role":"user","content":"hello"}],"model":"claude-sonnet-4-5"}'
SLOW = says("x", first_s=30.0)
SMALL: dict[str, Any] = {"slots": 2, "interactive_reserve": 0.0, "window": 4}


def slow_bench() -> Any:
    clock = VirtualClock()
    return bench(ScriptedModel(clock, lambda _: SLOW))


async def queue(b: Bench, count: int, **headers: str) -> list[int]:
    intake = (await b.outside()).intake
    lane = Lane("acme", "standard")
    return [await intake.submit(lane, REQUEST, {"Llm-Job-Id": f"j{n}", **headers}) for n in range(count)]


async def get(b: Bench, job: str) -> JobView:
    reply = await b.ask("get", "acme", job)
    assert "Nats-Service-Error" not in reply.headers, reply.headers
    return msgspec.json.decode(reply.payload, type=JobView)


async def refusal(b: Bench, verb: str, job: str) -> tuple[str, dict[str, Any]]:
    reply = await b.ask(verb, "acme", job)
    error = msgspec.json.decode(reply.payload)["error"]
    return error["code"], error["details"]


async def test_a_job_behind_the_window_is_known_with_its_place() -> None:
    async with slow_bench() as b:
        await b.fleet("one", "two", scheduler=SMALL)
        seqs = await queue(b, 60)
        for replica in b.replicas:
            # Whoever is asked; the job ten from the end has 59 - 9 - 2 running before it.
            b.bus.choose = lambda members, name=replica.name: next(m for m in members if m.peer.replica == name)
            deep = await get(b, "j49")
            assert (deep.state, deep.request_seq, deep.ahead) == ("queued", seqs[49], 49 - 4)
            assert deep.estimate_ms is None
            assert await refusal(b, "get", "j60") == ("not_found", {})
        await b.clock.advance(150.0)
        later = await get(b, "j49")
        assert later.ahead is not None
        assert later.estimate_ms is not None
        # Four at a time, thirty seconds each.
        told_s, true_s = later.estimate_ms / 1000, 30.0 * (later.ahead + 1) / 4
        assert 0.5 < told_s / true_s < 2.0


async def test_a_job_that_was_just_acknowledged_is_never_unknown() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 20)
        # Its doorbell is on its way for a quarter of a second.
        b.bus.deliveries = lambda d: (0.25,) if ".doorbell." in d.subject else (0.0,)
        await b.submit(job="new")
        assert (await get(b, "new")).state == "queued"


async def test_lost_doorbells_are_made_up_for_with_one_short_lived_consumer() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 20)
        made = b.bus.api.consumers.made

        def lossy(delivery: Delivery) -> tuple[float, ...]:
            return () if ".doorbell." in delivery.subject else (0.0,)

        b.bus.deliveries = lossy
        await b.submit(job="unheard")
        assert (await get(b, "unheard")).state == "queued"
        assert b.bus.api.consumers.made == made + 1
        assert len(b.bus.api.consumers) == 0


async def test_while_nobody_schedules_an_unknown_id_is_no_answer() -> None:
    async with slow_bench() as b:
        await b.fleet("one", "two", scheduler=SMALL)
        await queue(b, 30)
        leader, follower = b.leader, b.followers[0]
        b.kill(leader)
        await b.clock.advance(3.0)
        assert not follower.cluster.term
        assert await refusal(b, "get", "j25") == ("not_ready", {"retry_after_s": 1.0})
        await b.until(lambda: bool(follower.cluster.term))
        await b.until(lambda: follower.requests.leader is not None and follower.requests.leader.stored.is_complete)
        assert (await get(b, "j25")).state == "queued"
        assert await refusal(b, "get", "j99") == ("not_found", {})


async def test_a_cancel_ends_a_job_anywhere_at_once() -> None:
    async with slow_bench() as b:
        await b.fleet("one", "two", scheduler=SMALL)
        await queue(b, 40)
        before = b.requests()
        reply = msgspec.json.decode((await b.ask("cancel", "acme", "j39")).payload, type=CancelReply)
        assert (reply.state, reply.cancelled) == ("cancelled", True)
        assert (await get(b, "j39")).state == "cancelled"
        assert b.requests() == before - 1
        leader = b.leader.requests.leader
        assert leader is not None
        assert leader.stored.index.find("acme", "j39") == []
        assert b.requests() == len(leader.stored.index)


@pytest.mark.parametrize("place", ["window", "deep"])
async def test_a_deadline_in_the_header_ends_a_job_anywhere(place: str) -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 5 if place == "window" else 40)
        deadline = rfc3339(b.clock.now() + 5.0)
        intake = (await b.outside()).intake
        await intake.submit(Lane("acme", "standard"), REQUEST, {"Llm-Job-Id": "due", "Llm-Deadline": deadline})
        await b.clock.advance(4.9)
        assert (await get(b, "due")).state == "queued"
        await b.clock.advance(1.1)
        ended = await get(b, "due")
        assert ended.state == "expired"
        assert ended.result is not None
        assert ended.result.error is not None
        assert ended.result.error.code == "deadline_exceeded"


async def test_the_earlier_of_two_deadlines_holds() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 40)
        intake = (await b.outside()).intake
        soon, late = rfc3339(b.clock.now() + 5.0), rfc3339(b.clock.now() + 500.0)
        body = REQUEST[:-1] + b',"deadline":"%b"}'
        lane = Lane("acme", "standard")
        await intake.submit(lane, body % late.encode(), {"Llm-Job-Id": "a", "Llm-Deadline": soon})
        await b.clock.advance(6.0)
        assert (await get(b, "a")).state == "expired"


async def test_a_header_that_is_no_time_is_refused_by_its_name_at_once() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 40)
        intake = (await b.outside()).intake
        headers = {"Llm-Job-Id": "bad", "Llm-Deadline": "tomorrow"}
        await intake.submit(Lane("acme", "standard"), REQUEST, headers)
        await b.clock.advance(1.0)
        ended = await get(b, "bad")
        assert (ended.state, ended.result and ended.result.error and ended.result.error.details) == (
            "rejected",
            {"path": "headers.Llm-Deadline"},
        )


async def test_of_two_requests_with_one_id_the_first_is_the_job() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 40)
        intake = (await b.outside()).intake
        lane = Lane("acme", "standard")
        first = await intake.submit(lane, REQUEST, {"Llm-Job-Id": "twin"})
        headers = {"Llm-Job-Id": "twin", "Llm-Deadline": rfc3339(b.clock.now() + 2.0)}
        await intake.submit(lane, REQUEST, headers)
        assert (await get(b, "twin")).request_seq == first
        await b.clock.advance(4.0)
        # The second one's deadline is not the job's.
        assert (await get(b, "twin")).state == "queued"
        assert b.requests() == 41
        await b.ask("cancel", "acme", "twin")
        assert (await get(b, "twin")).request_seq == first


async def test_a_second_request_in_another_lane_does_not_run_before_the_first() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 40)
        intake = (await b.outside()).intake
        first = await intake.submit(Lane("acme", "standard"), REQUEST, {"Llm-Job-Id": "twin"})
        await intake.submit(Lane("acme", "interactive"), REQUEST, {"Llm-Job-Id": "twin"})
        await b.clock.advance(5.0)
        twin = await get(b, "twin")
        assert (twin.state, twin.request_seq, twin.job_class) == ("queued", first, "standard")
        assert b.requests() == 41


async def test_what_is_purged_by_hand_is_forgotten() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 40)
        b.bus.requests.purge()
        await asyncio.sleep(0)
        assert await refusal(b, "get", "j30") == ("not_found", {})
        await b.clock.advance(32.0)
        leader = b.leader.requests.leader
        assert leader is not None
        assert len(leader.stored.index) <= 4


async def test_what_lies_deep_is_read_early_for_deadlines_metadata_and_faults() -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 150)
        intake = (await b.outside()).intake
        lane = Lane("acme", "standard")
        deadline = rfc3339(b.clock.now() + 8.0).encode()
        await intake.submit(lane, REQUEST[:-1] + b',"deadline":"%b"}' % deadline, {"Llm-Job-Id": "due"})
        await intake.submit(lane, REQUEST[:-1] + b',"metadata":{"ticket":42}}', {"Llm-Job-Id": "marked"})
        await intake.submit(lane, b'{"messages": 5}', {"Llm-Job-Id": "bad"})
        asked = b'{"metadata":{"ticket":"42"},"limit":5}'
        page = msgspec.json.decode((await b.ask("jobs", "acme", payload=asked)).payload, type=JobsPage)
        assert ([job.job for job in page.jobs], page.unread > 100) == ([], True)
        await b.clock.advance(4.0)
        assert (await get(b, "bad")).state == "rejected"
        page = msgspec.json.decode((await b.ask("jobs", "acme", payload=asked)).payload, type=JobsPage)
        assert ([job.job for job in page.jobs], page.unread) == (["marked"], 0)
        assert (await get(b, "due")).state == "queued"
        await b.clock.advance(5.0)
        assert (await get(b, "due")).state == "expired"


async def test_a_short_queue_is_not_read_twice() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, lambda _: says("x", first_s=0.2))) as b:
        await b.fleet("one", scheduler=SMALL)
        for _ in range(10):
            await queue(b, 3)
            await b.clock.advance(1.0)
        reads = sum(operation.name == "intake.read" for operation in b.bus.operations)
        assert reads <= 3 * 10 + 2


async def test_a_cancellation_that_a_dead_scheduler_heard_is_carried_out_by_the_next() -> None:
    async with slow_bench() as b:
        await b.fleet("one", "two", scheduler=SMALL)
        await queue(b, 60)
        leader = b.leader
        store = (await b.outside()).store
        b.bus.partition(leader.name)
        await store.mark_cancelled("acme", "j55")
        b.kill(leader)
        (follower,) = b.replicas
        await b.until(lambda: bool(follower.cluster.term))
        await b.clock.advance(4.0)
        assert (await get(b, "j55")).state == "cancelled"
        assert (await get(b, "j56")).state == "queued"


@pytest.mark.parametrize("place", ["window", "deep"])
async def test_a_queued_job_that_asks_is_told_where_it_stands(place: str) -> None:
    async with slow_bench() as b:
        await b.fleet("one", scheduler=SMALL)
        await queue(b, 4 if place == "window" else 30)
        intake = (await b.outside()).intake
        body = REQUEST[:-1] + b',"progress_s":5}'
        await intake.submit(Lane("acme", "standard"), body, {"Llm-Job-Id": "asks"})
        await queue(b, 2, **{"Llm-Job-Id": "after"})
        await b.clock.advance(29.0)
        told = [event for event in await b.events("asks") if isinstance(event.data, Status)]
        assert [event.n for event in told] == list(range(1, len(told) + 1))
        places = [event.data.ahead for event in told if event.data.ahead is not None]
        assert 4 <= len(places) <= 6
        assert set(places) == ({2} if place == "window" else {28})
        if place == "deep":
            await b.ask("cancel", "acme", "asks")
        assert (await b.result("asks")).state == ("succeeded" if place == "window" else "cancelled")
        events = await b.events("asks")
        for attempt in {event.attempt for event in events}:
            numbers = [event.n for event in events if event.attempt == attempt]
            assert numbers == list(range(1, len(numbers) + 1))


async def test_where_an_older_release_schedules_no_job_is_denied_and_documents_are_listed() -> None:
    async with slow_bench() as b:

        async def silent(desk: QueueDesk) -> None:
            """What 0.1.0 does: nobody answers questions about the queue."""

        with patch.object(QueueDesk, "start", silent):
            await b.replica("old", models=PLENTY, scheduler=SMALL)
            await b.clock.advance(2.5)
        await b.replica("new", models=PLENTY, scheduler=SMALL)
        await b.clock.advance(2.5)
        assert b.leader.name == "old"
        b.bus.choose = lambda members: next((m for m in members if m.peer.replica == "new"), members[0])
        await queue(b, 30)
        await b.clock.advance(1.0)
        assert await refusal(b, "get", "j29") == ("not_ready", {"retry_after_s": 1.0})
        page = msgspec.json.decode((await b.ask("jobs", "acme")).payload, type=JobsPage)
        assert 4 <= len(page.jobs) < 30
        reply = msgspec.json.decode((await b.ask("cancel", "acme", "j29")).payload, type=CancelReply)
        assert reply.cancelled or reply.requested
