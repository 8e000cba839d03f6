"""State documents and marks of cancellation in memory: twin of `adapters.nats.job_store`."""

import builtins
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.genuine import genuine
from sidecar.adapters.memory.stream import Entry
from sidecar.errors import InvalidRequest
from sidecar.models import codec
from sidecar.models.api import JobsPage
from sidecar.models.authors import is_aimed
from sidecar.models.believed import document_of
from sidecar.models.job import JobState, State
from sidecar.models.subjects import is_name
from sidecar.ports.bus import Standing, StoredState

T = TypeVar("T")

_STATES = "$KV.LLM_JOB."
_MARKS = "$KV.LLM_CANCEL."
_FIRST = "Nats-Expected-Last-Subject-Sequence"


class MemoryJobStore:
    """`JobStore` twin over a shared bus. Documents go through their encoding, as on the bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def get(self, tenant: str, job: str) -> StoredState | None:
        state, revision = await self.look(tenant, job)
        return StoredState(state, revision) if state is not None else None

    async def look(self, tenant: str, job: str) -> Standing:
        def find() -> Standing:
            entry = genuine(self._bus, self._bus.jobs, subject, _is_by_replica)
            if entry is None:
                return Standing(None, 0)
            return Standing(document_of(entry.payload, tenant=tenant, job=job), entry.seq)

        subject = _key(_STATES, tenant, job)
        return await self._perform("get", tenant, job, find)

    async def keeps_s(self) -> float | None:
        return self._bus.jobs.limits.max_age_s

    async def create(self, state: JobState) -> int:
        return await self._write("create", state, 0)

    async def update(self, state: JobState, *, revision: int) -> int:
        return await self._write("update", state, revision)

    async def list(
        self, tenant: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> JobsPage:
        if not is_name(tenant):
            raise InvalidRequest(f"{tenant!r} does not name a tenant")
        before = _position(cursor)
        return await self._perform("list", tenant, "*", lambda: self._page(tenant, state, limit, before))

    async def history(self, tenant: str, job: str) -> Sequence[StoredState]:
        subject = _key(_STATES, tenant, job)

        def find() -> builtins.list[StoredState]:
            found = self._bus.jobs.find(subject)
            states = [(document_of(entry.payload, tenant=tenant, job=job), entry.seq) for entry in found]
            return [StoredState(state, seq) for state, seq in states if state is not None]

        return await self._perform("history", tenant, job, find)

    async def mark_cancelled(self, tenant: str, job: str, *, reason: str | None = None) -> None:
        subject = _key(_MARKS, tenant, job)

        def mark() -> None:
            ack = self._bus.marks.store(subject, (reason or "").encode(), {})
            self._bus.tell(Hint(subject, (reason or "").encode(), {}, ack.seq))

        await self._perform("mark_cancelled", tenant, job, mark)

    async def is_cancelled(self, tenant: str, job: str) -> bool:
        subject = _key(_MARKS, tenant, job)

        def look() -> bool:
            return genuine(self._bus, self._bus.marks, subject) is not None

        return await self._perform("is_cancelled", tenant, job, look)

    async def listen_cancelled(self, on_mark: Callable[[str, str], None]) -> None:
        def hear(hint: Hint) -> None:
            tenant, _, job = hint.subject.removeprefix(_MARKS).partition(".")
            if is_aimed(hint.payload, hint.headers):
                genuine(self._bus, self._bus.marks, hint.subject)
            else:
                on_mark(tenant, job)

        self._bus.listen(self._replica, f"{_MARKS}*.*", hear)

    async def _write(self, name: str, state: JobState, expected: int) -> int:
        payload = codec.encode(state)
        headers = {_FIRST: str(expected)}
        subject = _key(_STATES, state.tenant, state.job)

        def store() -> int:
            return self._bus.jobs.store(subject, payload, headers, expected=expected).seq

        return await self._perform(name, state.tenant, state.job, store)

    def _page(self, tenant: str, state: State | None, limit: int, before: int) -> JobsPage:
        found: list[JobState] = []
        for entry in reversed(list(self._bus.jobs.find(f"{_STATES}{tenant}.*"))):
            if entry.seq >= before or entry.headers.get(_FIRST) != "0":
                continue
            last = genuine(self._bus, self._bus.jobs, entry.subject, _is_by_replica)
            job = entry.subject.rpartition(".")[2]
            document = document_of((last or entry).payload, tenant=tenant, job=job)
            if document is None or (state is not None and document.state != state):
                continue
            if len(found) == limit:
                return JobsPage(jobs=tuple(found), cursor=str(before))
            found.append(msgspec.structs.replace(document, result=None))
            before = entry.seq
        return JobsPage(jobs=tuple(found))

    async def _perform(self, name: str, tenant: str, job: str, effect: Callable[[], T]) -> T:
        return await self._bus.perform(Operation(self._replica, f"jobs.{name}", f"{tenant}.{job}"), effect)


def _is_by_replica(entry: Entry) -> bool:
    return _FIRST in entry.headers or "KV-Operation" in entry.headers


def _key(root: str, tenant: str, job: str) -> str:
    if not (is_name(tenant) and is_name(job)):
        raise InvalidRequest(f"{tenant!r} and {job!r} do not name a job")
    return f"{root}{tenant}.{job}"


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 1 << 63
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 20):
        raise InvalidRequest("is not the cursor of an earlier page: leave it out to start anew", path="cursor")
    return int(cursor)
