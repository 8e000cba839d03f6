"""What jobs took, summed up in memory between two writes. Pure: decisions and sums, no I/O."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from sidecar.models.base import epoch
from sidecar.models.spend import AliasOf, JobBill, SpendCursor, SpendDay, SpendSum, sums_of
from sidecar.ports.cluster import JobsStream

MOST_DAYS = 20_000
MOST_SPANS = 100
CLOCKS_APART_S = 10.0
# Result events go by themselves after their time: a little before that they count as gone.
SAFE_SHARE = 0.8


class BookOpening(NamedTuple):
    """How a term of summing up begins: at `cursor`, and from documents first where events may be gone."""

    cursor: SpendCursor
    needs_documents: bool


def opening(
    found: SpendCursor | None, jobs: JobsStream, *, now: float, events_s: float, state_s: float
) -> BookOpening:
    """Where to go on from what a predecessor left. Events stay for `events_s`, documents for `state_s`."""
    if found is None:
        # What had ended before the first events that are still there was never summed up.
        is_young = now - jobs.created < events_s * SAFE_SHARE
        spans = () if is_young or not jobs.last_seq else (_span(now - events_s, now),)
        return BookOpening(SpendCursor(time=now, generation=1, incomplete=spans), needs_documents=False)
    if jobs.last_seq < found.seq:
        # Another stream, which begins to count anew.
        fresh = SpendCursor(
            time=now, generation=found.generation + 1, incomplete=_with(found, _span(found.time, now))
        )
        return BookOpening(fresh, needs_documents=False)
    if jobs.created > found.time + CLOCKS_APART_S:
        # Made anew, with sequences that go on: what the old one held is lost.
        span = _span(found.time, jobs.created)
        found = msgspec.structs.replace(found, incomplete=_with(found, span))
    if jobs.last_seq == found.seq or now - found.time < events_s * SAFE_SHARE:
        return BookOpening(found, needs_documents=False)
    if now - found.time > state_s:
        span = _span(found.time, now - state_s)
        found = msgspec.structs.replace(found, incomplete=_with(found, span))
    return BookOpening(found, needs_documents=True)


def _with(cursor: SpendCursor, span: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    if span in cursor.incomplete:
        return cursor.incomplete
    return (*cursor.incomplete, span)[-MOST_SPANS:]


def _span(first: float, last: float) -> tuple[str, str]:
    return day_of(first), day_of(last)


def day_of(epoch_s: float) -> str:
    """The day of UTC, as `2026-12-01`."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch_s)).date().isoformat()


class Entered(NamedTuple):
    """A job's bill on its way into a day."""

    seq: int
    tenant: str
    day: str
    sums: list[SpendSum]


def entered(
    seq: int, tenant: str, bill: JobBill, *, ended: str, job_class: str, alias_of: AliasOf
) -> Entered | None:
    """What one job's end adds; None where it took nothing, or its time is none."""
    sums = sums_of(bill, job_class=job_class, alias_of=alias_of)
    if not sums:
        return None
    try:
        return Entered(seq, tenant, day_of(epoch(ended)), sums)
    except (ValueError, OverflowError):
        return None


class SpendBook:
    """The days of one term. `seq`: all results up to there are in them; `fence` is the cursor's revision.

    A day of its own says up to where results are in it: what is read again after a crash is passed over there.
    """

    def __init__(self, cursor: SpendCursor, *, term: int, fence: int) -> None:
        self.term = term
        self.fence = fence
        self.cursor = cursor
        self.seq = cursor.seq
        self.read_at = cursor.time
        self._days: dict[tuple[str, str], SpendDay] = {}
        # Since which sequence a day is unsaved, and up to which time all before that had been read.
        self._unsaved: dict[tuple[str, str], tuple[int, float]] = {}

    def knows(self, tenant: str, day: str) -> bool:
        return (tenant, day) in self._days

    def learn(self, tenant: str, day: str, found: SpendDay | None) -> None:
        """Take a day as it is stored; None where there is none yet."""
        generation = self.cursor.generation
        if found is None:
            found = SpendDay(tenant=tenant, day=day, generation=generation, sums=[])
        elif found.generation != generation:
            found.generation, found.through = generation, 0
        self._days[tenant, day] = found

    def enter(self, entry: Entered) -> None:
        """Add a job's bill to a day that is known."""
        key = (entry.tenant, entry.day)
        found = self._days[key]
        if entry.seq <= found.through:
            return
        since = (entry.seq, self.read_at)
        self._unsaved[key] = min(self._unsaved.get(key, since), since)
        for given in entry.sums:
            for held in found.sums:
                if held.model == given.model and held.job_class == given.job_class:
                    held.add(given)
                    break
            else:
                found.sums.append(given)

    def unsaved(self, most: int) -> list[SpendDay]:
        """Days to be written, those that have waited longest first."""
        keys = sorted(self._unsaved, key=self._unsaved.__getitem__)[:most]
        return [msgspec.structs.replace(self._days[key], through=self.seq) for key in keys]

    def saved(self, day: SpendDay) -> None:
        key = (day.tenant, day.day)
        self._days[key].through = day.through
        del self._unsaved[key]

    @property
    def is_saved(self) -> bool:
        return not self._unsaved

    def reached(self) -> SpendCursor:
        """The cursor as it is to be written now."""
        seq, time = min(self._unsaved.values(), default=(self.seq + 1, self.read_at))
        return msgspec.structs.replace(
            self.cursor, seq=max(seq - 1, self.cursor.seq), time=max(time, self.cursor.time)
        )

    def advanced(self, cursor: SpendCursor, *, fence: int) -> None:
        self.cursor, self.fence = cursor, fence
        if len(self._days) > MOST_DAYS:
            self._days = {key: day for key, day in self._days.items() if key in self._unsaved}
