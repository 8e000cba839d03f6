"""The text of an answer: joined pieces are the text, and nothing void or cut passes for it."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from sidecar.client import EventsLost, JobFailed, JobResult, TextPiece, TextRestarted
from sidecar.client.text import text_of
from sidecar.errors import JobCancelled
from sidecar.models.event import Delta, Event, EventData, EventType, Status
from sidecar.models.result import ErrorInfo, Output


def event(attempt: int, n: int, data: EventData) -> Event:
    kind: EventType = "delta" if isinstance(data, Delta) else "status" if isinstance(data, Status) else "result"
    return Event(job="j", tenant="t", type=kind, attempt=attempt, n=n, time="", metadata={}, data=data)


def delta(attempt: int, n: int, text: str) -> Event:
    return event(attempt, n, Delta(index=0, text=text))


def end(attempt: int, n: int, text: str = "", **more: Any) -> Event:
    return event(attempt, n, JobResult(**{"state": "succeeded", "output": Output(text=text), **more}))


async def pieces(*events: Event, on_restart: Any = "raise") -> list[TextPiece]:
    async def source() -> AsyncGenerator[Event, None]:
        for item in events:
            yield item

    return [piece async for piece in text_of(source(), on_restart=on_restart)]


async def test_streamed_pieces_come_as_they_are() -> None:
    got = await pieces(
        event(1, 1, Status(state="running")), delta(1, 2, "Jet"), delta(1, 3, "Stream"), end(1, 4, "JetStream")
    )
    assert got == ["Jet", "Stream"]


async def test_reasoning_is_not_text() -> None:
    thought = event(1, 1, Delta(index=0, reasoning="hmm"))
    assert await pieces(thought, delta(1, 2, "yes"), end(1, 3, "yes")) == ["yes"]


async def test_a_job_that_was_not_streamed_gives_its_text_at_the_end() -> None:
    assert await pieces(event(1, 1, Status(state="running")), end(1, 2, "whole")) == ["whole"]


async def test_a_restart_is_an_error_unless_it_is_to_be_marked() -> None:
    story = (delta(1, 1, "old"), delta(2, 1, "new "), delta(2, 2, "text"), end(2, 3, "new text"))
    with pytest.raises(TextRestarted):
        await pieces(*story)
    got = await pieces(*story, on_restart="mark")
    assert [(str(p), p.restarts) for p in got] == [("old", False), ("new ", True), ("text", False)]


async def test_an_attempt_that_had_given_no_text_restarts_nothing() -> None:
    got = await pieces(event(1, 1, Status(state="running")), delta(2, 1, "text"), end(2, 2, "text"))
    assert [(str(p), p.restarts) for p in got] == [("text", False)]


async def test_a_restart_whose_answer_comes_whole_is_marked_too() -> None:
    got = await pieces(delta(1, 1, "old"), end(2, 1, "new"), on_restart="mark")
    assert [(str(p), p.restarts) for p in got] == [("old", False), ("new", True)]


async def test_expired_pieces_at_the_start_are_made_up_for_by_the_whole_text() -> None:
    assert await pieces(delta(1, 5, "the end"), end(1, 6, "all of the end")) == ["all of the end"]


@pytest.mark.parametrize(
    "story",
    [
        (delta(1, 1, "a"), delta(1, 3, "c"), end(1, 4, "abc")),
        (delta(1, 1, "a"), end(1, 3, "ab")),
    ],
)
async def test_a_hole_in_what_was_given_is_an_error(story: tuple[Event, ...]) -> None:
    with pytest.raises(EventsLost):
        await pieces(*story)


async def test_a_job_that_did_not_succeed_never_looks_complete() -> None:
    error = ErrorInfo(code="throttled", message="slow down", retryable=True, details={"a": 1})
    with pytest.raises(JobFailed, match="slow down") as caught:
        await pieces(delta(1, 1, "half"), end(1, 2, "half", state="failed", error=error))
    assert (caught.value.code, caught.value.is_retryable, caught.value.details) == ("throttled", True, {"a": 1})
    assert caught.value.result.text == "half"
    with pytest.raises(JobCancelled):
        await pieces(delta(1, 1, "half"), end(1, 2, "half", state="cancelled"))


def test_a_success_is_returned_as_it_is() -> None:
    result = JobResult(state="succeeded")
    assert result.raise_for_state() is result
    assert result.is_success
