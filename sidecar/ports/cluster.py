"""What replicas need of the bus to work as one, by one policy. The rules of `sidecar.ports.bus` hold."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from sidecar.models.pauses import Pause
from sidecar.models.replica import QueuedJob
from sidecar.models.spend import SpendCursor, SpendDay


class LeaseStore(Protocol):
    """Leases that end by themselves: who holds one may act, and must stop in time when it cannot renew.

    A lease lives `ttl_s` whole seconds, and up to a second longer, from the moment that the server stored it. A
    holder counts from the moment it sent what was confirmed, so that it stops before a rival can begin. `holder`
    names one process, not one host: the same name is never used by two.

    What somebody else than a holder wrote in a lease's place is no lease, and nobody waits for its end.
    """

    async def acquire(
        self,
        name: str,
        holder: str,
        *,
        ttl_s: int,
        foreign_s: float = 0.0,
        is_own: Callable[[str], bool] = lambda found: False,
    ) -> int | None:
        """Take a free lease. Returns its revision, or None when another holds it.

        One whose holder `is_own`, a predecessor that is certainly gone, is taken over without waiting for its end.

        A lease that `holder` holds already (its answer had been lost) is renewed. What is no lease is written over
        once it has lain there for `foreign_s` seconds of the server's time, or no lease was seen for as long: he
        whose lease it was written over may go on believing in it meanwhile.
        """
        ...

    async def renew(self, name: str, holder: str, *, revision: int, ttl_s: int) -> int:
        """Hold on. Returns the new revision. Raises Conflict when the lease has ended or changed hands.

        What a stranger wrote over the lease is written over in turn: with that it has not changed hands.
        After BusUnavailable the renewal may have happened: go on with `acquire`, which finds that out.
        """
        ...

    async def release(self, name: str, *, revision: int) -> None:
        """Give up the lease of this revision. No error when it was lost before."""
        ...

    async def holder(self, name: str) -> str | None:
        """Who holds the lease now."""
        ...


class Checkpoints(Protocol):
    """Small documents that a new scheduler starts from, such as levels of quota buckets. The last write wins."""

    async def save(self, name: str, payload: bytes) -> None:
        """Raises BusRefused with code `payload_too_large` above the server's message limit."""
        ...

    async def load(self, name: str) -> bytes | None:
        """What was saved last, also at R3; None when nothing was."""
        ...


class StoredPauses(NamedTuple):
    pauses: tuple[Pause, ...]
    revision: int


class PauseStore(Protocol):
    """What operators hold back, kept over restarts."""

    async def load(self) -> StoredPauses:
        """All pauses, as they were just written."""
        ...

    async def save(self, pauses: tuple[Pause, ...], *, revision: int) -> int:
        """Replace exactly `revision`. Returns the new one. Raises Conflict when somebody else wrote."""
        ...


class StoredSpendCursor(NamedTuple):
    """`cursor` is None where none is kept; `revision` is what a claim has to replace."""

    cursor: SpendCursor | None
    revision: int


class JobsStream(NamedTuple):
    """The stream of jobs as it is now. `created`: when it was made, in seconds since 1970."""

    last_seq: int
    created: float


class StoredEnd(NamedTuple):
    """A job's result event as it is stored. `job_class` is None where its writer did not say it."""

    seq: int
    tenant: str
    job: str
    job_class: str | None
    payload: bytes


class StoredDocument(NamedTuple):
    """A job's state document as it is stored."""

    seq: int
    tenant: str
    job: str
    payload: bytes


class SpendDays(Protocol):
    """Sums of what jobs took, a document for each tenant and day, and what they are summed up from.

    One replica writes: whoever claimed the cursor last. Every write of others is refused (Conflict).
    """

    async def cursor(self) -> StoredSpendCursor: ...

    async def claim(self, cursor: SpendCursor, *, revision: int) -> int:
        """Write the cursor over `revision`. Returns the new one. Raises Conflict when somebody else wrote."""
        ...

    async def day(self, tenant: str, day: str) -> SpendDay | None:
        """A tenant's day, as it was just written."""
        ...

    async def put(self, day: SpendDay, *, fence: int) -> None:
        """Store a day if the cursor is still at revision `fence`. Raises Conflict. One call at a time."""
        ...

    def days(self, tenant: str | None, *, first: str, last: str) -> AsyncIterator[SpendDay]:
        """The days of a tenant, or of all, both ends included."""
        ...

    async def jobs(self) -> JobsStream: ...

    async def ends(self, *, after_seq: int, limit: int) -> tuple[Sequence[StoredEnd], bool]:
        """Result events above a sequence, in stored order, and whether there are more."""
        ...

    async def has_ends(self, *, after_seq: int, up_to: int) -> bool:
        """Whether there are result events in between, as the stream's leader knows."""
        ...

    async def ended_at(self, jobs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """The sequences of the result events that are there, of some hundred jobs."""
        ...

    async def documents_of(self, jobs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        """The last state documents of some hundred jobs."""
        ...

    def documents(self, *, after_seq: int, up_to: int) -> AsyncIterator[StoredDocument]:
        """State documents of replicas, in stored order; of a job there may be several."""
        ...


class ClusterBus(Protocol):
    """Small messages between replicas, below `<prefix>.v1.sys.`; nothing of it is stored.

    `topic` is one or more subject tokens. What is published or asked may be lost, doubled or late.
    """

    def publish(self, topic: str, payload: bytes) -> None:
        """Tell everybody who listens to `topic`, this replica included."""
        ...

    async def subscribe(self, topic: str, hear: Callable[[bytes], None]) -> None:
        """Call `hear` for each message on `topic` from now on, in order; it must not block."""
        ...

    async def serve(self, topic: str, answer: Callable[[bytes], bytes]) -> None:
        """Answer the requests on `topic`, at once: `answer` must not block."""
        ...

    async def serve_later(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]], *, most: int) -> None:
        """Answer the requests on `topic` when the answer is there, `most` at a time: more are not answered."""
        ...

    async def request(self, topic: str, payload: bytes, *, timeout_s: float) -> bytes:
        """The reply of whoever serves `topic`. BusUnavailable has `details["status"] == 503` when nobody does."""
        ...

    async def close(self) -> None:
        """Listen and answer no more."""
        ...


class StoredPolicy(NamedTuple):
    """What operators say on the bus: `document` is None for no policy.

    `word` tells how that is known: `said` by a document or by its removal; `absent`: nothing is there; `overrun`:
    whatever was said, strangers have written over it as often as the bucket keeps revisions.
    """

    document: bytes | None
    word: Literal["said", "absent", "overrun"]


class PolicyStore(Protocol):
    """The policy that operators put on the bus, over the file's: key `policy` of the KV bucket `LLM_CONFIG`.

    Beside it lies the policy that was accepted last, as a replica wrote it: no operator's word, and where no
    stranger can aim.
    """

    async def load(self) -> StoredPolicy:
        """The document as it is now, TOML or JSON. What strangers wrote over it is taken away."""
        ...

    async def save(self, document: bytes | None) -> None:
        """Replace the document; None takes it away."""
        ...

    async def put_back(self, document: bytes | None) -> None:
        """The same for a place where operators have said nothing since. Raises Conflict when they have."""
        ...

    async def load_good(self) -> StoredPolicy | None:
        """What was accepted last; None when nothing is kept."""
        ...

    async def keep_good(self, document: bytes | None) -> None:
        """Keep what was accepted now, in place of what was kept."""
        ...

    async def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` when the document may have changed, from now on. A hint: it may be lost."""
        ...


class QueuePage(NamedTuple):
    """Requests, newest first. `before` asks for those below; None on the last page.

    `unread` is how many payloads of what was asked about nobody has read yet.
    """

    jobs: tuple[QueuedJob, ...]
    before: int | None = None
    unread: int = 0


class JobQueue(Protocol):
    """Every stored request, as the scheduler knows it; any replica may be asked."""

    async def find(self, tenant: str, job: str) -> QueuedJob | None:
        """The stored request of a job; None when there is certainly none. Raises NotReady, BusUnavailable."""
        ...

    async def page(
        self,
        *,
        tenant: str | None = None,
        job_class: str | None = None,
        before: int | None = None,
        limit: int = 100,
        is_held: bool = False,
        metadata: Mapping[str, str | int | float | bool | None] = {},
    ) -> QueuePage | None:
        """Stored requests below sequence `before`, newest first, queued or in a worker's hands; only the latter
        with `is_held`. With `metadata` those that were read and may hold it.

        None where the scheduler is of a release that does not know. Raises NotReady, BusUnavailable.
        """
        ...
