"""Pages of jobs, newest first, from two lists: the documents, and the requests of which there is no document yet.

The two are merged by the order of their requests. A page's cursor holds where each was left, and up to which place
documents had been written: what was queued then and has got its document since is told on the next page, unless it
was told before. So no job is repeated or skipped, however jobs move on meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sidecar.endpoints.views import listed, queued_view
from sidecar.errors import InvalidRequest
from sidecar.models.api import JobsPage
from sidecar.models.job import TERMINAL, JobState, JobView
from sidecar.models.job_filter import JobFilter
from sidecar.models.replica import QueuedJob
from sidecar.ports.bus import JobStore, PlacedJob, PlacedJobs, StoredState
from sidecar.ports.cluster import JobQueue, QueuePage

# How many pages of the queue one call looks at, where a filter passes over most of them.
_ROUNDS = 8
# Jobs that got their documents between two pages.
_MOST_MOVED = 5_000
_FIRST = 1 << 62


class _Cursor(NamedTuple):
    """Where a page was left: documents at places below `place`, and those written above `top`; requests below
    `seq`. 0 for a list that has come to its end.
    """

    place: int
    top: int
    seq: int

    def __str__(self) -> str:
        return f"m{self.place}.{self.top}.{self.seq}"


class JobListing:
    """Lists what documents and the queue know of jobs. Raises NotReady while the queue is not known."""

    def __init__(self, store: JobStore, queue: JobQueue) -> None:
        self._store = store
        self._queue = queue

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> JobsPage:
        """Raises InvalidRequest for a cursor that is none."""
        # A number alone is a place among the documents, as 0.1.0 has it.
        if wanted.state in TERMINAL or wanted.error is not None or (cursor is not None and cursor.isdecimal()):
            return await self._documents(wanted, limit, None if cursor is None else _number(cursor))
        if wanted.state is not None:
            seq = _number(cursor.removeprefix("q")) if cursor is not None else _FIRST
            return await self._live(wanted, limit, seq)
        return await self._merged(wanted, limit, _cursor_of(cursor) if cursor is not None else None)

    async def _documents(self, wanted: JobFilter, limit: int, before: int | None) -> JobsPage:
        found = await self._store.placed(
            wanted.tenant, matches=wanted.matches, limit=limit, before=before, since=_since(wanted)
        )
        cursor = None if found.before is None else str(found.before)
        return JobsPage(jobs=tuple(listed(job.state) for job in found.jobs), cursor=cursor)

    async def _live(self, wanted: JobFilter, limit: int, before: int) -> JobsPage:
        """Jobs that have not ended: the request of each still stands."""
        jobs: list[JobView] = []
        unread = 0
        following: int | None = before
        for _ in range(_ROUNDS):
            page = await self._queue.page(
                tenant=wanted.tenant,
                job_class=wanted.job_class,
                before=following,
                limit=limit - len(jobs),
                is_held=wanted.state != "queued",
                metadata=wanted.metadata,
            )
            if page is None:
                return await self._documents(wanted, limit, None)
            unread, following = page.unread, page.before
            documents = await self._documents_of(page.jobs)
            jobs += _shown(page.jobs, documents, wanted)
            if _is_past(page.jobs, wanted):
                following = None
            if following is None or len(jobs) >= limit:
                break
        return JobsPage(jobs=tuple(jobs), cursor=None if following is None else f"q{following}", unread=unread)

    async def _merged(self, wanted: JobFilter, limit: int, cursor: _Cursor | None) -> JobsPage:
        before = _FIRST if cursor is None else cursor.seq
        # The queue first: what has left it when it is read has its document by then.
        page = None
        if before:
            page = await self._queue.page(
                tenant=wanted.tenant,
                job_class=wanted.job_class,
                before=before,
                limit=limit,
                metadata=wanted.metadata,
            )
            if page is None:
                return await self._documents(wanted, limit, None)
        queued = page.jobs if page is not None else ()
        moved: Sequence[PlacedJob] = ()
        top = 0
        if cursor is not None:
            moved, top = await self._moved(wanted, cursor)
            if len(moved) >= limit:
                shown = tuple(listed(job.state) for job in moved[:limit])
                return JobsPage(jobs=shown, cursor=str(cursor._replace(top=moved[limit - 1].place)))
        found = await self._older(wanted, limit - len(moved), cursor)
        if cursor is None:
            top = found.top
        merge = _Merge(wanted, limit - len(moved))
        merge.run(found.jobs, queued, await self._without_documents(queued, top))
        next_place = merge.place if merge.is_cut_places else found.before
        next_seq = merge.seq if merge.is_cut_queue else _next_of(page, wanted)
        following = _Cursor(next_place or 0, top, next_seq or 0)
        return JobsPage(
            jobs=(*(listed(job.state) for job in moved), *merge.jobs),
            cursor=str(following) if following.place or following.seq else None,
            unread=page.unread if page is not None else 0,
        )

    async def _older(self, wanted: JobFilter, limit: int, cursor: _Cursor | None) -> PlacedJobs:
        if cursor is not None and not cursor.place:
            return PlacedJobs((), None, 0)
        before = None if cursor is None else cursor.place
        return await self._store.placed(
            wanted.tenant, matches=wanted.matches, limit=limit, before=before, since=_since(wanted)
        )

    async def _moved(self, wanted: JobFilter, cursor: _Cursor) -> tuple[list[PlacedJob], int]:
        """Jobs that got their documents since the last page and were not told as queued ones, in that order."""

        def is_new(state: JobState) -> bool:
            return state.request_seq < cursor.seq and wanted.matches(state)

        found = await self._store.placed(
            wanted.tenant, matches=is_new, limit=_MOST_MOVED, after=cursor.top, since=_since(wanted)
        )
        return list(reversed(found.jobs)), found.top

    async def _documents_of(self, queued: Sequence[QueuedJob]) -> Mapping[tuple[str, str], StoredState]:
        return await self._store.last_of([(job.tenant, job.job) for job in queued]) if queued else {}

    async def _without_documents(self, queued: Sequence[QueuedJob], top: int) -> dict[int, StoredState | None]:
        """Those of these requests, by sequence, whose jobs have no document at a place up to `top`; with the one
        that was written since.
        """
        documents = await self._documents_of(queued)
        waiting: dict[int, StoredState | None] = {}
        for job in queued:
            known = documents.get((job.tenant, job.job))
            if known is not None and known.revision > top:
                earlier = await self._store.history(job.tenant, job.job)
                if earlier and earlier[0].revision <= top:
                    continue
            if known is None or known.revision > top:
                waiting[job.seq] = known
        return waiting


class _Merge:
    """Takes from two lists what is newer, up to a number of jobs; says where either was left."""

    def __init__(self, wanted: JobFilter, limit: int) -> None:
        self._wanted = wanted
        self._limit = limit
        self.jobs: list[JobView] = []
        self.place = self.seq = 0
        self.is_cut_places = self.is_cut_queue = False

    def run(
        self,
        documents: Sequence[PlacedJob],
        queued: Sequence[QueuedJob],
        waiting: Mapping[int, StoredState | None],
    ) -> None:
        at = within = 0
        while at < len(documents) or within < len(queued):
            takes_queued = within < len(queued) and (
                at == len(documents) or queued[within].seq > documents[at].state.request_seq
            )
            if takes_queued and queued[within].seq not in waiting:
                within += 1
                continue
            if len(self.jobs) == self._limit:
                break
            if takes_queued:
                self.jobs += _shown_one(queued[within], waiting[queued[within].seq], self._wanted)
                within += 1
            else:
                self.jobs.append(listed(documents[at].state))
                at += 1
        if at < len(documents):
            # Places are told from above: what comes next lies at this one or below.
            self.is_cut_places, self.place = True, documents[at].place + 1
        if within < len(queued):
            self.is_cut_queue, self.seq = True, queued[within].seq + 1


def _shown(
    queued: Sequence[QueuedJob], documents: Mapping[tuple[str, str], StoredState], wanted: JobFilter
) -> list[JobView]:
    return [view for job in queued for view in _shown_one(job, documents.get((job.tenant, job.job)), wanted)]


def _shown_one(job: QueuedJob, known: StoredState | None, wanted: JobFilter) -> list[JobView]:
    """A stored request's job, by its document if it has one; none where the filter does not mean it."""
    if known is not None and known.state.request_seq == job.seq:
        return [listed(known.state)] if wanted.matches(known.state) else []
    if known is not None:
        # A second request with the id of a job: it is none of its own.
        return []
    # Its metadata was held against the filter by the scheduler, as far as it is known.
    view = queued_view(job)
    return [view] if _without_metadata(wanted).matches(view) else []


def _without_metadata(wanted: JobFilter) -> JobFilter:
    if not wanted.metadata:
        return wanted
    fields = {name: getattr(wanted, name) for name in JobFilter.__struct_fields__}
    return JobFilter(**{**fields, "metadata": {}})


def _since(wanted: JobFilter) -> float | None:
    return None if wanted.since is None else wanted.since.timestamp()


def _is_past(queued: Sequence[QueuedJob], wanted: JobFilter) -> bool:
    """Whether what follows in the queue is older than anything that is wanted."""
    since = _since(wanted)
    return since is not None and bool(queued) and queued[-1].stored_at < since


def _next_of(page: QueuePage | None, wanted: JobFilter) -> int | None:
    return None if page is None or _is_past(page.jobs, wanted) else page.before


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidRequest("is not the cursor of an earlier page: leave it out to start anew", path="cursor")
    return int(text)


def _cursor_of(text: str) -> _Cursor:
    parts = text.removeprefix("m").split(".")
    if len(parts) != len(_Cursor._fields) or not text.startswith("m"):
        _number("")
    return _Cursor(*map(_number, parts))
