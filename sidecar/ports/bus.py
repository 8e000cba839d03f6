"""What the parts ask of the world outside. Adapters implement these.

Every method may raise `BusUnavailable` (away or silent: try again) or `BusRefused` (will not work as it is);
other errors are named where they can occur. All methods survive cancellation at each await: what was sent may
have happened, nothing is left half open. What replicas need of each other stands in
`ports.cluster`, what tools need in `ports.tools`, what answers requests in `ports.endpoints`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from sidecar.errors import HoldCause, SidecarError
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.event import Event
from sidecar.models.filtering import GuardrailVerdict
from sidecar.models.job import JobState
from sidecar.models.objects import ObjectInfo
from sidecar.ports.endpoints import STREAM_READ_SEATS as STREAM_READ_SEATS
from sidecar.ports.endpoints import Answer as Answer
from sidecar.ports.endpoints import AnswerMany as AnswerMany
from sidecar.ports.endpoints import Endpoint as Endpoint
from sidecar.ports.endpoints import Endpoints as Endpoints
from sidecar.ports.endpoints import Parked as Parked
from sidecar.ports.endpoints import Query as Query
from sidecar.ports.endpoints import Reply as Reply
from sidecar.ports.prompts import PromptStore as PromptStore
from sidecar.ports.prompts import StoredPrompt as StoredPrompt
from sidecar.ports.prompts import StoredPrompts as StoredPrompts
from sidecar.runtime.clock import Cancellable as Cancellable
from sidecar.runtime.clock import Clock as Clock


class Lane(NamedTuple):
    """A queue: the last two tokens of a request's subject. Both as they came, not yet checked."""

    tenant: str
    job_class: str


class Doorbell(NamedTuple):
    """Sign that a request was stored. A hint: may be lost, come twice, or come late.

    `job_id` and `deadline` are the headers' values as they came.
    """

    seq: int
    lane: Lane
    size: int
    job_id: str | None
    deadline: str | None = None


class RequestHead(NamedTuple):
    """A stored request without its payload. `stored_at` is the server's time, seconds since 1970."""

    bell: Doorbell
    stored_at: float


class StoredRequest(NamedTuple):
    """A request as the stream holds it. `stored_at` is the server's time, seconds since 1970."""

    seq: int
    lane: Lane
    payload: bytes
    headers: Mapping[str, str]
    stored_at: float


class LaneCounts(NamedTuple):
    """The truth about what waits: messages a lane, and the stream's last sequence when it was read."""

    counts: Mapping[Lane, int]
    last_seq: int


class Intake(Protocol):
    """The durable queue of requests: stream `LLM_REQ`."""

    async def listen(self, on_doorbell: Callable[[Doorbell], None]) -> None:
        """Call `on_doorbell` for each request stored from now on, until the connection is closed."""
        ...

    async def backlog(self) -> LaneCounts: ...

    async def last_seq(self) -> int: ...

    async def read(self, lane: Lane, *, after_seq: int, limit: int) -> Sequence[StoredRequest]:
        """Up to `limit` requests of a lane with a sequence above `after_seq`, oldest first."""
        ...

    def heads(
        self, *, first: int, last: int, tenant: str | None = None, job_class: str | None = None
    ) -> AsyncGenerator[Sequence[RequestHead], None]:
        """Requests with a sequence in [first, last] without their payloads, in stored order, some hundred at a
        time: of all tenants and classes, or of one. Close it (`contextlib.aclosing`) to leave off.
        """
        ...

    async def get(self, seq: int) -> StoredRequest | None:
        """One request; None when it is not there any more. Reads what was just written, also at R3."""
        ...

    async def delete(self, seq: int) -> None:
        """Remove a request for good. No error when it is gone already."""
        ...

    async def submit(self, lane: Lane, payload: bytes, headers: Mapping[str, str]) -> int:
        """Publish a request as a client would. Returns its sequence.

        Raises BusRefused with code `queue_full` or `payload_too_large`.
        """
        ...


class StoredState(NamedTuple):
    """A state document and its revision (the stream sequence it was stored at)."""

    state: JobState
    revision: int


class PlacedJob(NamedTuple):
    """A job's document and its place among all: a sequence that stays what it is while the job moves on."""

    place: int
    state: JobState


class PlacedJobs(NamedTuple):
    """`before` goes on with older jobs; None where there are none. `top` is the last sequence when it was read."""

    jobs: tuple[PlacedJob, ...]
    before: int | None
    top: int


class Standing(NamedTuple):
    """What stands at a job's key. `state` is None for whatever is no document of the job: nothing, the mark of a
    deletion, anybody's bytes. `revision` is what a write has to replace; 0 where the key is empty.
    """

    state: JobState | None
    revision: int


class JobStore(Protocol):
    """State documents, and the marks of cancellation that lie beside them.

    Others may write, delete and purge what lies here: what is no document of the job, or no mark, counts as none.
    """

    async def get(self, tenant: str, job: str) -> StoredState | None:
        """Reads what was just written, also at R3."""
        ...

    async def look(self, tenant: str, job: str) -> Standing:
        """The same, for whoever is going to write over what stands there."""
        ...

    async def keeps_s(self) -> float | None:
        """How long documents, marks and events are kept (s) after they were written; None: for good."""
        ...

    async def create(self, state: JobState) -> int:
        """Write a job's first document. Returns its revision. Raises Conflict when the job exists."""
        ...

    async def update(self, state: JobState, *, revision: int) -> int:
        """Write over exactly `revision`. Returns the new one. Raises Conflict when somebody else wrote."""
        ...

    async def placed(
        self,
        tenant: str | None,
        *,
        matches: Callable[[JobState], bool],
        limit: int,
        before: int | None = None,
        after: int = 0,
        since: float | None = None,
    ) -> PlacedJobs:
        """Jobs of a tenant, or of all, by the places of their documents, which lie in (`after`, `before`), newest
        first. `matches` is given documents with their results; `since` (s since 1970): no older jobs are wanted.
        """
        ...

    async def last_of(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredState]:
        """The last documents of these jobs, (tenant, job), that have one; a follower may answer, moments late."""
        ...

    async def history(self, tenant: str, job: str) -> Sequence[StoredState]:
        """Every document of a job that is still there, oldest first. For looking back, not for deciding."""
        ...

    async def mark_cancelled(self, tenant: str, job: str, *, reason: str | None = None) -> None:
        """Leave the mark of a cancellation. Idempotent; also for a job not seen yet."""
        ...

    async def is_cancelled(self, tenant: str, job: str) -> bool: ...

    def marks(self) -> AsyncIterator[tuple[str, str]]:
        """All marks of cancellation that are kept, as (tenant, job)."""
        ...

    async def listen_cancelled(
        self, on_mark: Callable[[str, str], None], on_gap: Callable[[], None] = lambda: None
    ) -> None:
        """Call `on_mark(tenant, job)` for each mark left from now on, by any replica; a hint, like doorbells.

        `on_gap` is called when marks may have passed unheard: the bus was away, and is back.
        """
        ...


class StoredEvent(NamedTuple):
    type: str
    payload: bytes


class Publisher(Protocol):
    """Events of jobs, stored first and then republished to clients."""

    async def publish(self, event: Event, *, fence: int) -> None:
        """Store an event if the job's state document is still at revision `fence`.

        At most one call a job may be under way at a time. Raises Conflict when the job was lost. After
        BusUnavailable the same event may be published again: readers go by `n`.
        """
        ...

    async def publish_result(self, event: Event, *, job_class: str | None = None) -> bool:
        """Store the one `result` event of a job. False when there is one already; what is none is written over.

        `job_class` stands beside it, for who sums up what jobs took.
        """
        ...

    def replay(self, tenant: str, job: str) -> AsyncIterator[StoredEvent]:
        """All stored events of a job in the order they were stored."""
        ...

    async def wait_result(self, tenant: str, job: str) -> "ResultWaiter":
        """Start to listen for a job's result event; close the waiter when done."""
        ...


class JournalStore(Protocol):
    """Steps of jobs with tools: beside the job's state document, in the same stream, fenced by its revision."""

    async def append(self, tenant: str, job: str, step: bytes, *, fence: int, keep_s: int) -> None:
        """Store a step if the job's state document is still at revision `fence`; for `keep_s` seconds at most.

        Counts as one of the job's events: at most one call a job may be under way at a time, over both. Raises
        Conflict when the job was lost, BusRefused (`payload_too_large`). After BusUnavailable the same step may
        be appended again: readers go by its number.
        """
        ...

    async def read(self, tenant: str, job: str) -> Sequence[bytes]:
        """All steps in the order they were stored; what was just written too, also at R3."""
        ...

    async def purge(self, tenant: str, job: str) -> None:
        """Forget a job's steps. No error when there are none."""
        ...


class ResultWaiter(Protocol):
    async def payload(self) -> bytes:
        """The result event, encoded as it was published. What is heard and is none is passed over.

        Raises what `fail` was given.
        """
        ...

    def fail(self, error: SidecarError) -> None:
        """Wait no longer, where no result was heard yet."""
        ...

    async def close(self) -> None: ...


class ModelClient(Protocol):
    """Calls models. Raises the typed errors of `sidecar.errors`; an incomplete answer is always an error.

    Cancelling a call closes its connection at once.
    """

    async def converse(self, call: ModelCall) -> ModelReply: ...

    def stream(self, call: ModelCall) -> AsyncIterator[ModelDelta | ModelReply]:
        """Deltas as they come, then the whole reply as the last item."""
        ...

    async def apply_guardrail(
        self,
        guardrail: str,
        *,
        version: str,
        text: str,
        source: Literal["INPUT", "OUTPUT"],
        region: str,
        timeout_s: float,
    ) -> GuardrailVerdict:
        """What a guardrail says of a text, without a model."""
        ...

    async def look(self, cause: HoldCause, *, region: str | None) -> bool | None:
        """Whether what stood in the way of calls is gone, told without a call; None where it cannot be told."""

    async def close(self) -> None: ...


class DeadLetter(NamedTuple):
    """The request of a failed job, as it came, with what is known of its end.

    `seq` is its place among the dead letters, `request.seq` the one it had in the queue; `history` is JSON-able,
    one entry an attempt; `error` is the code of its end. With `retried_as` it was run again under that id, and its
    payload is gone.
    """

    seq: int
    job: str
    request: StoredRequest
    reason: str
    history: Sequence[Mapping[str, Any]]
    buried_at: float
    error: str = "crash_loop"
    retried_as: str | None = None


class DeadLetters(Protocol):
    """Requests of jobs that failed: stream `LLM_DEAD`, from which they can be run again."""

    async def put(
        self,
        job: str,
        request: StoredRequest,
        *,
        reason: str,
        history: Sequence[Mapping[str, Any]] = (),
        error: str = "crash_loop",
        keep_s: int | None = None,
    ) -> int:
        """Keep a request. Returns its place. Putting the same request again (a retry) changes nothing.

        With `keep_s` it goes by itself after so many seconds, and has its room only as long as it takes none of
        those that are kept without: BusRefused (`queue_full`) where there is none left for it.

        Raises BusRefused with code `payload_too_large` when the request alone is too large; a history that does
        not fit beside it is shortened to its last entries.
        """
        ...

    async def list(
        self, tenant: str | None = None, *, after_seq: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """Dead letters of a tenant, or of all, oldest first, above a place; without those that were run again."""
        ...

    async def get(self, tenant: str, job: str) -> DeadLetter | None:
        """The last dead letter of a job."""
        ...

    async def last_seq(self) -> int:
        """The place of the newest dead letter."""
        ...

    async def retried(self, letter: DeadLetter, *, job: str) -> None:
        """Leave, in place of a letter, under which id it was run again; for a day. Repeatable."""
        ...

    async def purge(self, tenant: str, job: str) -> None:
        """Forget a job's dead letters. No error when there are none."""
        ...


class SpendLedger(Protocol):
    """What tenants have spent: a counter for each tenant and UTC day, in millionths of a US dollar.

    Counters are shared by all replicas, outlive them, and are kept for a few days.
    """

    async def add(self, tenant: str, day: int, micro_usd: int, *, call_id: str) -> int:
        """Count a call. `day` is in days since 1970. Returns the day's new total.

        The same `call_id` counts once (within ten minutes), so that a retry is safe; its total is still returned.
        """
        ...

    async def total(self, tenant: str, day: int) -> int:
        """What was counted so far, reading what was just written, also at R3."""
        ...


class Blobs(Protocol):
    """Objects too large for a message: one bucket a tenant, `LLM_BLOB_<tenant>`, made when it is first written.

    Content ages with `retention.objects_s`. Any client of the NATS Object Store may use the same buckets, so what
    is read is checked: a digest that does not fit, a link to elsewhere or a description that is none raises
    Permanent (`invalid_request`).
    """

    @property
    def largest_piece(self) -> int:
        """Bytes that fit one message of this bus, headers and names beside them."""
        ...

    async def put(self, tenant: str, name: str, data: bytes) -> ObjectInfo:
        """Store an object whole, over an older one of the name. Raises BusRefused (`payload_too_large`) when the
        bucket has no room for it.
        """
        ...

    async def append(self, tenant: str, upload: str, *, part: int, data: bytes) -> None:
        """Store one piece of an upload, after those before it. Repeating a piece (a retry) changes nothing."""
        ...

    async def finish(
        self, tenant: str, name: str, *, upload: str, parts: int, size: int, sha256: str
    ) -> ObjectInfo:
        """Make an upload the object of this name. Raises Conflict when not exactly `parts` pieces are there."""
        ...

    async def info(self, tenant: str, name: str) -> ObjectInfo | None: ...

    async def get(self, tenant: str, name: str, *, max_bytes: int) -> bytes | None:
        """An object's content; None when there is none. More than `max_bytes` raises `payload_too_large`."""
        ...

    def read(self, tenant: str, name: str) -> AsyncIterator[bytes]:
        """The pieces of an object. Raises Permanent (`not_found`); checks the digest behind the last piece."""
        ...

    async def delete(self, tenant: str, name: str) -> None:
        """Remove an object. No error when there is none."""
        ...
