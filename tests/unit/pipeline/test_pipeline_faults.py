"""The way of a job on a bus that loses, delays and repeats, and with processes that die at each step."""

from typing import Literal

import pytest

from sidecar.errors import BusRefused, BusUnavailable
from sidecar.models.event import Delta, Event
from sidecar.models.result import Result
from sidecar.ports.bus import Lane
from sidecar.runtime.grace import Grace
from tests.support.jetstream.faults import NO_FAULT, Fault, Operation
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

MOST_STEPS = 40
TEXT = "".join(f"w{i:03d}" for i in range(3))


def model() -> ScriptedModel:
    clock = VirtualClock()
    return ScriptedModel(clock, default=says(TEXT, pieces=3, delta_s=0.03))


def results(b: Bench, job: str, tenant: str = "acme") -> int:
    """How many results the stream holds."""
    return len(list(b.bus.jobs.find(f"llm.v1.log.{tenant}.{job}.result")))


def check_story(events: list[Event]) -> Result:
    places = [(e.attempt, e.n) for e in events]
    assert places == sorted(set(places))
    for attempt in {a for a, _ in places}:
        numbers = [n for a, n in places if a == attempt]
        assert numbers == list(range(1, len(numbers) + 1))
    last = events[-1].data
    assert isinstance(last, Result)
    text = "".join(
        e.data.text or "" for e in events if isinstance(e.data, Delta) and e.attempt == events[-1].attempt
    )
    assert text in ("", last.output.text)
    return last


async def check_end(b: Bench, job: str) -> None:
    for _ in range(40):
        await b.clock.advance(1)
        if not list(b.bus.requests.find("llm.v1.request.>")):
            break
    assert list(b.bus.requests.find("llm.v1.request.>")) == []
    assert results(b, job) == 1
    assert check_story(await b.events(job)).state == "succeeded"
    stored = await b.stored(job)
    assert stored is not None
    assert stored.state.state == "succeeded"


class NthOperation:
    """Counts what a replica asks for about jobs, and lets the n-th go wrong."""

    def __init__(self, n: int, fault: Fault, replica: str = "one") -> None:
        self.n = n
        self.fault = fault
        self.replica = replica
        self.seen: list[Operation] = []

    def __call__(self, operation: Operation) -> Fault:
        if operation.replica != self.replica or operation.name in ("intake.last_seq", "intake.backlog"):
            return NO_FAULT
        if not operation.name.startswith(("intake.", "jobs.", "events.")):
            return NO_FAULT
        self.seen.append(operation)
        return self.fault if len(self.seen) == self.n else NO_FAULT


@pytest.mark.parametrize("lose", ["request", "ack", "late"])
async def test_whatever_is_lost_once_the_job_ends_once(lose: Literal["request", "ack", "late"]) -> None:
    for n in range(1, MOST_STEPS):
        async with bench(model()) as b:
            await b.replica()
            plan = NthOperation(n, Fault(lose=lose, late_s=2.0))
            b.bus.faults = plan
            job = await b.submit(stream=True)
            await b.result(job, limit_s=120)
            await b.clock.settle()
            steps = len(plan.seen)
            await check_end(b, job)
            assert len(b.model.calls) == 1
            if steps < n:
                return
    pytest.fail("a job takes more steps than this test knows of")


@pytest.mark.parametrize("has_happened", [False, True])
async def test_a_replica_that_dies_at_any_step_is_replaced_and_its_ghost_not_heard(has_happened: bool) -> None:
    for n in range(1, MOST_STEPS):
        async with bench(model()) as b:
            await b.replica("one")
            plan = NthOperation(n, Fault(lose="ack" if has_happened else "request"))

            def faults(operation: Operation, plan: NthOperation = plan, b: Bench = b) -> Fault:
                fault = plan(operation)
                if fault.lose != "nothing":
                    b.bus.partition("one")
                    if has_happened:
                        return NO_FAULT
                return fault

            b.bus.faults = faults
            job = await b.submit(stream=True)
            await b.clock.advance(3.0)
            if len(plan.seen) < n:
                return
            await b.replica("two")
            await b.result(job, limit_s=120)
            calls = len(b.model.calls)
            b.bus.heal("one")
            await check_end(b, job)
            assert len(b.model.calls) == calls <= 2
    pytest.fail("a job takes more steps than this test knows of")


async def test_the_end_is_finished_by_whoever_finds_it_unfinished() -> None:
    async with bench(model()) as b:
        await b.replica("one")

        def faults(operation: Operation) -> Fault:
            if operation.replica == "one" and operation.subject.endswith(".result"):
                b.bus.partition("one")
            return NO_FAULT

        b.bus.faults = faults
        job = await b.submit()
        await b.clock.advance(3)
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.state == "succeeded"
        assert results(b, job) == 0
        await b.replica("two")
        await b.result(job, limit_s=60)
        assert len(b.model.calls) == 1
        b.bus.heal("one")
        await check_end(b, job)


async def test_a_bus_that_is_away_for_a_minute_stops_no_answer() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says(TEXT * 10, pieces=200, delta_s=0.05)])) as b:
        await b.replica()
        job = await b.submit(stream=True)
        await clock.advance(2)
        b.bus.partition("one")
        await clock.advance(60)
        b.bus.heal("one")
        result = await b.result(job, limit_s=60)
        assert result.output.text == TEXT * 10
        assert len(b.model.calls) == 1
        await check_end(b, job)


async def test_lost_and_doubled_doorbells_neither_lose_nor_double_jobs() -> None:
    async with bench() as b:
        await b.replica()
        b.bus.deliveries = lambda delivery: () if delivery.seq % 3 == 0 else (0.0, 0.2, 1.0)
        jobs = [await b.submit(job=f"j{i}") for i in range(30)]
        for job in jobs:
            assert (await b.result(job, limit_s=60)).state == "succeeded"
        assert len(b.model.calls) == 30


async def test_a_second_request_with_a_known_id_is_dropped_and_counted() -> None:
    async with bench() as b:
        replica = await b.replica()
        job = await b.submit(job="twice")
        first = await b.result(job)
        await b.submit(job="twice", metadata={"second": True})
        await b.clock.advance(2)
        assert await b.result(job) == first
        assert results(b, job) == 1
        assert len(b.model.calls) == 1
        assert list(b.bus.requests.find("llm.v1.request.>")) == []
        assert replica.jobs.counts["claim_drop"] == 1


@pytest.mark.parametrize("second", [b"garbage", b'{"messages": [{"role": "user", "content": "again"}]}'])
@pytest.mark.parametrize("slots", [1, 8])
async def test_requests_with_one_id_at_once_end_in_one_result(second: bytes, slots: int) -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=3.0))) as b:
        await b.replica(scheduler={"slots": slots, "interactive_reserve": 0.0})
        await b.submit(job="before")
        await b.submit(job="same")
        await b.submit(second, job="same")
        await b.submit(second, job="same", job_class="batch")
        result = await b.result("same", limit_s=60)
        assert result.state == "succeeded"
        await check_end(b, "same")
        assert len(b.model.calls) == 2


@pytest.mark.parametrize("tenant", ["acme$inc", "größe", "x" * 65, "a b", "*", ">", "\ufffd"])
async def test_a_tenant_that_is_no_name_moves_nothing(tenant: str) -> None:
    async with bench() as b:
        replica = await b.replica()
        payload = b'{"messages": [{"role": "user", "content": "hi"}]}'
        subject = f"llm.v1.request.{tenant}.standard"
        b.bus.publish(subject, payload)
        job = f"s{b.bus.requests.last_seq}"
        await b.clock.advance(20)
        assert list(b.bus.requests.find(subject)) == []
        assert replica.jobs.completion.counts["rejected"] == 1
        assert results(b, job, tenant) == int(tenant not in ("a b", "*", ">", "\ufffd"))
        assert (await b.result(await b.submit())).state == "succeeded"


async def test_an_answer_too_large_for_bus_and_bucket_fails_and_says_so() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("x" * 30_000, pieces=3, delta_s=0.1)])) as b:
        b.bus.jobs.config["max_msg_size"] = 20_000
        await b.replica(**b.with_full_bucket("acme"))
        job = await b.submit(stream=True)
        result = await b.result(job, limit_s=60)
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "payload_too_large"
        assert result.usage.output_tokens == 5
        deltas = [e.data.text or "" for e in await b.events(job) if isinstance(e.data, Delta)]
        assert "".join(deltas) == "x" * 30_000
        assert results(b, job) == 1


async def test_an_answer_that_does_not_fit_beside_its_jobs_metadata_goes_to_the_object_store() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("x" * 7_000)])) as b:
        b.bus.jobs.config["max_msg_size"] = 16_000
        await b.replica()
        job = await b.submit(metadata={"large": "y" * 7_000})
        result = await b.result(job, limit_s=60)
        assert result.state == "succeeded"
        assert result.output.object is not None
        assert (await b.events(job))[-1].metadata == {"large": "y" * 7_000}
        assert results(b, job) == 1


async def test_a_bus_that_refuses_ends_no_process_and_loses_no_job() -> None:
    async with bench() as b:
        replica = await b.replica()
        create = replica.jobs._store.create
        refusals = 0

        async def refuse(state: object) -> int:
            nonlocal refusals
            refusals += 1
            raise BusRefused("the stream is full")

        replica.jobs._store.create = refuse  # type: ignore[method-assign]
        job = await b.submit()
        bad = await b.submit(b"garbage")
        await b.clock.advance(5)
        assert refusals >= 2
        replica.jobs._store.create = create  # type: ignore[method-assign]
        assert (await b.result(job, limit_s=60)).state == "succeeded"
        assert (await b.result(bad, limit_s=60)).state == "rejected"
        assert b.crashes == []


async def test_a_replica_that_stops_hands_its_jobs_back() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says(TEXT, pieces=20, delta_s=10.0)])) as b:
        one = await b.replica("one")
        job = await b.submit(stream=True)
        await clock.advance(15)
        await clock.run(one.drain(Grace(clock, 0)))
        b.replicas.remove(one)
        stored = await b.stored(job)
        assert stored is not None
        assert (stored.state.state, stored.state.owner, stored.state.attempt) == ("queued", None, 1)
        assert b.model.open_calls == 0
        await b.replica("two")
        result = await b.result(job, limit_s=60)
        assert result.state == "succeeded"
        stored = await b.stored(job)
        assert stored is not None
        assert (stored.state.attempt, stored.state.crashes) == (2, 0)


async def test_a_full_queue_refuses_the_publish() -> None:
    async with bench() as b:
        b.bus.requests.config["max_msgs_per_subject"] = 3
        for i in range(3):
            await b.submit(job=f"j{i}")
        with pytest.raises(BusRefused) as refused:
            await b.submit(job="j3")
        assert refused.value.code == "queue_full"
        await b.replica()
        assert (await b.result("j2")).state == "succeeded"


async def test_an_asker_hears_the_result_and_errors() -> None:
    async with bench() as b:
        await b.replica()
        reply = await b.ask("ask", "acme", "interactive", payload=b"plain question")
        assert b'"succeeded"' in reply.payload
        reply = await b.ask("ask", "acme", "urgent", payload=b"plain question")
        assert reply.headers["Nats-Service-Error-Code"] == "400"
        b.bus.partition("one")
        with pytest.raises(BusUnavailable):
            await b.ask("ask", "acme", "interactive", payload=b"anybody?")
        b.bus.heal("one")


async def test_requests_left_in_the_stream_are_found_without_doorbells() -> None:
    async with bench() as b:
        b.bus.deliveries = lambda delivery: ()
        job = await b.submit(job="before")
        await b.replica()
        assert (await b.result(job, limit_s=30)).state == "succeeded"
        later = await b.submit(job="later")
        assert (await b.result(later, limit_s=30)).state == "succeeded"
        lane = Lane("acme", "standard")
        assert list(await (await b.outside()).intake.read(lane, after_seq=0, limit=10)) == []


async def test_an_id_of_the_form_of_a_sequence_cannot_swallow_a_later_request() -> None:
    async with bench() as b:
        await b.replica()
        await b.submit(job="s2")
        assert (await b.result("s1")).state == "rejected"
        assert (await b.result(await b.submit())).state == "succeeded"
        reply = await b.ask("ask", "acme", "standard", payload=b"hi", headers={"Llm-Job-Id": "s3"})
        assert reply.headers["Nats-Service-Error-Code"] == "400"
