"""A client sees each event once, in order, whatever the live messages suffer on their way."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.client import follow
from sidecar.client.errors import UnknownJob
from sidecar.client.feed import MAX_MESSAGES, Feed, Message
from sidecar.client.follow import Follower, wait_result
from sidecar.client.order import START, Place, Verdict, judge
from sidecar.errors import BusUnavailable
from sidecar.models.event import Event
from sidecar.models.job import JobState


class NoBus:
    """A feed's bus where nothing has to be unsubscribed."""

    async def unsubscribe(self, feed: Feed) -> None:
        return None


def payload(place: Place, kind: str) -> bytes:
    data: dict[str, Any] = {
        "status": {"state": "running"},
        "delta": {"index": 0, "text": f"{place.attempt}.{place.n} "},
        "result": {"state": "succeeded", "output": {"text": "whole", "content": [], "structured": None}},
        "of_a_later_version": {"anything": 1},
    }[kind]
    envelope = {
        "job": "j",
        "tenant": "t",
        "type": kind,
        "attempt": place.attempt,
        "n": place.n,
        "time": "2026-11-22T10:00:00.000Z",
        "metadata": {},
        "data": data,
    }
    return json.dumps(envelope).encode()


def message(place: Place, kind: str) -> Message:
    return Message(f"llm.v1.job.t.j.{kind}", payload(place, kind))


class Storage:
    """What is stored of a job, and how often it was asked for."""

    def __init__(self, events: list[tuple[Place, str]], *, is_over: bool = True, is_known: bool = True) -> None:
        self.events = events
        self.is_over = is_over
        self.is_known = is_known
        self.is_away = 0
        self.asked = 0

    async def replay(self, after: Place) -> AsyncGenerator[bytes, None]:
        self.asked += 1
        if self.is_away > 0:
            self.is_away -= 1
            raise BusUnavailable("away")
        for place, kind in self.events:
            if place > after:
                yield payload(place, kind)

    async def state(self) -> JobState:
        if not self.is_known:
            raise UnknownJob("no such job")
        if self.is_away > 0:
            raise BusUnavailable("away")
        state = "succeeded" if self.is_over else "running"
        result = {"state": "succeeded", "output": {"text": "whole", "content": [], "structured": None}}
        return msgspec.convert(
            {
                "job": "j",
                "tenant": "t",
                "class": "batch",
                "state": state,
                "attempt": 1,
                "owner": None,
                "model": None,
                "request_seq": 1,
                "created": "x",
                "updated": "x",
                "result": result if self.is_over else None,
                "result_n": None,
            },
            JobState,
        )


async def collect(storage: Storage, live: list[Message], *, is_dirty: bool = False) -> list[Event]:
    feed = Feed(NoBus(), "llm.v1.job.t.j.*", is_dirty=is_dirty)  # type: ignore[arg-type]
    for item in live:
        feed.push(item)
    async with asyncio.timeout(20):
        follower = Follower(storage, feed, after=START, is_accepted=True)
        return [event async for event in follower.events()]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_CHECK_S", 0.001)
    monkeypatch.setattr(follow, "_FILL_PAUSES_S", (0.0, 0.0))


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[tuple[Place, str]], list[Message]]:
    """A job's stored events, and live messages of them: some lost, some twice, some late."""
    attempts = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    kinds = st.sampled_from(["delta", "status", "of_a_later_version"])
    events = [(Place(a, n), draw(kinds)) for a, count in enumerate(attempts, 1) for n in range(1, count + 1)]
    events.append((Place(len(attempts), attempts[-1] + 1), "result"))
    picks = draw(st.lists(st.integers(0, len(events) - 1), max_size=2 * len(events)))
    if draw(st.booleans()):
        picks = sorted(picks)
    return events, [message(*events[i]) for i in picks]


@given(stories(), st.booleans())
def test_every_event_comes_once_and_in_order(
    story: tuple[list[tuple[Place, str]], list[Message]], is_dirty: bool
) -> None:
    follow.FIRST_CHECK_S = 0.001  # the fixture does not run for each example
    events, live = story
    seen = asyncio.run(collect(Storage(events), live, is_dirty=is_dirty))
    places = [Place(e.attempt, e.n) for e in seen]
    assert places == sorted(set(places))
    assert seen[-1].type == "result"
    final = max(place.attempt for place, _ in events)
    expected = [p for p, kind in events if p.attempt == final and kind != "of_a_later_version"]
    assert [p for p in places if p.attempt == final] == expected


@given(st.tuples(st.integers(0, 3), st.integers(0, 5)), st.tuples(st.integers(0, 3), st.integers(0, 5)))
def test_judge_knows_exactly_one_next_place_in_each_attempt(last: tuple[int, int], event: tuple[int, int]) -> None:
    verdict = judge(Place(*last), Place(*event))
    if event <= last:
        assert verdict is Verdict.DUPLICATE
    elif event in {(last[0], last[1] + 1), (event[0], 1)}:
        assert verdict is Verdict.NEXT
    else:
        assert verdict is Verdict.GAP


async def test_without_trouble_nothing_is_replayed() -> None:
    events = [(Place(1, n), "delta") for n in range(1, 50)] + [(Place(1, 50), "result")]
    storage = Storage(events)
    seen = await collect(storage, [message(*e) for e in events])
    assert len(seen) == 50
    assert storage.asked == 0


async def test_a_gap_waits_for_a_sidecar_that_is_away() -> None:
    events = [(Place(1, n), "delta") for n in range(1, 5)] + [(Place(1, 5), "result")]
    storage = Storage(events)
    storage.is_away = 3
    seen = await collect(storage, [message(*events[0]), message(*events[4])])
    assert [e.n for e in seen] == [1, 2, 3, 4, 5]


async def test_expired_events_leave_a_visible_hole_and_the_state_gives_the_result() -> None:
    storage = Storage([(Place(1, 7), "delta"), (Place(1, 8), "delta")])
    seen = await collect(storage, [], is_dirty=True)
    assert [(e.type, e.n) for e in seen] == [("delta", 7), ("delta", 8), ("result", 9)]


async def test_a_result_of_somebody_who_did_not_know_the_count_still_ends_the_job() -> None:
    events = [(Place(1, 1), "delta"), (Place(1, 2), "delta")]
    live = [message(*events[0]), message(*events[1]), message(Place(1, 1), "result")]
    seen = await collect(Storage(events, is_over=False), live)
    assert [e.type for e in seen] == ["delta", "delta", "result"]


async def test_a_reader_that_comes_late_finds_everything_by_replay() -> None:
    count = MAX_MESSAGES + 10
    events = [(Place(1, n), "delta") for n in range(1, count)] + [(Place(1, count), "result")]
    storage = Storage(events)
    seen = await collect(storage, [message(*e) for e in events])
    assert [e.n for e in seen] == list(range(1, count + 1))
    assert storage.asked >= 1


async def test_an_id_that_nobody_knows_is_an_error_after_a_second_look() -> None:
    storage = Storage([], is_known=False)
    feed = Feed(NoBus(), "x", is_dirty=True)  # type: ignore[arg-type]
    follower = Follower(storage, feed, after=START, is_accepted=False)
    with pytest.raises(UnknownJob):
        [event async for event in follower.events()]
    assert storage.asked == 2
    with pytest.raises(UnknownJob):
        await wait_result(storage, feed, is_accepted=False)


async def test_an_accepted_job_may_take_its_time_to_become_known() -> None:
    storage = Storage([], is_known=False)
    feed = Feed(NoBus(), "llm.v1.job.t.j.*", is_dirty=True)  # type: ignore[arg-type]
    waiting = asyncio.ensure_future(wait_result(storage, feed, is_accepted=True))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    feed.push(message(Place(1, 1), "result"))
    assert (await waiting).text == "whole"
