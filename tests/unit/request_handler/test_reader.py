"""Reading requests into the scheduler's windows, a few of each lane at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.errors import JobCancelled, Permanent, SidecarError
from sidecar.ports.bus import Doorbell, Lane
from sidecar.request_handler.decode import DecodedRequest
from sidecar.request_handler.reader import Later, Reader
from sidecar.runtime.lifecycle import Tasks
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Ticket
from tests.support.jetstream.link import connect, disconnect
from tests.support.jetstream.server import FakeJetStream
from tests.support.virtual_time import VirtualClock

LANE = Lane("acme", "standard")
REQUEST = b'{"messages": [{"role": "user", "content": "hi"}]}'


class Stage:
    def __init__(self, mux: Mux, clock: VirtualClock, bus: FakeJetStream, *, window: int = 4) -> None:
        self.clock = clock
        self.bus = bus
        self.intake = NatsIntake(mux, bus.subjects)
        self.crashes: list[BaseException] = []
        self.tasks = Tasks(self.crashes.append)
        self.scheduler = Scheduler(
            classes={"interactive": 100, "standard": 20, "batch": 1}, slots=1, window=window
        )
        self.refused: list[tuple[str, SidecarError]] = []
        self.marked: set[tuple[str, str]] = set()
        self.poison: set[str] = set()
        self.max_queue = 10_000
        self.reader = Reader(
            intake=self.intake,
            scheduler=self.scheduler,
            clock=self.clock,
            tasks=self.tasks,
            admit=self.admit,
            refuse=self.refuse,
            on_filled=lambda: None,
            is_marked=self.marked.__contains__,
            max_queue=lambda lane: self.max_queue,
        )

    def admit(self, opened: DecodedRequest) -> Ticket:
        if opened.job in self.poison:
            raise ZeroDivisionError
        stored = opened.stored
        return Ticket(
            seq=stored.seq,
            lane=stored.lane,
            job_id=opened.job,
            size=len(stored.payload),
            stored_at=stored.stored_at,
            input_tokens=1,
            max_tokens=1,
            pools=("m@r",),
        )

    async def refuse(self, opened: DecodedRequest, error: SidecarError) -> None:
        self.refused.append((opened.job, error))
        await self.intake.delete(opened.stored.seq)

    async def submit(self, job: str, payload: bytes = REQUEST) -> int:
        return await self.intake.submit(LANE, payload, {"Llm-Job-Id": job})

    @property
    def waiting(self) -> list[str]:
        return [job for _, job in self.reader.waiting]


Make = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    muxes: list[Mux] = []

    async def made(*, window: int = 4) -> Stage:
        clock = VirtualClock()
        bus = FakeJetStream(clock)
        muxes.append(await connect(bus, "replica"))
        return Stage(muxes[-1], clock, bus, window=window)

    yield made
    for mux in muxes:
        await disconnect(mux)


async def test_a_window_is_filled_and_no_more(make: Make) -> None:
    stage = await make(window=4)
    for i in range(20):
        await stage.submit(f"j{i}")
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.waiting[:4] == ["j0", "j1", "j2", "j3"]
    assert len(stage.waiting) < 20


async def test_what_left_makes_room_for_the_next_in_order(make: Make) -> None:
    stage = await make(window=2)
    for i in range(5):
        await stage.submit(f"j{i}")
    await stage.reader.reconcile()
    await stage.clock.settle()
    seen = []
    while stage.waiting:
        key, ticket = next(iter(stage.reader.waiting.items()))
        seen.append(key[1])
        stage.scheduler.remove(LANE, ticket.seq)
        stage.reader.left(ticket)
        await stage.clock.settle()
    assert seen == [f"j{i}" for i in range(5)]


async def test_garbage_is_refused_and_the_next_is_read(make: Make) -> None:
    stage = await make()
    await stage.submit("bad", b"no json")
    await stage.submit("good")
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.waiting == ["good"]
    ((job, error),) = stage.refused
    assert (job, error.code) == ("bad", "invalid_request")


async def test_a_request_that_breaks_admission_is_refused_and_ends_nothing(make: Make) -> None:
    stage = await make()
    stage.poison.add("poison")
    await stage.submit("poison")
    await stage.submit("good")
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.waiting == ["good"]
    assert [(job, error.code) for job, error in stage.refused] == [("poison", "internal")]
    assert stage.crashes == []


async def test_a_refused_request_with_the_id_of_a_queued_one_is_dropped(make: Make) -> None:
    stage = await make()
    await stage.submit("same")
    await stage.submit("same", b"garbage")
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.refused == []
    assert stage.waiting == ["same"]
    assert len(list(stage.bus.requests.find("llm.v1.request.>"))) == 1


async def test_a_job_whose_cancellation_was_heard_is_not_queued(make: Make) -> None:
    stage = await make()
    stage.marked.add(("acme", "gone"))
    await stage.submit("gone")
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert [(job, type(error)) for job, error in stage.refused] == [("gone", JobCancelled)]


async def test_a_bus_that_is_away_is_asked_again(make: Make) -> None:
    stage = await make()
    await stage.submit("j1")
    reconciling = asyncio.ensure_future(stage.reader.reconcile())
    await stage.clock.settle()
    stage.bus.partition("replica")
    await stage.clock.advance(20)
    stage.bus.heal("replica")
    await stage.clock.advance(20)
    await asyncio.wait([reconciling])
    assert stage.waiting == ["j1"]
    assert stage.crashes == []


async def test_what_was_forgotten_can_be_read_again(make: Make) -> None:
    stage = await make()
    await stage.submit("j1")
    await stage.reader.reconcile()
    await stage.clock.settle()
    ticket = stage.reader.waiting[("acme", "j1")]
    stage.scheduler.remove(LANE, ticket.seq)
    stage.reader.left(ticket)
    stage.reader.forget(ticket)
    assert stage.waiting == []
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.waiting == ["j1"]


async def test_an_unknown_refusal_is_passed_on_as_it_is(make: Make) -> None:
    stage = await make()
    error = Permanent("no", code="tenant_denied")

    def admit(opened: DecodedRequest) -> Ticket:
        raise error

    stage.reader._admit = admit
    await stage.submit("j1")
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.refused == [("j1", error)]


async def test_a_request_that_takes_long_to_judge_holds_up_no_other(make: Make) -> None:
    """Those beside it are queued at once; it comes when it is judged, or is refused or cancelled meanwhile."""
    stage = await make(window=8)
    judged: dict[str, asyncio.Future[None]] = {}

    def admit(opened: DecodedRequest) -> Ticket | Later:
        if not opened.job.startswith("long"):
            return stage.admit(opened)
        judged[opened.job] = asyncio.get_running_loop().create_future()

        async def later() -> Ticket:
            await judged[opened.job]
            return stage.admit(opened)

        return later

    stage.reader._admit = admit
    for job in ("a", "long1", "long2", "long3", "long4", "b"):
        await stage.submit(job)
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert stage.waiting == ["a", "b"]
    other = Lane("globex", "standard")
    await stage.intake.submit(other, REQUEST, {"Llm-Job-Id": "c"})
    await stage.reader.reconcile()
    await stage.clock.settle()
    assert "c" in stage.waiting, "another lane is read meanwhile"
    stage.marked.add(("acme", "long3"))
    stage.poison.add("long4")
    judged["long1"].set_result(None)
    judged["long2"].set_exception(Permanent("no", code="invalid_request"))
    judged["long3"].set_result(None)
    judged["long4"].set_result(None)
    await stage.clock.settle()
    assert stage.waiting == ["a", "b", "c", "long1"]
    refused = dict(stage.refused)
    assert set(refused) == {"long2", "long3", "long4"}
    assert refused["long2"].code == "invalid_request"
    assert isinstance(refused["long3"], JobCancelled)
    assert refused["long4"].code == "internal"
    assert not stage.crashes


async def test_a_lane_above_its_cap_is_refused_down_to_it_though_doorbells_are_lost(make: Make) -> None:
    stage = await make(window=4)
    stage.max_queue = 10
    seqs = [await stage.submit(f"j{i}") for i in range(60)]
    for seq in seqs[:20]:
        stage.reader.on_doorbell(Doorbell(seq, LANE, len(REQUEST), None))
    await stage.clock.advance(2)
    assert sorted(job for job, _ in stage.refused) == sorted(f"j{i}" for i in range(10, 60))
    assert {error.code for _, error in stage.refused} == {"queue_full"}
    assert stage.reader.stored() == {LANE: 10}
