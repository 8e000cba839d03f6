"""What a running job says: numbers, order, gathering, and what happens when the bus does not take it."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import BusRefused, BusUnavailable, Conflict, SidecarError
from sidecar.job_manager import transitions
from sidecar.job_manager.events import LARGEST_DELTA, EventWriter
from sidecar.models.codec import encode
from sidecar.models.event import Delta, Event, Status
from sidecar.ports.bus import Lane, StoredRequest
from tests.support.virtual_time import VirtualClock

GATHER_S = 0.02
STORED = StoredRequest(7, Lane("acme", "batch"), b"{}", {}, 1_800_000_000.0)
STATE = transitions.claimed(transitions.queued(STORED, job="j1", now=0), owner="a", now=0)


class ScriptedPublisher:
    """Stores events after `delay_s`; `fault` is asked before each."""

    def __init__(self, clock: VirtualClock, *, delay_s: float = 0.0) -> None:
        self.clock = clock
        self.delay_s = delay_s
        self.stored: list[tuple[float, Event, int]] = []
        self.under_way = 0
        self.fault: Callable[[Event], SidecarError | None] = lambda event: None

    async def publish(self, event: Event, *, fence: int) -> None:
        self.under_way += 1
        assert self.under_way == 1, "one event of a job at a time"
        try:
            await self.clock.sleep(self.delay_s)
            error = self.fault(event)
            if error is not None:
                raise error
            self.stored.append((self.clock.monotonic(), event, fence))
        finally:
            self.under_way -= 1

    @property
    def events(self) -> list[Event]:
        return [event for _, event, _ in self.stored]

    @property
    def text(self) -> str:
        return "".join(e.data.text or "" for e in self.events if isinstance(e.data, Delta))


class Stage:
    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.clock = VirtualClock()
        self.publisher = ScriptedPublisher(self.clock, delay_s=delay_s)
        self.regained: list[int] = []
        self.lost: list[SidecarError] = []
        self.progress = EventWriter(
            publisher=self.publisher,  # type: ignore[arg-type]
            clock=self.clock,
            gather_s=GATHER_S,
            regain=self.regain,
            on_lost=self.lost.append,
        )
        self.progress.begin(STATE, revision=3, metadata={"a": 1})

    async def regain(self) -> int:
        """The document's new revision; Conflict where the job is another's."""
        if not self.regained:
            raise Conflict("the job is another's")
        return self.regained.pop(0)

    async def flush(self) -> None:
        await self.clock.run(self.progress.flush())


async def test_events_are_numbered_fenced_and_carry_the_metadata() -> None:
    stage = Stage()
    stage.progress.say(Status(state="running"))
    stage.progress.delta(0, text="hello")
    await stage.flush()
    assert [(e.n, e.type, e.attempt, e.metadata) for e in stage.publisher.events] == [
        (1, "status", 1, {"a": 1}),
        (2, "delta", 1, {"a": 1}),
    ]
    assert {fence for _, _, fence in stage.publisher.stored} == {3}
    assert stage.progress.said == 2


async def test_the_first_piece_leaves_at_once_and_later_ones_are_gathered() -> None:
    stage = Stage()
    stage.progress.delta(0, text="a")
    await stage.clock.settle()
    assert stage.publisher.text == "a"
    for piece in "bcd":
        stage.progress.delta(0, text=piece)
        await stage.clock.advance(0.002)
    assert stage.publisher.text == "a"
    await stage.clock.advance(GATHER_S)
    assert [e.data.text for e in stage.publisher.events if isinstance(e.data, Delta)] == ["a", "bcd"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=5), st.floats(0, 0.1)), max_size=20),
    st.sampled_from([0.0, 0.001, 0.01, 0.05]),
)
async def test_whatever_the_pace_nothing_is_lost_or_changes_places(
    pieces: list[tuple[str, float]], delay_s: float
) -> None:
    stage = Stage(delay_s=delay_s)
    said: list[tuple[float, int]] = []
    length = 0
    for piece, pause_s in pieces:
        stage.progress.delta(0, text=piece)
        length += len(piece)
        said.append((stage.clock.monotonic(), length))
        await stage.clock.advance(pause_s)
    await stage.flush()
    assert stage.publisher.text == "".join(piece for piece, _ in pieces)
    assert [e.n for e in stage.publisher.events] == list(range(1, len(stage.publisher.events) + 1))
    position = 0
    for at, event, _ in stage.publisher.stored:
        first = next(when for when, until in said if until > position)
        position += len(getattr(event.data, "text", "") or "")
        assert at - first <= GATHER_S + 2 * delay_s + 1e-6


async def test_other_events_keep_their_place_between_deltas() -> None:
    stage = Stage(delay_s=0.01)
    stage.progress.delta(0, text="a")
    stage.progress.delta(0, text="b")
    stage.progress.say(Status(state="waiting"))
    stage.progress.delta(0, text="c")
    stage.progress.delta(1, text="d")
    stage.progress.delta(1, reasoning="e")
    await stage.flush()
    told = [(e.type, getattr(e.data, "text", None)) for e in stage.publisher.events]
    assert told == [("delta", "ab"), ("status", None), ("delta", "c"), ("delta", "d"), ("delta", None)]


async def test_an_event_that_was_not_confirmed_is_said_again_under_its_number() -> None:
    stage = Stage()
    refusals = iter([BusUnavailable("away"), BusUnavailable("away", retry_after=1.0), None])
    stage.publisher.fault = lambda event: next(refusals, None)
    stage.progress.say(Status(state="running"))
    stage.progress.delta(0, text="a")
    await stage.flush()
    assert [e.n for e in stage.publisher.events] == [1, 2]
    assert stage.lost == []


async def test_a_job_that_was_lost_says_nothing_more() -> None:
    stage = Stage()
    stage.publisher.fault = lambda event: Conflict("another owner") if event.n == 2 else None
    stage.progress.say(Status(state="running"))
    stage.progress.delta(0, text="a")
    await stage.clock.settle()
    stage.progress.delta(0, text="b")
    assert [type(error) for error in stage.lost] == [Conflict]
    with pytest.raises(Conflict):
        await stage.flush()
    assert [e.n for e in stage.publisher.events] == [1]


async def test_an_event_refused_for_good_ends_the_job_but_not_its_ownership() -> None:
    stage = Stage()
    stage.publisher.fault = lambda event: BusRefused("no") if event.type == "delta" else None
    stage.progress.say(Status(state="running"))
    stage.progress.delta(0, text="a")
    await stage.flush()
    assert [type(error) for error in stage.lost] == [BusRefused]
    assert stage.progress.said == 1


async def test_deltas_shrink_to_what_the_bus_takes() -> None:
    stage = Stage()

    def fault(event: Event) -> SidecarError | None:
        too_large = len(encode(event)) > 4_000
        return BusRefused("too large", code="payload_too_large") if too_large else None

    stage.publisher.fault = fault
    text = "".join(chr(97 + i % 26) for i in range(LARGEST_DELTA * 2 + 7))
    stage.progress.delta(0, text=text)
    await stage.flush()
    assert stage.publisher.text == text
    assert [e.n for e in stage.publisher.events] == list(range(1, len(stage.publisher.events) + 1))
    assert stage.lost == []


async def test_a_new_attempt_counts_anew() -> None:
    stage = Stage()
    stage.progress.delta(0, text="a")
    await stage.flush()
    stage.progress.begin(transitions.restarted(STATE, now=0), revision=9, metadata={})
    stage.progress.delta(0, text="b")
    await stage.flush()
    assert [(e.attempt, e.n) for e in stage.publisher.events] == [(1, 1), (2, 1)]
    assert stage.publisher.stored[-1][2] == 9


async def test_closing_drops_what_was_not_stored_and_leaves_no_task() -> None:
    stage = Stage(delay_s=5.0)
    stage.progress.delta(0, text="a")
    await stage.clock.settle()
    await stage.progress.close()
    assert stage.publisher.events == []
    assert len(asyncio.all_tasks()) == 1


async def test_what_the_fence_refuses_is_said_again_once_the_document_is_regained() -> None:
    stage = Stage()
    stage.regained = [5, 9]
    kept: list[int] = []
    fences = iter([3, 5])

    def refuse(event: Event) -> SidecarError | None:
        return Conflict("gone") if next(fences, None) is not None else None

    async def keep(fence: int) -> None:
        kept.append(fence)

    stage.publisher.fault = refuse
    stage.progress.say(Status(state="running"))
    stage.progress.keep(keep)
    stage.progress.delta(0, text="hello")
    await stage.flush()
    assert [(event.n, fence) for _, event, fence in stage.publisher.stored] == [(1, 9), (2, 9)]
    assert kept == [9]
    assert stage.lost == []
