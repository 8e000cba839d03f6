"""The request/reply endpoints that run failed jobs again, from the requests kept in `LLM_DEAD`."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from sidecar.endpoints.objects import named_objects
from sidecar.endpoints.parts import in_parts, not_empty
from sidecar.errors import BusRefused, InvalidRequest, Permanent, SidecarError
from sidecar.models.api import ErrorBody, schemas_of
from sidecar.models.base import epoch
from sidecar.models.bulk import BulkRetried, BulkRetryRequest, RetriedJob, RetryRequest
from sidecar.models.codec import decode, decode_request, encode
from sidecar.models.plain import UNREADABLE
from sidecar.models.subjects import HEADER_DEADLINE, HEADER_JOB_ID, HEADER_MESSAGE_ID, checked
from sidecar.ports.bus import (
    STREAM_READ_SEATS,
    Blobs,
    Clock,
    DeadLetter,
    DeadLetters,
    Endpoint,
    Intake,
    Query,
    Reply,
)
from sidecar.runtime.redaction import told

LONGEST_ID = 64
LETTERS_AT_ONCE = 100


def retry_id(job: str, seq: int) -> str:
    """The id under which a dead letter's job runs again: always the same, so that no repetition runs it twice."""
    ending = f"-r{seq}"
    return job[: LONGEST_ID - len(ending)] + ending


class RetryQueries:
    """A letter is run again once: then it says under which id, and no more."""

    def __init__(self, dead: DeadLetters, intake: Intake, blobs: Blobs, *, clock: Clock) -> None:
        self._dead = dead
        self._intake = intake
        self._blobs = blobs
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("retry", "retry.*.*", self.retry, schemas_of(RetryRequest, RetriedJob)),
            Endpoint(
                "admin_retry",
                "admin.retry",
                self.retry_many,
                schemas_of(BulkRetryRequest, BulkRetried),
                seats=STREAM_READ_SEATS,
            ),
        )

    async def retry(self, query: Query) -> Reply:
        """Run one job of a tenant again. Raises Permanent (`not_found`) where its request is not kept."""
        if len(query.tokens) != 2:
            raise InvalidRequest("the subject needs tenant and job", path="subject")
        tenant, job = (checked(token, path="subject") for token in query.tokens)
        asked = decode(query.payload, RetryRequest)
        letter = await self._dead.get(tenant, job)
        if letter is None:
            raise Permanent(
                f"no request of job {job!r} of tenant {tenant!r} is kept: it did not fail, failed longer ago"
                " than retention.dead_s, or its requests are not to be kept",
                code="not_found",
            )
        if letter.retried_as is not None:
            return Reply(encode(_as(letter, letter.retried_as, before=True)))
        return Reply(encode(await self._again(letter, keep=asked.keep, dry_run=asked.dry_run)))

    async def retry_many(self, query: Query) -> AsyncIterator[Reply]:
        """Run all again that match, oldest first; those that cannot be are told with the reason."""
        asked = decode(query.payload, BulkRetryRequest)
        not_empty(asked)
        if asked.state not in (None, "failed"):
            raise InvalidRequest("only failed jobs can be run again", path="state")
        count = 0

        def part(jobs: tuple[RetriedJob, ...]) -> BulkRetried:
            nonlocal count
            count += sum(1 for job in jobs if job.error is None)
            return BulkRetried(jobs=jobs, count=count, dry_run=asked.dry_run)

        async for reply in in_parts(self._retried(asked), part, clock=self._clock):
            yield reply

    async def _retried(self, asked: BulkRetryRequest) -> AsyncIterator[RetriedJob | None]:
        left, after = asked.limit, 0
        # Those that fail again meanwhile are not run again for ever.
        newest = await self._dead.last_seq()
        while letters := await self._dead.list(asked.tenant, after_seq=after, limit=LETTERS_AT_ONCE):
            after = letters[-1].seq
            yield None
            for letter in letters:
                if letter.seq > newest:
                    return
                if not fits(letter, asked):
                    continue
                if left is not None and left <= 0:
                    return
                left = None if left is None else left - 1
                try:
                    yield await self._again(letter, keep=asked.keep, dry_run=asked.dry_run)
                except (InvalidRequest, Permanent, BusRefused) as e:
                    # One that cannot be run again keeps none of the others from it.
                    error = ErrorBody(code=e.code, message=told(e), details=e.details)
                    yield RetriedJob(tenant=letter.request.lane.tenant, job=letter.job, error=error)

    async def _again(self, letter: DeadLetter, *, keep: bool, dry_run: bool) -> RetriedJob:
        """Hand a request in again, without a deadline that has passed.

        Raises InvalidRequest, Permanent (`not_found`, objects that it names), BusRefused (`queue_full`).
        """
        lane = letter.request.lane
        fresh = retry_id(letter.job, letter.seq)
        payload, headers = timely(letter.request.payload, letter.request.headers, now=self._clock.now())
        await self._check_objects(lane.tenant, payload)
        if not dry_run:
            headers |= {HEADER_JOB_ID: fresh, HEADER_MESSAGE_ID: f"{lane.tenant}:{fresh}"}
            await self._intake.submit(lane, payload, headers)
            if not keep:
                await self._dead.retried(letter, job=fresh)
        return _as(letter, fresh)

    async def _check_objects(self, tenant: str, payload: bytes) -> None:
        names = {
            source.object for _, source in named_objects(decode_request(payload).messages or ()) if source.object
        }
        gone = [name for name in sorted(names) if await self._blobs.info(tenant, name) is None]
        if gone:
            raise Permanent(
                f"objects that the request names are gone: {', '.join(gone)[:500]}; put them there again",
                code="not_found",
                details={"objects": gone[:100]},
            )


def _as(letter: DeadLetter, job: str, *, before: bool = False) -> RetriedJob:
    return RetriedJob(tenant=letter.request.lane.tenant, job=letter.job, retried_as=job, before=before)


def fits(letter: DeadLetter, asked: BulkRetryRequest) -> bool:
    """Whether a letter is meant."""
    lane = letter.request.lane
    if asked.tenant not in (None, lane.tenant) or asked.job_class not in (None, lane.job_class):
        return False
    if asked.error not in (None, letter.error) or not asked.covers(letter.request.stored_at):
        return False
    return not asked.metadata or asked.fits_metadata(_metadata_of(letter.request.payload))


def _metadata_of(payload: bytes) -> dict[str, Any]:
    try:
        return decode_request(payload).metadata
    except SidecarError:
        return {}


def timely(payload: bytes, headers: Mapping[str, str], *, now: float) -> tuple[bytes, dict[str, str]]:
    """A request without the deadlines that have passed."""
    kept = {k: v for k, v in headers.items() if k != HEADER_DEADLINE or not _is_past(v, now)}
    try:
        request = msgspec.json.decode(payload)
    except UNREADABLE:
        return payload, kept
    if isinstance(request, dict) and _is_past(request.get("deadline"), now):
        request = {name: value for name, value in request.items() if name != "deadline"}
        payload = msgspec.json.encode(request)
    return payload, kept


def _is_past(deadline: object, now: float) -> bool:
    try:
        return isinstance(deadline, str) and epoch(deadline) <= now
    except (ValueError, OverflowError):
        return False
