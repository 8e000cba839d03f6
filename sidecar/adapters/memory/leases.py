"""Leases in memory: twin of `adapters.nats.leases`."""

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.stream import Entry
from sidecar.errors import Conflict, InvalidRequest
from sidecar.models.authors import TTL, is_lease
from sidecar.models.subjects import CONTROL_BUCKET, is_name


class MemoryLeaseStore:
    """`LeaseStore` twin over a shared bus. A lease ends exactly when its time is over, on the bus's clock."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica
        self._seen_at: dict[str, float] = {}

    async def acquire(self, name: str, holder: str, *, ttl_s: int, foreign_s: float = 0.0) -> int | None:
        subject = _subject(name)

        def take() -> int | None:
            entry = self._last(subject)
            now = self._bus.clock.now()
            if entry is not None and self._is_foreign(entry):
                seen_at = self._seen_at.setdefault(name, now)
                if now - min(entry.stored_at, seen_at) < foreign_s:
                    return None
            elif entry is not None and entry.payload != holder.encode():
                self._seen_at[name] = now
                return None
            return self._store(subject, holder, entry.seq if entry else 0, ttl_s)

        return await self._bus.perform(self._operation("acquire", subject), take)

    async def renew(self, name: str, holder: str, *, revision: int, ttl_s: int) -> int:
        if revision < 1:
            raise Conflict("a lease that was never held cannot be renewed")
        subject = _subject(name)

        def hold_on() -> int:
            entry = self._last(subject)
            expected = entry.seq if entry is not None and self._is_foreign(entry) else revision
            return self._store(subject, holder, expected, ttl_s)

        return await self._bus.perform(self._operation("renew", subject), hold_on)

    async def release(self, name: str, *, revision: int) -> None:
        await self._bus.perform(
            self._operation("release", _subject(name)), lambda: self._bus.control.delete(revision)
        )

    async def holder(self, name: str) -> str | None:
        subject = _subject(name)
        entry = await self._bus.perform(self._operation("holder", subject), lambda: self._last(subject))
        return entry.payload.decode() if entry is not None and _is_lease(entry) else None

    def _is_foreign(self, entry: Entry | None) -> bool:
        if entry is None or _is_lease(entry):
            return False
        self._bus.foreign_writes[CONTROL_BUCKET] += 1
        return True

    def _last(self, subject: str) -> Entry | None:
        return self._bus.control.last(subject)

    def _store(self, subject: str, holder: str, expected: int, ttl_s: int) -> int:
        headers = {TTL: str(ttl_s)}
        return self._bus.control.store(subject, holder.encode(), headers, expected=expected, ttl_s=ttl_s).seq

    def _operation(self, name: str, subject: str) -> Operation:
        return Operation(self._replica, f"leases.{name}", subject)


def _is_lease(entry: Entry) -> bool:
    return is_lease(entry.payload, entry.headers)


def _subject(name: str) -> str:
    if not is_name(name):
        raise InvalidRequest(f"{name!r} does not name a lease")
    return f"$KV.LLM_CTL.lease.{name}"
