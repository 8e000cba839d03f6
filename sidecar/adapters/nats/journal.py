"""Steps of jobs with tools, as messages of one key beside the job's state document in bucket `LLM_JOB`."""

from collections.abc import Sequence

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.models.subjects import (
    HEADER_EXPECTED,
    HEADER_EXPECTED_OF,
    HEADER_OPERATION,
    HEADER_ROLLUP,
    HEADER_TTL,
    JOB_BUCKET,
    JOB_STREAM,
    job_key,
    journal_key,
)

_ROOT = f"$KV.{JOB_BUCKET}."
# A purge as the KV interface writes it; the marker that it leaves goes by itself.
_PURGE = {HEADER_OPERATION: "PURGE", HEADER_ROLLUP: "sub", HEADER_TTL: "1"}


class NatsJournal:
    """`Journal` over JetStream. A step costs one message and one acknowledgement; nothing is retried here.

    Steps lie under `$KV.LLM_JOB.<tenant>.<job>.journal`: in the stream of states and events, so that the state's
    revision can fence them, and outside of what is republished to clients.
    """

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, JOB_STREAM, is_replicated=is_replicated)
        self._is_replicated = is_replicated
        self._genuine = GenuineReader(
            self._reader, bucket=JOB_BUCKET, writes=mux.foreign_writes, is_genuine=is_no_acknowledgement
        )

    async def append(self, tenant: str, job: str, step: bytes, *, fence: int, keep_s: int) -> None:
        headers = {
            HEADER_EXPECTED: str(fence),
            HEADER_EXPECTED_OF: _ROOT + job_key(tenant, job),
            HEADER_TTL: str(max(1, keep_s)),
        }
        await self._mux.store(_ROOT + journal_key(tenant, job), step, headers=headers)

    async def read(self, tenant: str, job: str) -> Sequence[bytes]:
        subject = _ROOT + journal_key(tenant, job)
        newest = await self._reader.newest(subject) if self._is_replicated else None
        found: list[StoredMessage] = [item async for item in self._reader.scan(subject, seq=1)]
        while newest is not None and (not found or found[-1].seq < newest.seq):
            # A follower that lags: what it lacks, the leader has.
            item = await self._reader.next(subject, seq=found[-1].seq + 1 if found else 1)
            if item is None:
                break
            found.append(item)
        strangers = [item for item in found if not (item.is_tombstone or HEADER_EXPECTED_OF in item.headers)]
        if strangers:
            await self._genuine.remove(strangers)
        return [item.payload for item in found if HEADER_EXPECTED_OF in item.headers]

    async def purge(self, tenant: str, job: str) -> None:
        await self._mux.store(_ROOT + journal_key(tenant, job), b"", headers=_PURGE)
