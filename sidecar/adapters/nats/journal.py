"""Steps of jobs with tools, as messages of one key beside the job's state document in bucket `LLM_JOB`."""

from collections.abc import Sequence

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.adapters.nats.job_store import EXPECTED
from sidecar.errors import InvalidRequest
from sidecar.models.subjects import JOB_BUCKET, JOB_STREAM, is_name, journal_key

_EXPECTED_OF = f"{EXPECTED}-Subject"
_ROOT = f"$KV.{JOB_BUCKET}."
# A purge as the KV interface writes it; the marker that it leaves goes by itself.
_PURGE = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": "1"}


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
            EXPECTED: str(fence),
            _EXPECTED_OF: f"{_ROOT}{tenant}.{job}",
            "Nats-TTL": str(max(1, keep_s)),
        }
        await self._mux.store(_subject(tenant, job), step, headers=headers)

    async def read(self, tenant: str, job: str) -> Sequence[bytes]:
        subject = _subject(tenant, job)
        newest = await self._reader.newest(subject) if self._is_replicated else None
        found: list[StoredMessage] = [item async for item in self._reader.scan(subject, seq=1)]
        while newest is not None and (not found or found[-1].seq < newest.seq):
            # A follower that lags: what it lacks, the leader has.
            item = await self._reader.next(subject, seq=found[-1].seq + 1 if found else 1)
            if item is None:
                break
            found.append(item)
        strangers = [item for item in found if not (item.is_tombstone or _EXPECTED_OF in item.headers)]
        if strangers:
            await self._genuine.remove(strangers)
        return [item.payload for item in found if _EXPECTED_OF in item.headers]

    async def purge(self, tenant: str, job: str) -> None:
        await self._mux.store(_subject(tenant, job), b"", headers=_PURGE)


def _subject(tenant: str, job: str) -> str:
    if not (is_name(tenant) and is_name(job)):
        raise InvalidRequest(f"{tenant!r} and {job!r} do not name a job")
    return f"{_ROOT}{journal_key(tenant, job)}"
