"""The text of an answer, piece by piece, out of its events. Pure but for the events it reads."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal

from sidecar.client.errors import EventsLost, TextRestarted
from sidecar.client.order import START, Place, Verdict, judge
from sidecar.client.results import JobResult
from sidecar.models.event import Delta, Event


class TextPiece(str):
    """A piece of text. `restarts`: it begins the answer anew, and all earlier pieces are void."""

    restarts: bool

    def __new__(cls, text: str, *, restarts: bool = False) -> "TextPiece":
        piece = super().__new__(cls, text)
        piece.restarts = restarts
        return piece


async def text_of(
    events: AsyncIterator[Event], *, on_restart: Literal["raise", "mark"]
) -> AsyncGenerator[TextPiece, None]:
    """Pieces that joined are the answer's text; the whole text at once where the job was not streamed.

    Where events are missing before anything was given, the whole text comes with the result. Raises
    TextRestarted (unless marked instead), EventsLost, and what `JobResult.raise_for_state` raises.
    """
    last = START
    is_whole, has_given, restarts = True, False, False
    async for event in events:
        place = Place(event.attempt, event.n)
        if place.attempt > last.attempt:
            restarts, has_given, is_whole = restarts or has_given, False, True
        # Not "is next": who ends a job that it did not run may number the result too low.
        is_whole = is_whole and judge(last, place) is not Verdict.GAP
        last = max(last, place)
        if isinstance(event.data, JobResult):
            for piece in _rest(event.data, has_given=has_given):
                yield _begin(piece, restarts, on_restart)
            event.data.raise_for_state()
            _check(is_whole=is_whole or not has_given)
        elif isinstance(event.data, Delta) and event.data.text and (is_whole or has_given):
            _check(is_whole=is_whole)
            yield _begin(event.data.text, restarts, on_restart)
            has_given, restarts = True, False


def _check(*, is_whole: bool) -> None:
    if not is_whole:
        raise EventsLost("pieces of the answer are not stored any more: use the result's whole text")


def _begin(text: str, restarts: bool, on_restart: Literal["raise", "mark"]) -> TextPiece:
    if restarts and on_restart == "raise":
        raise TextRestarted("the answer began anew: forget the text so far, and read on with on_restart='mark'")
    return TextPiece(text, restarts=restarts)


def _rest(result: JobResult, *, has_given: bool) -> tuple[str, ...]:
    return (result.text,) if result.text and not has_given else ()
