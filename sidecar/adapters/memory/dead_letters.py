"""Requests that were given up, in memory: twin of `adapters.nats.dead_letters`."""

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.genuine import genuine
from sidecar.adapters.memory.stream import Entry
from sidecar.errors import BusRefused, InvalidRequest
from sidecar.models.base import epoch, rfc3339
from sidecar.models.dead_letter import DeadNote
from sidecar.models.subjects import is_name
from sidecar.ports.bus import DeadLetter, Lane, StoredRequest

T = TypeVar("T")

_NOTE = "Llm-Dead"


class MemoryDeadLetters:
    """`DeadLetters` twin over a shared bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def put(
        self, job: str, request: StoredRequest, *, reason: str, history: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        subject = self._subject(request.lane.tenant, job)
        note = DeadNote(
            request_seq=request.seq,
            job_class=request.lane.job_class,
            stored=rfc3339(request.stored_at),
            reason=reason,
            history=tuple(dict(entry) for entry in history),
        )

        def store() -> int:
            there = genuine(self._bus, self._bus.dead, subject, _is_letter)
            if there is not None and _letter(there).request.seq == request.seq:
                return there.seq
            try:
                return self._store(subject, request, note.encoded())
            except BusRefused as e:
                if e.code != "payload_too_large" or not history:
                    raise
                return self._store(subject, request, note.without_history().encoded())

        return await self._perform("put", subject, store)

    async def list(
        self, tenant: str | None = None, *, after_seq: int = 0, limit: int = 100
    ) -> Sequence[DeadLetter]:
        pattern = self._bus.subjects.dead("*", "*") if tenant is None else self._subject(tenant, None)

        def find() -> builtins.list[DeadLetter]:
            found = (entry for entry in self._bus.dead.find(pattern) if entry.seq > after_seq)
            return [_letter(entry) for entry in found if _is_letter(entry)][:limit]

        return await self._perform("list", pattern, find)

    async def get(self, tenant: str, job: str) -> DeadLetter | None:
        subject = self._subject(tenant, job)

        def find() -> DeadLetter | None:
            entry = genuine(self._bus, self._bus.dead, subject, _is_letter)
            return _letter(entry) if entry else None

        return await self._perform("get", subject, find)

    async def purge(self, tenant: str, job: str) -> None:
        subject = self._subject(tenant, job)

        def forget() -> None:
            for entry in tuple(self._bus.dead.find(subject)):
                self._bus.dead.delete(entry.seq)

        await self._perform("purge", subject, forget)

    def _store(self, subject: str, request: StoredRequest, note: str) -> int:
        headers = {k: v for k, v in request.headers.items() if not k.lower().startswith("nats-")}
        return self._bus.dead.store(subject, request.payload, {**headers, _NOTE: note}).seq

    def _subject(self, tenant: str, job: str | None) -> str:
        if not is_name(tenant) or not (job is None or is_name(job)):
            raise InvalidRequest(f"{tenant!r} and {job!r} do not name a job")
        return self._bus.subjects.dead(tenant, job or "*")

    async def _perform(self, name: str, subject: str, effect: Callable[[], T]) -> T:
        return await self._bus.perform(Operation(self._replica, f"dead.{name}", subject), effect)


def _is_letter(entry: Entry) -> bool:
    return _NOTE in entry.headers


def _letter(entry: Entry) -> DeadLetter:
    note = msgspec.json.decode(entry.headers[_NOTE], type=DeadNote)
    tenant, job = entry.subject.split(".")[-2:]
    headers = {k: v for k, v in entry.headers.items() if k != _NOTE}
    request = StoredRequest(
        note.request_seq, Lane(tenant, note.job_class), entry.payload, headers, epoch(note.stored)
    )
    return DeadLetter(entry.seq, job, request, note.reason, note.history, entry.stored_at)
