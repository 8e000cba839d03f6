"""Requests of jobs that failed: stream `LLM_DEAD`.

The requests of crash loops stay as long as the stream keeps them. All others carry a time to live, and are stored
only while the whole stream is smaller than `failed_bytes`: so what is left of the stream's bound is never theirs.
"""

import builtins
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader
from sidecar.errors import BusRefused, InvalidRequest
from sidecar.models import codec
from sidecar.models.base import epoch, rfc3339
from sidecar.models.dead_letter import DeadNote
from sidecar.models.shown import shown
from sidecar.models.subjects import DEAD_STREAM, HEADER_MESSAGE_ID, HEADER_TTL, Subjects, checked
from sidecar.ports.bus import DeadLetter, Lane, StoredRequest

log = logging.getLogger(__name__)

_NOTE = "Llm-Dead"
# How old the stream's size may be; what is stored from here meanwhile is added.
_SIZE_S = 1.0
# How long it is known under which id a letter was run again.
_RETRIED_S = 86_400
_ADDED = (_NOTE, HEADER_MESSAGE_ID, HEADER_TTL)


class NatsDeadLetters:
    """`DeadLetters` over JetStream: the payload and headers as they came, the rest in the header `Llm-Dead`.

    Headers that JetStream would act on (`Nats-…`) are left out. So a dead letter can be sent again as it is, with
    any client, to the subject it came from. `list` leaves out, with a warning, what somebody else put there.
    """

    def __init__(
        self,
        mux: Mux,
        subjects: Subjects,
        *,
        failed_bytes: int = 0,
        is_replicated: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mux = mux
        self._subjects = subjects
        self._failed_bytes = failed_bytes
        self._monotonic = monotonic
        self._held_bytes = 0
        self._measured_at = float("-inf")
        self._reader = StreamReader(mux, DEAD_STREAM, is_replicated=is_replicated)
        self._genuine = GenuineReader(
            self._reader,
            bucket=DEAD_STREAM,
            writes=mux.foreign_writes,
            is_genuine=lambda found: _NOTE in found.headers,
        )

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
        subject = self._subject(request.lane.tenant, job)
        there = await self._genuine.last(subject)
        if there is not None and self._is_of(there, request):
            return there.seq
        note = DeadNote(
            request_seq=request.seq,
            job_class=request.lane.job_class,
            stored=rfc3339(request.stored_at),
            reason=reason,
            history=tuple(dict(entry) for entry in history),
            error=error,
        )
        if keep_s is not None:
            await self._find_room(len(request.payload) + len(subject))
        try:
            return await self._store(subject, request, note.encoded(), keep_s)
        except BusRefused as e:
            if e.code != "payload_too_large" or not history:
                raise
            return await self._store(subject, request, note.without_history().encoded(), keep_s)

    async def list(
        self, tenant: str | None = None, *, after_seq: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        pattern = self._subjects.dead("*", "*") if tenant is None else self._subject(tenant, None)
        letters: builtins.list[DeadLetter] = []
        has_more = True
        while has_more and len(letters) < limit:
            found, has_more = await self._reader.batch(pattern, seq=after_seq + 1, limit=limit - len(letters))
            after_seq = found[-1].seq if found else after_seq
            await self._genuine.remove([item for item in found if _NOTE not in item.headers])
            readable = [self._readable(item) for item in found if _NOTE in item.headers]
            letters += [letter for letter in readable if letter is not None and letter.retried_as is None]
        return letters

    async def get(self, tenant: str, job: str) -> DeadLetter | None:
        found = await self._genuine.last(self._subject(tenant, job))
        return self._letter(found) if found else None

    async def purge(self, tenant: str, job: str) -> None:
        await self._mux.api(f"STREAM.PURGE.{DEAD_STREAM}", {"filter": self._subject(tenant, job)})

    async def last_seq(self) -> int:
        return (await self._reader.contents()).last_seq

    async def retried(self, letter: DeadLetter, *, job: str) -> None:
        request = letter.request
        subject = self._subject(request.lane.tenant, letter.job)
        note = DeadNote(
            request_seq=request.seq,
            job_class=request.lane.job_class,
            stored=rfc3339(request.stored_at),
            reason=letter.reason,
            error=letter.error,
            retried_as=job,
        )
        headers = {
            _NOTE: note.encoded(),
            HEADER_MESSAGE_ID: f"retried:{subject}:{letter.seq}",
            HEADER_TTL: str(_RETRIED_S),
        }
        try:
            await self._mux.store(subject, b"", headers=headers)
        except BusRefused as e:
            # Without a time to live it would stay longer than what it stands for.
            log.warning("under which id a job was run again is not kept: %s", e.message)
        # Last: a letter without the word that it was run again would be run again.
        await self._reader.delete(letter.seq)

    async def _find_room(self, size: int) -> None:
        """Raises BusRefused where a request of this size would take room that is not for it."""
        now = self._monotonic()
        if now - self._measured_at > _SIZE_S:
            self._held_bytes = await self._reader.held_bytes()
            self._measured_at = now
        if self._held_bytes + size > self._failed_bytes:
            raise BusRefused(
                f"LLM_DEAD holds {self._held_bytes} bytes, and requests of failed jobs are kept up to"
                f" {self._failed_bytes} (retention.dead_failed_bytes)",
                code="queue_full",
            )
        self._held_bytes += size

    async def _store(self, subject: str, request: StoredRequest, note: str, keep_s: int | None) -> int:
        headers = {k: v for k, v in request.headers.items() if not k.lower().startswith("nats-")}
        headers |= {_NOTE: note, HEADER_MESSAGE_ID: f"dead:{subject}:{request.seq}"}
        if keep_s is not None:
            headers[HEADER_TTL] = str(keep_s)
        return (await self._mux.store(subject, request.payload, headers=headers)).seq

    def _is_of(self, found: StoredMessage, request: StoredRequest) -> bool:
        letter = self._readable(found)
        return letter is not None and letter.request.seq == request.seq

    def _readable(self, found: StoredMessage) -> DeadLetter | None:
        try:
            return self._letter(found)
        except BusRefused as e:
            log.warning("%s", e.message)
            return None

    def _letter(self, found: StoredMessage) -> DeadLetter:
        note = _note(found)
        tenant, job = found.subject.split(".")[-2:]
        headers = {k: v for k, v in found.headers.items() if k not in _ADDED}
        lane = Lane(tenant, note.job_class)
        request = StoredRequest(note.request_seq, lane, found.payload, headers, epoch(note.stored))
        return DeadLetter(
            found.seq, job, request, note.reason, note.history, found.stored_at, note.error, note.retried_as
        )

    def _subject(self, tenant: str, job: str | None) -> str:
        return self._subjects.dead(checked(tenant), "*" if job is None else checked(job))


def _note(found: StoredMessage) -> DeadNote:
    try:
        note = codec.decode(found.headers.get(_NOTE, "").encode(), DeadNote)
        epoch(note.stored)
    except (InvalidRequest, ValueError) as e:
        raise BusRefused(f"{shown(found.subject)} at {found.seq} is no dead letter: {shown(e, 200)}") from e
    return note
