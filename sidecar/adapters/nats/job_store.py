"""State documents in the KV bucket `LLM_JOB`, marks of cancellation in `LLM_CANCEL`."""

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import TOMBSTONE, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_by_replica, is_no_acknowledgement
from sidecar.adapters.nats.job_list import Places, Wanted, list_jobs
from sidecar.models import codec
from sidecar.models.authors import is_aimed
from sidecar.models.believed import document_of
from sidecar.models.job import JobState, State
from sidecar.models.subjects import CANCEL_BUCKET, HEADER_EXPECTED, HEADER_TTL, JOB_BUCKET, checked, job_key
from sidecar.ports.bus import PlacedJobs, Standing, StoredState

_STATES = f"$KV.{JOB_BUCKET}."
_MARKS = f"$KV.{CANCEL_BUCKET}."
# Somebody owns the job: who does writes the document again before it ages.
_OWNED: frozenset[State] = frozenset({"running", "waiting"})


class NatsJobStore:
    """`JobStore` over JetStream's key-value layout, written by compare-and-set.

    `is_replicated`: whether the streams have more than one replica. Then `get` and `is_cancelled` ask the leader,
    else a direct get is as true; one request either way, so a 404 is final and never asked a second time.

    `live_s`: documents of jobs that somebody owns are kept so long and no longer (s); the next document replaces
    them, and the last, which nobody refreshes, is kept as long as the stream keeps anything. None: all are kept
    alike. `now` is the time since 1970.

    A write whose answer was lost (BusUnavailable) may have happened: `get` tells, by comparing the document.

    `placed` is described in `job_list`.
    """

    def __init__(
        self,
        mux: Mux,
        *,
        is_replicated: bool = False,
        live_s: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._mux = mux
        self._live_s = live_s
        self._now = now
        self._states = StreamReader(mux, f"KV_{JOB_BUCKET}", is_replicated=is_replicated)
        marks = self._mark_reader = StreamReader(mux, f"KV_{CANCEL_BUCKET}", is_replicated=is_replicated)
        self._marks = GenuineReader(
            marks, bucket=CANCEL_BUCKET, writes=mux.foreign_writes, is_genuine=is_no_acknowledgement
        )
        self._documents = GenuineReader(
            self._states, bucket=JOB_BUCKET, writes=mux.foreign_writes, is_genuine=is_by_replica
        )

    async def get(self, tenant: str, job: str) -> StoredState | None:
        state, revision = await self.look(tenant, job)
        return StoredState(state, revision) if state is not None else None

    async def look(self, tenant: str, job: str) -> Standing:
        found = await self._documents.last(_STATES + job_key(tenant, job))
        if found is None:
            return Standing(None, 0)
        state = None if found.is_tombstone else document_of(found.payload, tenant=tenant, job=job)
        return Standing(state, found.seq)

    async def keeps_s(self) -> float | None:
        age = await self._states.max_age_s() or None
        if self._live_s is None:
            return age
        return min(age, self._live_s) if age else self._live_s

    async def create(self, state: JobState) -> int:
        return await self._write(state, 0)

    async def update(self, state: JobState, *, revision: int) -> int:
        return await self._write(state, revision)

    async def placed(
        self,
        tenant: str | None,
        *,
        matches: Callable[[JobState], bool],
        limit: int,
        before: int | None = None,
        after: int = 0,
        since: float | None = None,
    ) -> PlacedJobs:
        pattern = f"{_STATES}{'*' if tenant is None else checked(tenant)}.*"
        return await list_jobs(
            self._states,
            pattern,
            documents=self._documents,
            places=Places.at(self._now(), live_s=self._live_s),
            wanted=Wanted(matches, limit, before, after, -math.inf if since is None else since),
        )

    async def last_of(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredState]:
        by_subject = {_STATES + job_key(tenant, job): (tenant, job) for tenant, job in keys}
        found: dict[tuple[str, str], StoredState] = {}
        for subject, item in (await self._states.last_of(by_subject)).items():
            tenant, job = by_subject[subject]
            if not is_by_replica(item):
                stored = await self.get(tenant, job)
            else:
                state = None if item.is_tombstone else document_of(item.payload, tenant=tenant, job=job)
                stored = StoredState(state, item.seq) if state is not None else None
            if stored is not None:
                found[(tenant, job)] = stored
        return found

    async def history(self, tenant: str, job: str) -> Sequence[StoredState]:
        found = [item async for item in self._states.scan(_STATES + job_key(tenant, job), seq=1)]
        states = [(document_of(item.payload, tenant=tenant, job=job), item.seq) for item in found]
        return [StoredState(state, seq) for state, seq in states if state is not None]

    async def mark_cancelled(self, tenant: str, job: str, *, reason: str | None = None) -> None:
        await self._mux.store(_MARKS + job_key(tenant, job), (reason or "").encode())

    async def is_cancelled(self, tenant: str, job: str) -> bool:
        found = await self._marks.last(_MARKS + job_key(tenant, job))
        return found is not None and not found.is_tombstone

    async def marks(self) -> AsyncIterator[tuple[str, str]]:
        async for item in self._mark_reader.scan(f"{_MARKS}*.*", seq=1):
            if not item.is_tombstone and is_no_acknowledgement(item):
                tenant, _, job = item.subject.removeprefix(_MARKS).partition(".")
                yield tenant, job

    async def listen_cancelled(
        self, on_mark: Callable[[str, str], None], on_gap: Callable[[], None] = lambda: None
    ) -> None:
        def hear(message: BusMessage) -> None:
            tenant, _, job = message.subject.removeprefix(_MARKS).partition(".")
            if is_aimed(message.payload, message.headers):
                self._marks.tidy(message.subject)
            elif TOMBSTONE not in message.raw_headers:
                on_mark(tenant, job)

        await self._mux.subscribe(f"{_MARKS}*.*", hear)
        self._mux.connection.on_state(lambda state: on_gap() if state == "connected" else None)

    async def _write(self, state: JobState, revision: int) -> int:
        subject = _STATES + job_key(state.tenant, state.job)
        headers = {HEADER_EXPECTED: str(revision)}
        if self._live_s is not None and state.state in _OWNED:
            headers[HEADER_TTL] = str(self._live_s)
        ack = await self._mux.store(subject, codec.encode(state), headers=headers)
        return ack.seq
