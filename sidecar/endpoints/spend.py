"""The request/reply endpoints about what was spent: a tenant's own, and all for operators."""

from collections.abc import AsyncIterator, Iterable
from datetime import date, timedelta

from msgspec import UNSET

from sidecar.errors import InvalidRequest
from sidecar.models.api import schemas_of
from sidecar.models.base import rfc3339
from sidecar.models.codec import decode, encode
from sidecar.models.spend import (
    DAYS_BY_DEFAULT,
    NANO_USD,
    Dimension,
    SpendCursor,
    SpendDay,
    SpendPage,
    SpendRequest,
    SpendRow,
    SpendSum,
)
from sidecar.models.subjects import HEADER_END, checked
from sidecar.ports.bus import STREAM_READ_SEATS, Clock, Endpoint, Query, Reply
from sidecar.ports.cluster import SpendDays

ROWS_A_PART = 500

Key = tuple[str, ...]


class SpendQueries:
    """Answers from the sums that whoever schedules has stored; they lag by some seconds."""

    def __init__(self, days: SpendDays, *, clock: Clock) -> None:
        self._days = days
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        schemas = schemas_of(SpendRequest, SpendPage)
        return (
            Endpoint("spend", "spend.*", self.spend, schemas, seats=STREAM_READ_SEATS),
            Endpoint("admin_spend", "admin.spend", self.spend_of_all, schemas, seats=STREAM_READ_SEATS),
        )

    async def spend(self, query: Query) -> AsyncIterator[Reply]:
        """What a tenant spent, in parts, then an empty reply that says so."""
        tenant = checked(query.tokens[0] if len(query.tokens) == 1 else "", path="subject.tenant")
        async for reply in self._told(query, tenant):
            yield reply

    async def spend_of_all(self, query: Query) -> AsyncIterator[Reply]:
        """The same of all tenants."""
        async for reply in self._told(query, None):
            yield reply

    async def _told(self, query: Query, tenant: str | None) -> AsyncIterator[Reply]:
        asked = decode(query.payload, SpendRequest)
        first, last = span_of(asked, today=self._clock.now())
        cursor = (await self._days.cursor()).cursor
        table = Table(asked.by, cursor or SpendCursor())
        async for day in self._days.days(tenant, first=first, last=last):
            table.add(day)
        rows = table.rows()
        as_of = rfc3339(cursor.time) if cursor is not None else None
        incomplete = incomplete_days(cursor, first=first, last=last)
        for at in range(0, max(1, len(rows)), ROWS_A_PART):
            part = SpendPage(rows=tuple(rows[at : at + ROWS_A_PART]), as_of=as_of, incomplete_days=incomplete)
            yield Reply(encode(part))
        yield Reply(b"", {HEADER_END: "true"})


def span_of(asked: SpendRequest, *, today: float) -> tuple[str, str]:
    """The days asked for. Raises InvalidRequest for one that is in no calendar."""
    days: dict[str, date | None] = {}
    for name, given in (("from", asked.first), ("to", asked.last)):
        try:
            days[name] = date.fromisoformat(given) if given is not None else None
        except ValueError as e:
            raise InvalidRequest(f"{given} is in no calendar", path=name) from e
    if days["from"] is not None and days["to"] is not None and days["from"] > days["to"]:
        raise InvalidRequest("is after 'to': swap the two", path="from")
    last = days["to"] or max(date.fromisoformat(rfc3339(today)[:10]), days["from"] or date.min)
    first = days["from"] or last - timedelta(days=DAYS_BY_DEFAULT - 1)
    return first.isoformat(), last.isoformat()


def incomplete_days(cursor: SpendCursor | None, *, first: str, last: str) -> tuple[str, ...]:
    """The days from `first` to `last` of which jobs may be missing."""
    found: set[str] = set()
    for begin, end in cursor.incomplete if cursor is not None else ():
        day, until = date.fromisoformat(max(begin, first)), date.fromisoformat(min(end, last))
        while day <= until:
            found.add(day.isoformat())
            day += timedelta(days=1)
    return tuple(sorted(found))


class Table:
    """Sums over the days that are added, told apart by what was asked for."""

    def __init__(self, by: Iterable[Dimension], cursor: SpendCursor) -> None:
        self._by = tuple(dict.fromkeys(by))
        self._cursor = cursor
        self._sums: dict[Key, SpendSum] = {}
        self._incomplete: set[Key] = set()

    def add(self, day: SpendDay) -> None:
        is_incomplete = self._cursor.is_incomplete(day.day)
        for held in day.sums:
            of = {"day": day.day, "tenant": day.tenant, "model": held.model, "class": held.job_class}
            key = tuple(of[name] for name in self._by)
            self._sums.setdefault(key, SpendSum(job_class="", model="")).add(held)
            if is_incomplete:
                self._incomplete.add(key)

    def rows(self) -> list[SpendRow]:
        return [self._row(key, self._sums[key]) for key in sorted(self._sums)]

    def _row(self, key: Key, held: SpendSum) -> SpendRow:
        of = dict(zip(self._by, key, strict=True))
        return SpendRow(
            day=of.get("day", UNSET),
            tenant=of.get("tenant", UNSET),
            model=of.get("model", UNSET),
            job_class=of.get("class", UNSET),
            calls=held.calls,
            input_tokens=held.input_tokens,
            output_tokens=held.output_tokens,
            cache_read_tokens=held.cache_read_tokens,
            cache_write_tokens=held.cache_write_tokens,
            cost_usd=held.cost_nano_usd / NANO_USD,
            estimated_usd=held.estimated_nano_usd / NANO_USD,
            unpriced_calls=held.unpriced_calls,
            incomplete=key in self._incomplete,
        )
