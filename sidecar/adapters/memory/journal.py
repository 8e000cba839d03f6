"""Steps of jobs in memory: twin of `adapters.nats.journal`."""

from collections.abc import Sequence

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.errors import InvalidRequest
from sidecar.models.subjects import is_name, journal_key

_FENCE_OF = "Nats-Expected-Last-Subject-Sequence-Subject"


class MemoryJournal:
    """`Journal` twin over a shared bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def append(self, tenant: str, job: str, step: bytes, *, fence: int, keep_s: int) -> None:
        subject = _key(tenant, job)

        def store() -> None:
            self._bus.jobs.store(
                subject,
                step,
                {_FENCE_OF: f"$KV.LLM_JOB.{tenant}.{job}"},
                expected=fence,
                expected_subject=f"$KV.LLM_JOB.{tenant}.{job}",
                ttl_s=keep_s,
            )

        await self._bus.perform(Operation(self._replica, "journal.append", f"{tenant}.{job}"), store)

    async def read(self, tenant: str, job: str) -> Sequence[bytes]:
        subject = _key(tenant, job)
        return await self._bus.perform(
            Operation(self._replica, "journal.read", f"{tenant}.{job}"),
            lambda: [entry.payload for entry in self._bus.jobs.find(subject) if _FENCE_OF in entry.headers],
        )

    async def purge(self, tenant: str, job: str) -> None:
        subject = _key(tenant, job)

        def purge() -> None:
            for entry in list(self._bus.jobs.find(subject)):
                self._bus.jobs.delete(entry.seq)

        await self._bus.perform(Operation(self._replica, "journal.purge", f"{tenant}.{job}"), purge)


def _key(tenant: str, job: str) -> str:
    if not (is_name(tenant) and is_name(job)):
        raise InvalidRequest(f"{tenant!r} and {job!r} do not name a job")
    return f"$KV.LLM_JOB.{journal_key(tenant, job)}"
