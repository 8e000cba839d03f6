"""What tenants spent, in memory: twin of `adapters.nats.spend`."""

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.stream import MSG_ID
from sidecar.errors import InvalidRequest
from sidecar.models.subjects import is_name


class MemorySpendLedger:
    """`SpendLedger` twin over a shared bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def add(self, tenant: str, day: int, micro_usd: int, *, call_id: str) -> int:
        subject = self._subject(tenant, day)

        def count() -> int:
            before = self._total(subject)
            total = b"%d" % (before + micro_usd)
            ack = self._bus.control.store(subject, total, {MSG_ID: call_id})
            return before if ack.duplicate else before + micro_usd

        return await self._bus.perform(Operation(self._replica, "spend.add", subject), count)

    async def total(self, tenant: str, day: int) -> int:
        subject = self._subject(tenant, day)
        operation = Operation(self._replica, "spend.total", subject)
        return await self._bus.perform(operation, lambda: self._total(subject))

    def _total(self, subject: str) -> int:
        entry = self._bus.control.last(subject)
        return int(entry.payload) if entry else 0

    def _subject(self, tenant: str, day: int) -> str:
        if not is_name(tenant):
            raise InvalidRequest(f"{tenant!r} does not name a tenant")
        return self._bus.subjects.spend(tenant, str(day))
