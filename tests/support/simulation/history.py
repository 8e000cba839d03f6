"""What clients were told and what they heard, and whether that is what the protocol promises.

Knows the contract alone: nothing of replicas, schedulers or streams.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sidecar.errors import SidecarError
from sidecar.models.codec import decode_event
from sidecar.models.event import Delta, Event
from sidecar.models.job import JobState
from sidecar.models.result import Result


class Submitted(NamedTuple):
    """A job that a client asked for. `is_acknowledged`: the server said that it is stored."""

    tenant: str
    is_streamed: bool
    is_acknowledged: bool


class History:
    """One client's knowledge of all jobs."""

    def __init__(self) -> None:
        self.submitted: dict[str, Submitted] = {}
        self.said_cancelled: set[str] = set()
        self.heard: dict[str, list[Event]] = {}

    def hear(self, subject: str, payload: bytes) -> None:
        """A message on a subject of events. Anybody may publish there: what is no event of the job is none."""
        try:
            event = decode_event(payload)
        except SidecarError:
            return
        if subject.split(".")[3:5] == [event.tenant, event.job]:
            self.heard.setdefault(event.job, []).append(event)

    def check(self, job: str, stored: Sequence[Event], document: JobState | None) -> None:
        """Hold a job's story against the promises. `stored`: what `replay` gives, `document` what `get` does."""
        asked = self.submitted[job]
        if not asked.is_acknowledged and not stored and document is None:
            return
        check_ends_once(job, stored)
        check_fenced(job, stored)
        check_numbers(job, stored)
        result = stored[-1].data
        assert isinstance(result, Result)
        assert document is not None, f"{job}: an end without a document"
        assert document.result == result, f"{job}: the document says otherwise than the event"
        if job in self.said_cancelled:
            assert result.state == "cancelled", f"{job}: said to be cancelled, and {result.state}"
        if asked.is_streamed and result.state == "succeeded":
            check_text(job, stored, result)
        heard = without_repetitions(self.heard.get(job, ()))
        check_fenced(job, heard)
        for event in heard:
            assert event in stored, f"{job}: heard and not stored: {event}"


def check_ends_once(job: str, events: Sequence[Event]) -> None:
    results = [event for event in events if isinstance(event.data, Result)]
    assert len(results) == 1, f"{job}: {len(results)} results"
    assert events[-1] is results[0], f"{job} speaks after its end"


def check_fenced(job: str, events: Sequence[Event]) -> None:
    """Nothing of an older attempt comes after a newer one has begun."""
    places = [(event.attempt, event.n) for event in events]
    assert places == sorted(places), f"{job}: an old owner spoke: {places}"


def check_numbers(job: str, events: Sequence[Event]) -> None:
    """Within an attempt events are numbered without gaps."""
    for attempt in {event.attempt for event in events}:
        numbers = [event.n for event in events if event.attempt == attempt]
        assert numbers == list(range(1, len(numbers) + 1)), f"{job}: attempt {attempt} is numbered {numbers}"


def check_text(job: str, events: Sequence[Event], result: Result) -> None:
    """What a client has shown of the last attempt is the answer."""
    last = events[-1].attempt
    pieces = [e.data.text or "" for e in events if e.attempt == last and isinstance(e.data, Delta)]
    assert "".join(pieces) == result.output.text, f"{job}: the stream says otherwise than the result"


def without_repetitions(events: Sequence[Event]) -> list[Event]:
    """An event whose acknowledgement was lost is published again: readers go by its place."""
    seen: set[tuple[int, int]] = set()
    found = []
    for event in events:
        if (event.attempt, event.n) not in seen:
            seen.add((event.attempt, event.n))
            found.append(event)
    return found
