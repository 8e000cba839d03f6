"""What is queued, for whoever asks this replica: from its own index while it schedules, else from the scheduler's.

One index in the fleet costs every job once; one in each replica would cost it, and its bytes, in each.
"""

import heapq
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice

from sidecar.cluster import messages
from sidecar.cluster.leader import Leader
from sidecar.cluster.service import Cluster
from sidecar.errors import BusUnavailable, NotReady
from sidecar.models.replica import QueueAnswer, QueuedJob, QueueQuestion
from sidecar.models.subjects import is_name
from sidecar.ports.bus import Lane, RequestHead
from sidecar.ports.cluster import ClusterBus, QueuePage
from sidecar.request_handler.job_index import Indexed, fingerprint
from sidecar.request_handler.stored_requests import RETRY_AFTER_S, job_of_bell

ANSWER_S = 4.0
MOST_QUESTIONS = 64
_NOBODY_SERVES = 503
# How many entries one page looks at, where a filter passes over most of them.
_LOOKED_AT = 20_000
_NEWEST = 1 << 63
_NOT_KNOWN = "the queue's state is not known yet: ask again"


class QueueDesk:
    """`JobQueue` over the scheduler's index. `leader` is this replica's term, None while another one schedules."""

    def __init__(self, *, leader: Callable[[], Leader | None], cluster: Cluster, bus: ClusterBus) -> None:
        self._leader = leader
        self._cluster = cluster
        self._bus = bus

    async def start(self) -> None:
        """Answer other replicas."""
        await self._bus.serve_later(messages.questions_to(self._cluster.own), self._reply, most=MOST_QUESTIONS)

    async def find(self, tenant: str, job: str) -> QueuedJob | None:
        answer = await self._asked(QueueQuestion(tenant=tenant, job=job))
        if answer is None:
            raise NotReady(
                "the replica that schedules is of a release that does not know its queue: ask again",
                retry_after=RETRY_AFTER_S,
            )
        return answer.jobs[0] if answer.jobs else None

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
        question = QueueQuestion(
            tenant=tenant,
            job_class=job_class,
            before=before or 0,
            limit=limit,
            is_held=is_held,
            metadata=dict(metadata),
        )
        answer = await self._asked(question)
        return None if answer is None else QueuePage(answer.jobs, answer.next, answer.unread)

    async def _asked(self, question: QueueQuestion) -> QueueAnswer | None:
        """None where a release that does not answer schedules. Raises NotReady, BusUnavailable."""
        scheduler = self._cluster.scheduler
        if scheduler is None:
            raise NotReady("no replica schedules at this moment: ask again", retry_after=RETRY_AFTER_S)
        if scheduler == self._cluster.own:
            return await self._answer(question)
        try:
            payload = await self._bus.request(
                messages.questions_to(scheduler), messages.encode(question), timeout_s=ANSWER_S
            )
        except BusUnavailable as e:
            if e.details.get("status") == _NOBODY_SERVES:
                return None
            raise NotReady(_NOT_KNOWN, retry_after=RETRY_AFTER_S) from e
        answer = messages.decode(payload, QueueAnswer)
        if answer is None or not answer.is_ready:
            raise NotReady(_NOT_KNOWN, retry_after=RETRY_AFTER_S)
        return answer

    async def _reply(self, payload: bytes) -> bytes:
        question = messages.decode(payload, QueueQuestion)
        try:
            answer = QueueAnswer(is_ready=False) if question is None else await self._answer(question)
        except NotReady:
            answer = QueueAnswer(is_ready=False)
        return messages.encode(answer)

    async def _answer(self, question: QueueQuestion) -> QueueAnswer:
        leader = self._leader()
        if leader is None:
            raise NotReady(_NOT_KNOWN, retry_after=RETRY_AFTER_S)
        tell: Awaitable[QueueAnswer]
        if question.tenant is not None and question.job is not None:
            tell = _find(leader, question.tenant, question.job)
        else:
            tell = _page(leader, question)
        answer = await tell
        if not leader.is_open:
            # Its term ended meanwhile: what it knew may not hold any more.
            raise NotReady(_NOT_KNOWN, retry_after=RETRY_AFTER_S)
        return answer


async def _find(leader: Leader, tenant: str, job: str) -> QueueAnswer:
    stored = await leader.stored.find(tenant, job)
    if stored is None:
        return QueueAnswer()
    ahead = leader.queue.places.ahead(stored.seq, stored.lane)
    found = QueuedJob(
        seq=stored.seq,
        tenant=tenant,
        job_class=stored.lane.job_class,
        job=job,
        stored_at=stored.stored_at,
        ahead=ahead,
        estimate_ms=leader.queue.places.estimate_ms(ahead, stored.lane),
    )
    return QueueAnswer(jobs=(found,))


async def _page(leader: Leader, question: QueueQuestion) -> QueueAnswer:
    await leader.stored.catch_up()
    index = leader.stored.index
    before, limit = question.before or _NEWEST, max(1, question.limit)
    lanes = [lane for lane in index.lanes if _is_asked(lane, question)]
    held = [Indexed(ticket.seq, ticket.lane) for ticket in leader.held if _is_asked(ticket.lane, question)]
    if question.is_held:
        candidates = iter(sorted((entry for entry in held if entry.seq < before), reverse=True))
    else:
        candidates = _newest(leader, lanes, before)
    wanted = fingerprint(question.metadata)
    entries: list[Indexed] = []
    following: int | None = None
    for number, entry in enumerate(candidates):
        if len(entries) == limit or number == _LOOKED_AT:
            following = entry.seq + 1
            break
        # Of jobs in workers' hands the documents tell.
        if not question.metadata or question.is_held or index.may_fit(entry.seq, entry.lane, wanted):
            entries.append(entry)
    unread = sum(map(index.unread, lanes)) - sum(not index.is_read(*entry) for entry in held)
    heads = await leader.stored.heads_of(entries)
    stored = leader.stored
    jobs = [
        _job_of(head)
        for head in heads
        if not await stored.is_second(head.bell.seq, head.bell.lane.tenant, job_of_bell(head.bell))
    ]
    return QueueAnswer(jobs=tuple(jobs), next=following, unread=unread)


def _is_asked(lane: Lane, question: QueueQuestion) -> bool:
    # What has no name of a tenant can be asked for by nobody; it is refused when its turn comes.
    if not (is_name(lane.tenant) and is_name(lane.job_class)):
        return False
    return question.tenant in (None, lane.tenant) and question.job_class in (None, lane.job_class)


def _newest(leader: Leader, lanes: list[Lane], before: int) -> Iterator[Indexed]:
    """All requests of these lanes below `before`, highest sequence first."""
    index = leader.stored.index

    def of(lane: Lane) -> Iterator[Indexed]:
        return (Indexed(seq, lane) for seq in index.before(before, lane))

    return islice(heapq.merge(*map(of, lanes), reverse=True), _LOOKED_AT + 1)


def _job_of(head: RequestHead) -> QueuedJob:
    lane = head.bell.lane
    return QueuedJob(
        seq=head.bell.seq,
        tenant=lane.tenant,
        job_class=lane.job_class,
        job=job_of_bell(head.bell),
        stored_at=head.stored_at,
    )
