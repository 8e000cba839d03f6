"""Leases in memory: twin of `adapters.nats.leases`."""

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.stream import Entry
from sidecar.errors import Conflict, InvalidRequest
from sidecar.models.subjects import is_name


class MemoryLeaseStore:
    """`LeaseStore` twin over a shared bus. A lease ends exactly when its time is over, on the bus's clock."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def acquire(self, name: str, holder: str, *, ttl_s: int) -> int | None:
        subject = _subject(name)

        def take() -> int | None:
            entry = self._last(subject)
            if entry is not None and entry.payload != holder.encode():
                return None
            return self._store(subject, holder, entry.seq if entry else 0, ttl_s)

        return await self._bus.perform(self._operation("acquire", subject), take)

    async def renew(self, name: str, holder: str, *, revision: int, ttl_s: int) -> int:
        if revision < 1:
            raise Conflict("a lease that was never held cannot be renewed")
        subject = _subject(name)
        return await self._bus.perform(
            self._operation("renew", subject), lambda: self._store(subject, holder, revision, ttl_s)
        )

    async def release(self, name: str, *, revision: int) -> None:
        await self._bus.perform(
            self._operation("release", _subject(name)), lambda: self._bus.control.delete(revision)
        )

    async def holder(self, name: str) -> str | None:
        subject = _subject(name)
        entry = await self._bus.perform(self._operation("holder", subject), lambda: self._last(subject))
        return entry.payload.decode() if entry else None

    def _last(self, subject: str) -> Entry | None:
        return self._bus.control.last(subject)

    def _store(self, subject: str, holder: str, expected: int, ttl_s: int) -> int:
        return self._bus.control.store(subject, holder.encode(), {}, expected=expected, ttl_s=ttl_s).seq

    def _operation(self, name: str, subject: str) -> Operation:
        return Operation(self._replica, f"leases.{name}", subject)


def _subject(name: str) -> str:
    if not is_name(name):
        raise InvalidRequest(f"{name!r} does not name a lease")
    return f"$KV.LLM_CTL.lease.{name}"
