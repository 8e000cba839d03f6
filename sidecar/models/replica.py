"""What replicas say to each other on `<prefix>.v1.sys.>`: internal, but read by the next and the last version.

Unknown fields are ignored and new ones have defaults, so that replicas one minor version apart work side by side.
Every message may be lost, doubled, late or out of order; heartbeats repeat whatever matters.
"""

from typing import Literal

import msgspec

from sidecar.models.job import JobState
from sidecar.models.result import ErrorInfo, Usage

PROTOCOL = 1
OLDEST_PROTOCOL = 1

OutcomeKind = Literal["ended", "returned", "taken", "unreadable"]
OpKind = Literal["undo", "ask", "throttled", "used", "finish"]


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of these messages: open for unknown fields, small on the wire."""


class LaterPool(Wire, frozen=True):
    """A pool that may take a call in `after_s` seconds; `rank` is its place in the order of preference."""

    pool: str
    after_s: float
    rank: int = 0


class NextCallRequest(Wire, frozen=True):
    """The next model call of a running job, as asked for by its operation `number`.

    One wait over all of `pools`, and over those of `later` from their time on (0.1.0 passes these over).
    """

    number: int
    pools: tuple[str, ...]
    input_tokens: int
    max_tokens: int
    later: tuple[LaterPool, ...] = ()


class Outcome(Wire, frozen=True):
    """How a granted job left its worker.

    `ended`: nothing is left to do. `returned`: handed back, anybody may take it. `taken`: `owner` had claimed it
    as `attempt`. `unreadable`: this worker's version cannot read the request. `held` is why a returned job had
    nothing left to call, with the provider's wish for a pause where it gave one.
    """

    kind: OutcomeKind = "ended"
    attempt: int = 0
    owner: str | None = None
    held: str = ""
    retry_after_s: float | None = None


ENDED = Outcome()


class Trouble(Wire, frozen=True):
    """What is in the way of a replica's calls: of all (scope ""), of a region's ("@region"), or of a quota pool's.

    `since` is in seconds since 1970. `is_mended`: a look without a call says that it is over; a call will tell.
    """

    cause: str
    scope: str = ""
    since: float = 0.0
    is_mended: bool = False
    retry_after_s: float | None = None


class HeldJob(Wire, frozen=True):
    """A job in a worker's hands. `attempt` is 0 before the claim; `number` counts the job's operations so far.

    `is_open`: the debit of its last call is open. `holds_slot`: it is not resting. `wish`: the call it waits for.
    """

    seq: int
    tenant: str
    job_class: str
    job: str
    pool: str
    pools: tuple[str, ...]
    input_tokens: int
    max_tokens: int
    stored_at: float
    deadline: float | None = None
    attempt: int = 0
    number: int = 0
    is_open: bool = True
    holds_slot: bool = True
    wish: NextCallRequest | None = None


class Heartbeat(Wire, frozen=True):
    """A replica's sign of life, once a second. `n` counts them; one too large for a message comes in `parts`.

    `member` names the process (`name` may be used again by its successor). `term` is above 0 for the scheduler.
    `clock_offset_s`: how far its machine's clock is ahead of the NATS server's; None where that is not known, as
    with replicas that do not tell. `troubles`: what is in the way of its calls; None from those that do not tell;
    `held`: why jobs are held, said by the scheduler.
    """

    member: str
    name: str
    n: int
    slots: int
    version: str = ""
    protocol: int = 1
    oldest: int = 1
    is_draining: bool = False
    is_leaving: bool = False
    term: int = 0
    clock_offset_s: float | None = None
    troubles: tuple[Trouble, ...] | None = None
    held: tuple[str, ...] = ()
    part: int = 1
    parts: int = 1
    jobs: tuple[HeldJob, ...] = ()


class Rollcall(Wire, frozen=True):
    """A new scheduler asks everybody for a heartbeat at once."""

    member: str
    term: int


class GrantOffer(Wire, frozen=True):
    """A grant on its way to a worker. `attempt`: the job's last attempt that the scheduler knows of.

    `known` and `revision` are the job's document, where the scheduler has written one. `can_hold`: a job with
    nothing left to call may be handed back to this scheduler, to be held.
    """

    leader: str
    term: int
    seq: int
    tenant: str
    job_class: str
    job: str
    pool: str
    pools: tuple[str, ...]
    input_tokens: int
    max_tokens: int
    stored_at: float
    deadline: float | None = None
    attempt: int = 0
    known: JobState | None = None
    revision: int = 0
    can_hold: bool = False


class GrantReply(Wire, frozen=True):
    """`beat` is the number of the worker's last heartbeat before it took the job."""

    is_taken: bool
    reason: str = ""
    beat: int = 0


class ReservationOp(Wire, frozen=True):
    """Something that a running job tells the scheduler; which fields count depends on `kind`.

    `number` counts from 1 within a job's grant: one that is not above the last is a repetition.
    `limit` is what a refusal named: tokens, requests or concurrency; None where nothing, or nothing known here.
    """

    seq: int
    number: int
    kind: OpKind
    keeps_slot: bool = False
    wish: NextCallRequest | None = None
    throttle: Literal["quota", "region", "daily", "not_ready"] | None = None
    retry_after: float | None = None
    limit: str | None = None
    usage: Usage | None = None
    seconds: float = 0.0
    outcome: Outcome | None = None


class Ops(Wire, frozen=True):
    """Operations of one worker, in order. The reply says that they were taken."""

    member: str
    ops: tuple[ReservationOp, ...]


class OpsReply(Wire, frozen=True):
    is_leader: bool


class NextCallGrant(Wire, frozen=True):
    """The scheduler's answer to a wish: the pool, or why there is none.

    With neither it is a word in between: what the job waits for, and how long still where that is known.
    """

    seq: int
    number: int
    pool: str | None = None
    error: ErrorInfo | None = None
    waiting_for: Literal["quota", "tenant", "slot"] | None = None
    estimate_s: float | None = None


class OwnershipDoubt(Wire, frozen=True):
    """The scheduler believes that the job is another's: look at its document."""

    tenant: str
    job: str


class QueueQuestion(Wire, frozen=True):
    """What a replica asks the scheduler about what is queued (0.1.0 does not answer).

    With `job` the one request of that job. Without it requests below sequence `before`, newest first, of a tenant
    and class or of all; `is_held`: only those in a worker's hands. `metadata`: those that were read and may fit.
    """

    tenant: str | None = None
    job: str | None = None
    job_class: str | None = None
    before: int = 0
    limit: int = 100
    is_held: bool = False
    metadata: dict[str, str | int | float | bool | None] = {}


class QueuedJob(Wire, frozen=True):
    """A stored request: the job it is of, and its place. `ahead` counts the queued jobs of its lane before it."""

    seq: int
    tenant: str
    job_class: str
    job: str
    stored_at: float
    ahead: int | None = None
    estimate_ms: int | None = None


class QueueAnswer(Wire, frozen=True):
    """`next` asks for the requests below; None on the last page. `unread`: payloads that nobody has read yet.

    `is_ready` is False while the scheduler does not know all of the queue, or the one asked does not schedule.
    """

    is_ready: bool = True
    jobs: tuple[QueuedJob, ...] = ()
    next: int | None = None
    unread: int = 0
