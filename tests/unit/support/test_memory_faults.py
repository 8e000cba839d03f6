"""Faults on the bus in memory: what a crash test can make go wrong, and that it goes wrong exactly so."""

import asyncio
from collections.abc import Callable

import pytest

from sidecar.adapters.memory.endpoints import MemoryEndpoints
from sidecar.adapters.memory.faults import NO_FAULT, Fault, Operation
from sidecar.errors import BusUnavailable, Conflict, InvalidRequest
from sidecar.ports.bus import Doorbell, Endpoint, Lane, Query, Reply
from sidecar.runtime.grace import Grace
from tests.support.bus_world import MemoryWorld, event, job_state, result

LANE = Lane("acme", "batch")


def on(name: str, fault: Fault) -> Callable[[Operation], Fault]:
    return lambda operation: fault if operation.name == name else NO_FAULT


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


async def test_a_lost_request_has_no_effect(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(lose="request"))
    with pytest.raises(BusUnavailable):
        await world.clock.run(world.first.jobs.create(job_state()))
    assert await world.first.jobs.get("acme", "j1") is None
    assert world.clock.monotonic() == world.bus.request_timeout_s


async def test_a_lost_acknowledgement_has_its_effect(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(lose="ack"))
    with pytest.raises(BusUnavailable):
        await world.clock.run(world.first.jobs.create(job_state()))
    world.bus.faults = lambda _: NO_FAULT
    assert await world.first.jobs.get("acme", "j1") is not None
    with pytest.raises(Conflict):
        await world.first.jobs.create(job_state())


async def test_a_late_write_arrives_after_its_sender_gave_up(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(lose="late", late_s=2))
    with pytest.raises(BusUnavailable):
        await world.clock.run(world.first.jobs.create(job_state()))
    assert await world.second.jobs.get("acme", "j1") is None
    await world.clock.advance(2.1)
    assert await world.second.jobs.get("acme", "j1") is not None


async def test_a_late_fenced_write_does_not_get_past_a_new_owner(world: MemoryWorld) -> None:
    fence = await world.first.jobs.create(job_state())
    world.bus.faults = on("events.publish", Fault(lose="late", late_s=2))
    with pytest.raises(BusUnavailable):
        await world.clock.run(world.first.publisher.publish(event(1), fence=fence))
    await world.second.jobs.update(job_state(state="running", owner="r2"), revision=fence)
    await world.clock.advance(3)
    assert [item async for item in world.second.publisher.replay("acme", "j1")] == []


async def test_a_delay_holds_an_operation_up(world: MemoryWorld) -> None:
    world.bus.faults = on("intake.submit", Fault(delay_s=7))
    await world.clock.run(world.first.intake.submit(LANE, b"{}", {}))
    assert world.clock.monotonic() == 7


async def test_doorbells_can_be_dropped_doubled_and_reordered(world: MemoryWorld) -> None:
    delays = {1: (), 2: (3.0,), 3: (0.0, 1.0)}
    world.bus.deliveries = lambda delivery: delays[delivery.seq]
    heard: list[int] = []

    def hear(bell: Doorbell) -> None:
        heard.append(bell.seq)

    await world.first.intake.listen(hear)
    for _ in range(3):
        await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.advance(5)
    assert heard == [3, 3, 2]


async def test_a_partitioned_replica_neither_speaks_nor_hears_until_it_heals(world: MemoryWorld) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    world.bus.partition("first")
    with pytest.raises(BusUnavailable):
        await world.clock.run(world.first.intake.last_seq())
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.settle()
    assert heard == []
    world.bus.heal("first")
    assert await world.first.intake.last_seq() == 1
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.settle()
    assert [bell.seq for bell in heard] == [2]


async def test_a_partition_during_an_operation_loses_the_answer(world: MemoryWorld) -> None:
    creating = asyncio.ensure_future(world.first.jobs.create(job_state()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.bus.partition("first")
    with pytest.raises(BusUnavailable):
        await world.clock.run(asyncio.wait_for(creating, None))
    assert await world.second.jobs.get("acme", "j1") is not None


async def test_a_replica_that_died_hears_nothing_any_more(world: MemoryWorld) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    world.bus.disconnect("first")
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.settle()
    assert heard == []


async def test_two_fenced_events_of_a_job_at_once_are_one_too_many(world: MemoryWorld) -> None:
    fence = await world.first.jobs.create(job_state())
    outcomes = await asyncio.gather(
        *(world.first.publisher.publish(event(n), fence=fence) for n in (1, 2)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), BusUnavailable]
    await world.first.publisher.publish(event(2), fence=fence)


async def test_the_record_of_operations_names_replica_and_subject(world: MemoryWorld) -> None:
    await world.second.intake.submit(LANE, b"{}", {})
    await world.first.publisher.publish_result(event(1, result()))
    assert world.bus.operations == [
        Operation("second", "intake.submit", "llm.v1.request.acme.batch"),
        Operation("first", "events.publish", "llm.v1.log.acme.j1.result"),
    ]


async def test_endpoints_answer_once_or_many_times_and_hide_what_broke(world: MemoryWorld) -> None:
    async def get(query: Query) -> Reply:
        if query.tokens[1] == "missing":
            raise InvalidRequest("there is no such job")
        if query.tokens[1] == "broken":
            raise RuntimeError("secret")
        return Reply(query.payload + "/".join(query.tokens).encode())

    async def replay(query: Query) -> object:
        for i in range(3):
            yield Reply(b"%d" % i)

    endpoints = MemoryEndpoints(world.bus)
    await endpoints.serve([Endpoint("get", "get.*.*", get), Endpoint("replay", "replay.*.*", replay)])
    assert (await world.bus.request("llm.v1.get.acme.j1", b"x:")).payload == b"x:acme/j1"
    assert [reply.payload async for reply in world.bus.request_many("llm.v1.replay.a.b")] == [b"0", b"1", b"2"]
    missing = await world.bus.request("llm.v1.get.acme.missing")
    assert missing.headers["Nats-Service-Error-Code"] == "400"
    broken = await world.bus.request("llm.v1.get.acme.broken")
    assert broken.headers["Nats-Service-Error-Code"] == "500"
    assert b"secret" not in broken.payload
    await endpoints.stop(Grace(world.clock, 0))
    with pytest.raises(BusUnavailable):
        await world.bus.request("llm.v1.get.acme.j1")
