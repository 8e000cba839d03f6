"""The KV bucket `LLM_CTL`: checkpoints; leases by compare-and-set, with a time to live that the server keeps."""

import time
from collections.abc import Callable

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.errors import Conflict
from sidecar.models.authors import is_lease
from sidecar.models.subjects import CONTROL_BUCKET, HEADER_EXPECTED, HEADER_TTL, checked

_LEASES = f"$KV.{CONTROL_BUCKET}.lease."
_MOST_TRIES = 3


class NatsLeaseStore:
    """`LeaseStore` over a KV bucket: `lease.<name>` holds the holder's name, its sequence is the revision.

    Each call is one request, `acquire` two where the lease is taken. Releasing deletes the holder's own message
    by its sequence, so it can never hit a rival's. What is no lease (`is_lease`) is written over by its sequence.
    `monotonic` is the clock by which foreign values are left alone.
    """

    def __init__(
        self, mux: Mux, *, is_replicated: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._mux = mux
        self._monotonic = monotonic
        self._seen_at: dict[str, float] = {}
        self._reader = StreamReader(mux, f"KV_{CONTROL_BUCKET}", is_replicated=is_replicated)

    async def acquire(
        self,
        name: str,
        holder: str,
        *,
        ttl_s: int,
        foreign_s: float = 0.0,
        is_own: Callable[[str], bool] = lambda found: False,
    ) -> int | None:
        expected = 0
        for _ in range(_MOST_TRIES):
            try:
                return await self._store(name, holder, expected, ttl_s)
            except Conflict:
                found = await self._reader.last(_LEASES + checked(name))
            if found is None:
                expected = 0
            elif found.is_tombstone or (
                _is_lease(found) and (found.payload == holder.encode() or is_own(found.payload.decode()))
            ):
                # A tombstone is nobody's: somebody deleted the key by hand.
                expected = found.seq
            elif _is_lease(found):
                self._seen_at[name] = self._monotonic()
                return None
            elif await self._is_left(name, found, foreign_s):
                return None
            else:
                expected = self._foreign(found)
        return None

    async def renew(self, name: str, holder: str, *, revision: int, ttl_s: int) -> int:
        if revision < 1:
            raise Conflict("a lease that was never held cannot be renewed")
        for _ in range(_MOST_TRIES):
            try:
                return await self._store(name, holder, revision, ttl_s)
            except Conflict:
                found = await self._reader.last(_LEASES + checked(name))
                if found is None or found.is_tombstone or _is_lease(found):
                    raise
                # Nobody took the lease: a stranger wrote over it, and replaced exactly this holder's.
                revision = self._foreign(found)
        raise Conflict("strangers write over the lease faster than it can be renewed")

    async def release(self, name: str, *, revision: int) -> None:
        await self._reader.delete(revision)

    async def holder(self, name: str) -> str | None:
        found = await self._reader.last(_LEASES + checked(name))
        return found.payload.decode() if found is not None and _is_lease(found) else None

    async def _is_left(self, name: str, found: StoredMessage, foreign_s: float) -> bool:
        """Whether a foreign value is left to the holder that it may have been written over, for now."""
        now = self._monotonic()
        if now - self._seen_at.setdefault(name, now) >= foreign_s:
            return False
        # By the server's own clock: this process's may go wrong.
        return await self._reader.server_time() - found.stored_at < foreign_s

    def _foreign(self, found: StoredMessage) -> int:
        self._mux.foreign_writes.met(CONTROL_BUCKET, subject=found.subject, seq=found.seq, payload=found.payload)
        return found.seq

    async def _store(self, name: str, holder: str, expected: int, ttl_s: int) -> int:
        headers = {HEADER_EXPECTED: str(expected), HEADER_TTL: str(ttl_s)}
        return (await self._mux.store(_LEASES + checked(name), holder.encode(), headers=headers)).seq


def _is_lease(found: StoredMessage) -> bool:
    return is_lease(found.payload, found.headers)


_CHECKPOINTS = f"$KV.{CONTROL_BUCKET}.checkpoint."


class NatsCheckpoints:
    """`Checkpoints` over a KV bucket: key `checkpoint.<name>`."""

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        reader = StreamReader(mux, f"KV_{CONTROL_BUCKET}", is_replicated=is_replicated)
        self._reader = GenuineReader(
            reader, bucket=CONTROL_BUCKET, writes=mux.foreign_writes, is_genuine=is_no_acknowledgement
        )

    async def save(self, name: str, payload: bytes) -> None:
        await self._mux.store(_CHECKPOINTS + checked(name), payload)

    async def load(self, name: str) -> bytes | None:
        found = await self._reader.last(_CHECKPOINTS + checked(name))
        return None if found is None or found.is_tombstone else found.payload
