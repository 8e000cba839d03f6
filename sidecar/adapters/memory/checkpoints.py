"""Checkpoints in memory: twin of `adapters.nats.checkpoints`."""

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.genuine import genuine
from sidecar.errors import InvalidRequest
from sidecar.models.subjects import is_name


class MemoryCheckpoints:
    """`Checkpoints` twin over a shared bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def save(self, name: str, payload: bytes) -> None:
        subject = _subject(name)
        operation = Operation(self._replica, "checkpoints.save", subject)
        await self._bus.perform(operation, lambda: self._bus.control.store(subject, payload, {}))

    async def load(self, name: str) -> bytes | None:
        subject = _subject(name)
        operation = Operation(self._replica, "checkpoints.load", subject)
        entry = await self._bus.perform(operation, lambda: genuine(self._bus, self._bus.control, subject))
        return entry.payload if entry else None


def _subject(name: str) -> str:
    if not is_name(name):
        raise InvalidRequest(f"{name!r} does not name a checkpoint")
    return f"$KV.LLM_CTL.checkpoint.{name}"
