"""What of the stream of jobs is believed: what a replica writes there, and nothing else.

Strangers reach its keys and subjects: JetStream acknowledges a publish to whatever reply subject the publisher
names, an operator's hand slips, a script restores the wrong backup. What is none of a job's own counts as nothing.
"""

from sidecar.errors import InvalidRequest
from sidecar.models import codec
from sidecar.models.base import epoch
from sidecar.models.event import Event
from sidecar.models.job import JobState
from sidecar.models.result import Result

_MOST = 1 << 31


def document_of(payload: bytes, *, tenant: str, job: str) -> JobState | None:
    """The state document of this job; None for what is none."""
    state = codec.state_or_none(payload)
    if state is None or (state.tenant, state.job) != (tenant, job):
        return None
    if not all(0 <= count < _MOST for count in (state.attempt, state.crashes, state.silent)):
        return None
    if not 1 <= state.request_seq < 1 << 63:
        return None
    if not _are_times(state.created, state.updated, state.started or state.created):
        return None
    return state if _ends_as_it_says(state) else None


def _ends_as_it_says(state: JobState) -> bool:
    """A job is over with a result, of the same state, that has its number; and not without."""
    if not state.is_terminal:
        return state.result is None
    return state.result is not None and state.result.state == state.state and (state.result_n or 0) >= 1


def event_of(payload: bytes, *, tenant: str, job: str) -> Event | None:
    """An event of this job; None for what is none."""
    try:
        event = codec.decode_event(payload)
    except InvalidRequest:
        return None
    is_its = (event.tenant, event.job) == (tenant, job)
    is_placed = 0 <= event.attempt < _MOST and 1 <= event.n < _MOST
    return event if is_its and is_placed and _are_times(event.time) else None


def result_of(payload: bytes, *, tenant: str, job: str) -> Event | None:
    """The result event of this job; None for what is none."""
    event = event_of(payload, tenant=tenant, job=job)
    return event if event is not None and isinstance(event.data, Result) else None


def _are_times(*times: str) -> bool:
    try:
        for time in times:
            epoch(time)
    except (ValueError, OverflowError):
        return False
    return True
