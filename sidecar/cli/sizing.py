"""What a load takes of JetStream, by stream and kind of message. Pure; every figure was measured.

Bytes are as a stream counts them, key and headers included. `./dev bench sizing` measures them anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

LIVE_SHARE = 4
"""Documents of jobs that run are kept for this part of `retention.state_s`."""
REQUEST_BYTES = 250
EARLIER_DOCUMENT_BYTES, LAST_DOCUMENT_BYTES = 475, 1_360
STATUS_BYTES, RESULT_BYTES, DELTA_BYTES, TOOL_EVENT_BYTES = 500, 1_165, 345, 445
# An answer stands twice in a result (as text and as content), and the result in the document and in its event.
COPIES_IN_RESULT = 2
# A call of a tool takes the job to `waiting` and back, and is told at its begin and its end.
DOCUMENTS_A_TOOL_CALL = STATUSES_A_TOOL_CALL = TOOL_EVENTS_A_CALL = 2
TOKEN_BYTES = 4
DELTAS_A_SECOND = 36.0
"""At most, however fast the tokens come: pieces are gathered."""
MARK_BYTES = 100

SERVER_BASE_BYTES = 60_000_000
DOCUMENT_MEMORY_BYTES, EVENT_MEMORY_BYTES = 250, 300
DELTA_MEMORY_BYTES = 550


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLoad:
    """`streamed` and `cancelled` are shares of the jobs, `answer_s` the seconds of an answer, `waiting` the jobs
    that wait in the queue.
    """

    jobs_per_s: float
    question_bytes: float = 2_000.0
    answer_bytes: float = 2_000.0
    streamed: float = 0.0
    answer_s: float = 5.0
    tool_calls: float = 0.0
    cancelled: float = 0.0
    waiting: float = 0.0
    state_s: float = 86_400.0
    events_s: float = 3_600.0

    @property
    def deltas(self) -> float:
        """Of a streamed job."""
        return max(1.0, min(self.answer_bytes / TOKEN_BYTES, DELTAS_A_SECOND * self.answer_s))


class StoredKind(NamedTuple):
    """What one kind of message takes of a stream, when as much goes as comes."""

    stream: str
    kind: str
    messages: float
    size: float

    @property
    def total(self) -> float:
        return self.messages * self.size


def shares(work: ExpectedLoad) -> Iterator[StoredKind]:
    """Every kind of message, by stream."""
    kept, said, live = (
        work.jobs_per_s * seconds for seconds in (work.state_s, work.events_s, work.state_s / LIVE_SHARE)
    )
    text = COPIES_IN_RESULT * work.answer_bytes
    yield StoredKind(
        "LLM_REQ",
        "requests that wait or run",
        work.waiting + work.jobs_per_s * work.answer_s,
        REQUEST_BYTES + work.question_bytes,
    )
    yield StoredKind("KV_LLM_JOB", "last documents", kept, LAST_DOCUMENT_BYTES + text)
    documents = 1 + DOCUMENTS_A_TOOL_CALL * work.tool_calls
    yield StoredKind("KV_LLM_JOB", "earlier documents", live * documents, EARLIER_DOCUMENT_BYTES)
    statuses = 1 + STATUSES_A_TOOL_CALL * work.tool_calls
    yield StoredKind("KV_LLM_JOB", "status events", said * statuses, STATUS_BYTES)
    if work.streamed:
        deltas = said * work.streamed * work.deltas
        yield StoredKind("KV_LLM_JOB", "delta events", deltas, DELTA_BYTES + work.answer_bytes / work.deltas)
    if work.tool_calls:
        yield StoredKind(
            "KV_LLM_JOB", "tool events", said * TOOL_EVENTS_A_CALL * work.tool_calls, TOOL_EVENT_BYTES
        )
    yield StoredKind("KV_LLM_JOB", "result events", said, RESULT_BYTES + text)
    if work.cancelled:
        yield StoredKind("KV_LLM_CANCEL", "marks of cancellation", kept * work.cancelled, MARK_BYTES)


def stored_at_first(work: ExpectedLoad, jobs: float) -> float:
    """Bytes in `KV_LLM_JOB` after so many jobs, before anything is old enough to go."""
    young = replace(work, jobs_per_s=jobs, state_s=1.0, events_s=1.0, waiting=0.0)
    found = [share for share in shares(young) if share.stream == "KV_LLM_JOB"]
    return sum(share.total * (LIVE_SHARE if share.kind == "earlier documents" else 1) for share in found)


def server_memory(work: ExpectedLoad) -> float:
    """Resident memory of a server that holds all of it (bytes)."""
    found = float(SERVER_BASE_BYTES)
    for share in shares(work):
        each = DELTA_MEMORY_BYTES if share.kind == "delta events" else EVENT_MEMORY_BYTES
        found += share.messages * (DOCUMENT_MEMORY_BYTES if share.kind == "last documents" else each)
    return found
