"""Listing a tenant's jobs, newest first, from a stream that can only be read forward.

A job's place is the sequence of its first document (written with expected sequence 0), which never changes: pages
neither repeat nor skip a job, however the jobs move on meanwhile. First documents of jobs that were begun are kept
for some hours only (see `Places`): an older job has the place of its last document, which an ended job keeps.

The stream is walked back in windows. A window is measured before it is read (one message and a count), halved
while it holds much and widened while it holds nothing, so that a page costs about as much as the tenant wrote in
the time it covers, and a dozen requests in a stream of many millions where the tenant wrote little.

A job is listed for `retention.state_s` from its end.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_by_replica
from sidecar.models.base import epoch
from sidecar.models.believed import document_of
from sidecar.models.job import JobState
from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown
from sidecar.ports.bus import PlacedJob, PlacedJobs

log = logging.getLogger(__name__)

_FIRST_WRITE = b"\r\nNats-Expected-Last-Subject-Sequence: 0"
_NARROWEST = 2_048
_WIDEST = 1 << 24
_AT_ONCE = 4_000
_AT_MOST = 20_000
_DOCUMENTS = 256


class _Window(NamedTuple):
    """Sequences [start, before) and how many messages of the tenant are there; `width` was tried for it."""

    start: int
    before: int
    size: int
    width: int


class _Created(msgspec.Struct):
    created: str


_decode_created = msgspec.json.Decoder(_Created).decode


class Places(NamedTuple):
    """Which document of a job is its place: of those created at `since` (s since 1970) or later the first, of
    older ones the last, since their first may have gone.
    """

    since: float

    @classmethod
    def at(cls, now: float, *, live_s: int | None) -> "Places":
        """`live_s`: how long first documents are kept, None for as long as all others.

        The line moves in steps, each a sixth of that time, so that jobs hardly ever change places between two
        pages; and it stays a step away from what is about to go, for clocks that differ.
        """
        if live_s is None:
            return cls(-math.inf)
        step = live_s / 6
        return cls((now // step + 2) * step - live_s)

    def may_hold(self, item: StoredMessage) -> bool:
        """Whether a document is its job's place; one that is not the first must be the last of its job beside."""
        try:
            is_old = epoch(_decode_created(item.payload).created) < self.since
        except (*UNREADABLE, ValueError):
            is_old = False
        return is_old or _is_first(item)

    def is_moved(self, item: StoredMessage, document: JobState, seq: int) -> bool:
        """Whether the job of `item` has another place: it is an old one, and its last document is `seq`."""
        return seq != item.seq and epoch(document.created) < self.since


class Wanted(NamedTuple):
    """Which jobs a listing is for. Those that `matches` takes, whose documents with their results it is given;
    places in (`after`, `before`), where given, and none that was written before `since` (s since 1970).
    """

    matches: Callable[[JobState], bool]
    limit: int
    before: int | None = None
    after: int = 0
    since: float = -math.inf


async def list_jobs(
    reader: StreamReader, pattern: str, *, documents: GenuineReader, places: Places, wanted: Wanted
) -> PlacedJobs:
    """A page of the jobs whose documents fit `pattern`. `documents` reads past what strangers wrote over one.

    No call reads more than some 20,000 documents: a filter that fits little then gives a short page.
    """
    contents = await reader.contents()
    first = max(contents.first_seq, wanted.after + 1)
    before = min(wanted.before or contents.last_seq + 1, contents.last_seq + 1)
    jobs: list[PlacedJob] = []
    width, looked_at = _NARROWEST, 0
    while before > first and looked_at < _AT_MOST:
        window = await _measure(reader, pattern, before, width, first)
        is_past = False
        if window.size:
            found = await _candidates(reader, pattern, window, places)
            looked_at += window.size
            look = _Look(reader, documents, places, wanted.matches, wanted.limit - len(jobs))
            taken, before, is_full = await _newest(look, found, window.start)
            jobs += taken
            if is_full:
                return PlacedJobs(tuple(jobs), before, contents.last_seq)
            # A request is stored before anything is written of its job.
            is_past = bool(found) and found[0].stored_at < wanted.since
        before = first if is_past else window.start
        width = min(window.width * (8 if window.size < wanted.limit else 2), _WIDEST)
    return PlacedJobs(tuple(jobs), before if before > first else None, contents.last_seq)


async def _measure(reader: StreamReader, pattern: str, before: int, width: int, first_seq: int) -> _Window:
    """The widest window up to `before`, of `width` or halves of it, that is worth reading at once."""
    beyond = await reader.beyond(pattern, seq=before)
    while True:
        start = max(first_seq, before - width)
        count = await reader.count(pattern, start=start, before=before, most=_AT_ONCE, beyond=beyond)
        if count <= _AT_ONCE or width <= _NARROWEST:
            return _Window(start, before, count, width)
        width //= 2


async def _candidates(reader: StreamReader, pattern: str, window: _Window, places: Places) -> list[StoredMessage]:
    """The documents in a window that may be their jobs' places, oldest first."""
    found: list[StoredMessage] = []
    async for item in reader.scan(pattern, seq=window.start):
        if item.seq >= window.before:
            break
        if places.may_hold(item):
            found.append(item._replace(payload=b""))
    return found


class _Look(NamedTuple):
    reader: StreamReader
    documents: GenuineReader
    places: Places
    matches: Callable[[JobState], bool]
    limit: int


async def _newest(
    look: _Look, candidates: Sequence[StoredMessage], start: int
) -> tuple[list[PlacedJob], int, bool]:
    """Up to `limit` of the jobs that have their places here, newest first; where to go on; and whether there are
    more than `limit`.
    """
    jobs: list[PlacedJob] = []
    before = start
    for end in range(len(candidates), 0, -_DOCUMENTS):
        part = candidates[max(0, end - _DOCUMENTS) : end]
        now = await look.reader.last_of(item.subject for item in part)
        for item in reversed(part):
            found = now.get(item.subject)
            if found is not None and not is_by_replica(found):
                found = await look.documents.last(item.subject)
            document = _document(found)
            if found is None or document is None or look.places.is_moved(item, document, found.seq):
                continue
            if not look.matches(document):
                continue
            if len(jobs) == look.limit:
                return jobs, before, True
            jobs.append(PlacedJob(item.seq, document))
            before = item.seq
    return jobs, start, False


def _is_first(item: StoredMessage) -> bool:
    block = item.own_headers
    at = block.find(_FIRST_WRITE)
    return at >= 0 and block[at + len(_FIRST_WRITE) :][:2] in (b"", b"\r\n")


def _document(found: StoredMessage | None) -> JobState | None:
    if found is None or found.is_tombstone:
        return None
    tenant, job = found.subject.rsplit(".", 2)[1:]
    state = document_of(found.payload, tenant=tenant, job=job)
    if state is None:
        log.warning("%s holds no state document", shown(found.subject))
    return state
