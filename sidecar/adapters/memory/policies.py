"""The operators' policy in memory: twin of `adapters.nats.policies`."""

from collections.abc import Callable

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.models.subjects import CONFIG_BUCKET

_SUBJECT = f"$KV.{CONFIG_BUCKET}.policy"


class MemoryPolicyStore:
    """`PolicyStore` twin over a shared bus. A marker stands for a document taken away."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def load(self) -> bytes | None:
        operation = Operation(self._replica, "policies.load", _SUBJECT)
        entry = await self._bus.perform(operation, lambda: self._bus.config.last(_SUBJECT))
        return None if entry is None or "KV-Operation" in entry.headers else entry.payload

    async def save(self, document: bytes | None) -> None:
        headers = {"KV-Operation": "DEL"} if document is None else {}

        def store() -> None:
            ack = self._bus.config.store(_SUBJECT, document or b"", headers)
            self._bus.tell(Hint(_SUBJECT, document or b"", headers, ack.seq))

        await self._bus.perform(Operation(self._replica, "policies.save", _SUBJECT), store)

    async def listen(self, on_change: Callable[[], None]) -> None:
        def hear(hint: Hint) -> None:
            on_change()

        self._bus.listen(self._replica, _SUBJECT, hear)
