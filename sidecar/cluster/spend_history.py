"""Sums up what jobs took, while this replica schedules: reads their results in stored order, writes days.

Exact whoever dies when: the order is days first, each with the sequence up to which results are in it, then the
cursor. A successor claims the cursor, which fences off what its predecessor still writes, reads on from it, and
leaves out what a day has already (docs/decisions/spend-history.md).
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sidecar.cluster.spend_book import SAFE_SHARE, Entered, SpendBook, day_of, entered, opening
from sidecar.errors import Conflict
from sidecar.models.base import epoch
from sidecar.models.job import TERMINAL
from sidecar.models.plain import UNREADABLE
from sidecar.models.spend import NANO_USD, AliasOf, EndedDocument, EndedJob, SpendDay
from sidecar.ports.bus import Clock, Intake
from sidecar.ports.cluster import SpendDays, StoredDocument, StoredEnd
from sidecar.runtime.lifecycle import logged

log = logging.getLogger(__name__)

EVERY_S = 5.0
READ_AT_ONCE = 200
# Days written in one round: the others wait, and what they wait with is read again after a crash.
DAYS_A_ROUND = 200
# A result of a document that is younger may still be on its way.
YOUNG_SHARE = 0.5

_decode_end = msgspec.json.Decoder(EndedJob).decode
_decode_document = msgspec.json.Decoder(EndedDocument).decode


class SpendHistory:
    """`term` gives the scheduler's term while this replica schedules, else 0. `events_s` and `state_s` are how
    long events and documents of jobs are kept (s); `alias_of` names models as operators do.
    """

    def __init__(
        self,
        days: SpendDays,
        intake: Intake,
        *,
        clock: Clock,
        term: Callable[[], int],
        alias_of: AliasOf,
        events_s: float,
        state_s: float,
        on_today: Callable[[str, float], None] = lambda tenant, usd: None,
    ) -> None:
        """`on_today(tenant, usd)` is told what a tenant has spent today, when a term begins and when it grows."""
        self._on_today = on_today
        self._days = days
        self._intake = intake
        self._clock = clock
        self._term = term
        self._alias_of = alias_of
        self._events_s = events_s
        self._state_s = state_s
        self._book: SpendBook | None = None
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._clock.sleep(EVERY_S)
            with logged("summing up what was spent"):
                await self.step()

    async def step(self) -> None:
        """One round: read what has ended, write what has changed. Raises BusUnavailable, BusRefused."""
        term = self._term()
        if not term:
            self._book = None
            return
        book, self._book = self._book, None
        try:
            if book is None or book.term != term or self._is_late(book):
                book = await self._open(term)
            await self._follow(book)
            await self._write(book)
        except Conflict as e:
            # Another replica sums up now, or a write of ours was stored unheard: the next round looks.
            log.info("the sums of spend are written by another", extra={"error": e.message})
            return
        # After any failure the next round claims the cursor anew: nothing of this one can be stored after that.
        self._book = book

    def _is_late(self, book: SpendBook) -> bool:
        return self._clock.now() - book.read_at > self._events_s * SAFE_SHARE

    async def _open(self, term: int) -> SpendBook:
        stored, jobs = await self._days.cursor(), await self._days.jobs()
        now = self._clock.now()
        begin = opening(stored.cursor, jobs, now=now, events_s=self._events_s, state_s=self._state_s)
        fence = await self._days.claim(begin.cursor, revision=stored.revision)
        book = SpendBook(begin.cursor, term=term, fence=fence)
        self.counts["opened"] += 1
        if begin.needs_documents:
            self.counts["from_documents"] += 1
            log.warning("results may have gone unread: spend is summed up from documents of jobs")
            await self._recover(book, up_to=jobs.last_seq)
        today = day_of(now)
        async for day in self._days.days(None, first=today, last=today):
            self._tell_today(day)
        return book

    def _tell_today(self, day: SpendDay) -> None:
        if day.day == day_of(self._clock.now()):
            self._on_today(day.tenant, sum(held.cost_nano_usd for held in day.sums) / NANO_USD)

    # From result events.

    async def _follow(self, book: SpendBook) -> None:
        """Enter all results that are stored by now."""
        began, jobs = self._clock.now(), await self._days.jobs()
        has_more = True
        while has_more:
            found, has_more = await self._days.ends(after_seq=book.seq, limit=READ_AT_ONCE)
            if found:
                await self._enter_ends(book, found)
                book.seq = found[-1].seq
        if book.seq < jobs.last_seq and not await self._days.has_ends(after_seq=book.seq, up_to=jobs.last_seq):
            book.seq = jobs.last_seq
        if book.seq >= jobs.last_seq:
            book.read_at = began

    async def _enter_ends(self, book: SpendBook, found: Sequence[StoredEnd]) -> None:
        classes = await self._classes([end for end in found if end.job_class is None and end.payload])
        for end in found:
            try:
                ended = _decode_end(end.payload) if end.payload else None
            except UNREADABLE:
                ended = None
            if ended is None:
                continue
            job_class = end.job_class or classes.get((end.tenant, end.job), "")
            await self._enter(
                book,
                entered(
                    end.seq,
                    end.tenant,
                    ended.data,
                    ended=ended.time,
                    job_class=job_class,
                    alias_of=self._alias_of,
                ),
            )

    async def _classes(self, ends: Sequence[StoredEnd]) -> dict[tuple[str, str], str]:
        """The classes of jobs whose results were written by the first release, which did not say them."""
        if not ends:
            return {}
        found = await self._days.documents_of([(end.tenant, end.job) for end in ends])
        read = {job: _document(payload) for job, payload in found.items()}
        return {job: document.job_class for job, document in read.items() if document is not None}

    async def _enter(self, book: SpendBook, entry: Entered | None) -> None:
        if entry is None:
            return
        if not book.knows(entry.tenant, entry.day):
            book.learn(entry.tenant, entry.day, await self._days.day(entry.tenant, entry.day))
        book.enter(entry)

    # From documents, where events are gone.

    async def _recover(self, book: SpendBook, *, up_to: int) -> None:
        """Enter the jobs that ended after the cursor and whose result is neither there any more nor still to come.

        Those whose results are there are entered with them.
        """
        part: dict[tuple[str, str], _Ended] = {}
        seen: set[int] = set()
        async for stored in self._days.documents(after_seq=book.cursor.seq, up_to=up_to):
            document = _document(stored.payload)
            if document is None or document.state not in TERMINAL or document.result is None:
                continue
            if document.request_seq not in seen:
                # One that was restored stands twice.
                seen.add(document.request_seq)
                part[stored.tenant, stored.job] = _Ended(stored, document)
            if len(part) >= READ_AT_ONCE:
                await self._recover_some(book, part)
                part = {}
        await self._recover_some(book, part)

    async def _recover_some(self, book: SpendBook, part: "dict[tuple[str, str], _Ended]") -> None:
        there = await self._days.ended_at(list(part)) if part else {}
        for key, (stored, document) in part.items():
            if key in there or self._is_young(document):
                continue
            if await self._intake.get(document.request_seq) is not None:
                # Its result is said (again) before its request is deleted.
                continue
            self.counts["recovered"] += 1
            await self._enter(
                book,
                entered(
                    stored.seq,
                    stored.tenant,
                    document.result,  # type: ignore[arg-type]  # looked at where it was read
                    ended=document.updated,
                    job_class=document.job_class,
                    alias_of=self._alias_of,
                ),
            )

    def _is_young(self, document: EndedDocument) -> bool:
        try:
            return self._clock.now() - epoch(document.updated) < self._events_s * YOUNG_SHARE
        except (ValueError, OverflowError):
            return False

    # What is kept.

    async def _write(self, book: SpendBook) -> None:
        is_due = self._clock.now() - book.cursor.time > min(self._events_s, self._state_s) / 4
        if book.is_saved and not is_due:
            return
        for day in book.unsaved(DAYS_A_ROUND):
            await self._days.put(day, fence=book.fence)
            book.saved(day)
            self._tell_today(day)
            self.counts["days_written"] += 1
        cursor = book.reached()
        book.advanced(cursor, fence=await self._days.claim(cursor, revision=book.fence))


class _Ended(NamedTuple):
    stored: StoredDocument
    document: EndedDocument


def _document(payload: bytes) -> EndedDocument | None:
    try:
        return _decode_document(payload)
    except UNREADABLE:
        return None
