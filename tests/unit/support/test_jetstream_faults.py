"""Faults of the server in memory: what a test can make go wrong on the wire, and that it goes wrong exactly so."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sidecar.adapters.nats.micro import NatsEndpoints
from sidecar.errors import BusRefused, BusUnavailable, Conflict, InvalidRequest
from sidecar.ports.bus import Doorbell, Endpoint, Lane, Query, Reply
from sidecar.runtime.grace import Grace
from tests.support.bus_world import MemoryWorld, event, job_state, memory_world, result
from tests.support.jetstream.faults import Fault, Operation, no_faults
from tests.support.jetstream.server import on

LANE = Lane("acme", "batch")


@pytest.fixture
async def world() -> AsyncIterator[MemoryWorld]:
    async with memory_world() as made:
        yield made


async def test_a_lost_request_has_no_effect(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(lose="request"))
    with pytest.raises(BusUnavailable):
        await world.first.jobs.create(job_state())
    assert await world.second.jobs.get("acme", "j1") is None
    assert world.clock.monotonic() == pytest.approx(world.bus.request_timeout_s, abs=0.1)


async def test_a_lost_acknowledgement_has_its_effect(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(lose="ack"))
    with pytest.raises(BusUnavailable):
        await world.first.jobs.create(job_state())
    world.bus.faults = no_faults
    assert await world.first.jobs.get("acme", "j1") is not None
    with pytest.raises(Conflict):
        await world.first.jobs.create(job_state())


async def test_a_late_write_arrives_after_its_sender_gave_up(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(lose="late", late_s=2))
    with pytest.raises(BusUnavailable):
        await world.first.jobs.create(job_state())
    assert await world.second.jobs.get("acme", "j1") is None
    await world.clock.advance(2.1)
    assert await world.second.jobs.get("acme", "j1") is not None


async def test_a_late_fenced_write_does_not_get_past_a_new_owner(world: MemoryWorld) -> None:
    fence = await world.first.jobs.create(job_state())
    world.bus.faults = on("events.publish", Fault(lose="late", late_s=2))
    with pytest.raises(BusUnavailable):
        await world.first.publisher.publish(event(1), fence=fence)
    await world.second.jobs.update(job_state(state="running", owner="r2"), revision=fence)
    await world.clock.advance(3)
    assert [item async for item in world.second.publisher.replay("acme", "j1")] == []


async def test_a_doubled_write_is_fenced_by_its_own_first_copy(world: MemoryWorld) -> None:
    world.bus.faults = on("jobs.create", Fault(is_doubled=True))
    revision = await world.first.jobs.create(job_state())
    await world.clock.settle()
    assert [stored.revision for stored in await world.first.jobs.history("acme", "j1")] == [revision]


async def test_a_refused_write_says_what_the_server_said(world: MemoryWorld) -> None:
    world.bus.faults = on("intake.submit", Fault(refusal=(503, 10077, "maximum messages exceeded")))
    with pytest.raises(BusRefused) as caught:
        await world.first.intake.submit(LANE, b"{}", {})
    assert caught.value.code == "queue_full"


async def test_a_delay_holds_a_message_up(world: MemoryWorld) -> None:
    world.bus.faults = on("intake.submit", Fault(delay_s=3))
    await world.first.intake.submit(LANE, b"{}", {})
    assert world.clock.monotonic() == 3


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


async def test_replies_can_come_twice_and_late(world: MemoryWorld) -> None:
    world.bus.replies = lambda delivery: (2.0, 2.0, 9.0)
    assert await world.first.intake.submit(LANE, b"{}", {}) == 1
    assert world.clock.monotonic() == 2.0
    await world.clock.advance(10)


async def test_what_a_partitioned_client_sends_arrives_when_its_connection_lives_to_see_it(
    world: MemoryWorld,
) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    world.bus.partition("first")
    asking = asyncio.ensure_future(world.first.intake.submit(LANE, b"{}", {}))
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.advance(2)
    assert heard == []
    world.bus.heal("first")
    assert await asking == 2
    assert [bell.seq for bell in heard] == [1, 2]


async def test_a_connection_that_was_cut_off_too_long_is_given_up_with_all_that_waited(world: MemoryWorld) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    world.bus.partition("first")
    with pytest.raises(BusUnavailable):
        await world.first.intake.submit(LANE, b"{}", {})
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.advance(20)
    assert not world.mux.connection.is_connected
    world.bus.heal("first")
    await world.clock.advance(15)
    assert world.mux.connection.is_connected
    assert await world.first.intake.last_seq() == 1, "what was sent while it was away is lost"
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.settle()
    assert [bell.seq for bell in heard] == [2]


async def test_a_partition_during_an_operation_loses_the_answer(world: MemoryWorld) -> None:
    creating = asyncio.ensure_future(world.first.jobs.create(job_state()))
    while not world.bus.jobs.last_seq:  # noqa: ASYNC110 - a partition between the write and its answer has no event
        await asyncio.sleep(0)
    world.bus.partition("first")
    with pytest.raises(BusUnavailable):
        await creating
    assert await world.second.jobs.get("acme", "j1") is not None


async def test_a_client_that_was_killed_hears_and_says_nothing_any_more(world: MemoryWorld) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    world.bus.kill("first")
    await world.second.intake.submit(LANE, b"{}", {})
    with pytest.raises(BusUnavailable):
        await world.first.intake.submit(LANE, b"{}", {})
    await world.clock.advance(60)
    assert heard == []
    assert world.bus.requests.last_seq == 1


async def test_a_dropped_connection_comes_back_and_hears_again(world: MemoryWorld) -> None:
    heard: list[Doorbell] = []
    await world.first.intake.listen(heard.append)
    asking = asyncio.ensure_future(world.first.intake.last_seq())
    await asyncio.sleep(0)
    world.bus.drop("first")
    with pytest.raises(BusUnavailable, match="lost"):
        await asking
    await world.clock.advance(1)
    await world.second.intake.submit(LANE, b"{}", {})
    await world.clock.settle()
    assert [bell.seq for bell in heard] == [1]


async def test_a_restarted_server_has_its_streams_and_gets_its_clients_back(world: MemoryWorld) -> None:
    await world.first.intake.submit(LANE, b"{}", {})
    world.bus.stop()
    await world.clock.settle()
    with pytest.raises(BusUnavailable):
        await world.first.intake.last_seq()
    await world.clock.advance(30)
    world.bus.start()
    await world.clock.advance(10)
    assert await world.first.intake.last_seq() == 1
    assert await world.second.intake.last_seq() == 1


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


async def test_a_strangers_message_reaches_whoever_listens(world: MemoryWorld) -> None:
    heard: list[bytes] = []
    await world.first.cluster.subscribe("stats", heard.append)
    world.bus.publish("llm.v1.sys.stats", b"lies", reply=b"llm.v1.request.acme.batch")
    await world.clock.settle()
    assert heard == [b"lies"]


async def test_endpoints_answer_once_or_many_times_and_hide_what_broke(world: MemoryWorld) -> None:
    async def get(query: Query) -> Reply:
        if query.tokens[1] == "missing":
            raise InvalidRequest("there is no such job")
        if query.tokens[1] == "broken":
            raise RuntimeError("secret")
        return Reply(query.payload + "/".join(query.tokens).encode())

    endpoints = NatsEndpoints(world.mux.connection, subjects=world.bus.subjects)
    await endpoints.serve([Endpoint("get", "get.*.*", get)])
    ask = world.other.request
    assert (await ask("llm.v1.get.acme.j1", b"x:")).payload == b"x:acme/j1"
    missing = await ask("llm.v1.get.acme.missing")
    assert missing.headers["Nats-Service-Error-Code"] == "400"
    broken = await ask("llm.v1.get.acme.broken")
    assert broken.headers["Nats-Service-Error-Code"] == "500"
    assert b"secret" not in broken.payload
    await endpoints.stop(Grace(world.clock, 0))
    with pytest.raises(BusUnavailable):
        await ask("llm.v1.get.acme.j1")


async def test_of_three_servers_one_write_at_a_time_checks_a_sequence() -> None:
    async with memory_world(is_replicated=True, servers=3) as world:
        outcomes = await asyncio.gather(
            *(world.first.jobs.create(job_state()) for _ in range(3)), return_exceptions=True
        )
        assert outcomes[0] == 1
        assert [type(outcome) for outcome in outcomes[1:]] == [BusUnavailable] * 2
        with pytest.raises(Conflict):
            await world.first.jobs.create(job_state())
        assert world.clock.monotonic() > 0, "a write takes a moment"


async def test_a_server_that_lags_gives_what_it_knew_and_the_leader_what_is() -> None:
    async with memory_world(is_replicated=True, servers=3) as world:
        world.bus.api.lag = lambda: 1.0
        revision = await world.first.jobs.create(job_state())
        assert await world.first.jobs.get("acme", "j1") is not None, "asked of the leader"
        assert [stored.revision for stored in await world.first.jobs.history("acme", "j1")] == []
        await world.clock.advance(1.1)
        assert [stored.revision for stored in await world.first.jobs.history("acme", "j1")] == [revision]
