"""Leases in the KV bucket `LLM_CTL`: compare-and-set, and a time to live that the server keeps."""

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.job_store import EXPECTED
from sidecar.errors import Conflict, InvalidRequest
from sidecar.models.subjects import CONTROL_BUCKET, is_name

_ROOT = f"$KV.{CONTROL_BUCKET}.lease."
_TTL = "Nats-TTL"


class NatsLeaseStore:
    """`LeaseStore` over a KV bucket: `lease.<name>` holds the holder's name, its sequence is the revision.

    Each call is one request, `acquire` two where the lease is taken. Releasing deletes the holder's own message
    by its sequence, so it can never hit a rival's.
    """

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, f"KV_{CONTROL_BUCKET}", is_replicated=is_replicated)

    async def acquire(self, name: str, holder: str, *, ttl_s: int) -> int | None:
        try:
            return await self._store(name, holder, 0, ttl_s)
        except Conflict:
            found = await self._reader.last(_subject(name))
        try:
            if found is None:
                return await self._store(name, holder, 0, ttl_s)
            # A tombstone is nobody's: somebody deleted the key by hand.
            if found.is_tombstone or found.payload == holder.encode():
                return await self._store(name, holder, found.seq, ttl_s)
        except Conflict:
            return None
        return None

    async def renew(self, name: str, holder: str, *, revision: int, ttl_s: int) -> int:
        if revision < 1:
            raise Conflict("a lease that was never held cannot be renewed")
        return await self._store(name, holder, revision, ttl_s)

    async def release(self, name: str, *, revision: int) -> None:
        await self._reader.delete(revision)

    async def holder(self, name: str) -> str | None:
        found = await self._reader.last(_subject(name))
        return None if found is None or found.is_tombstone else found.payload.decode("utf-8", "replace")

    async def _store(self, name: str, holder: str, expected: int, ttl_s: int) -> int:
        headers = {EXPECTED: str(expected), _TTL: str(ttl_s)}
        return (await self._mux.store(_subject(name), holder.encode(), headers=headers)).seq


def _subject(name: str) -> str:
    if not is_name(name):
        raise InvalidRequest(f"{name!r} does not name a lease")
    return _ROOT + name
