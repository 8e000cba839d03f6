"""The operators' policy in the KV bucket `LLM_CONFIG`."""

from collections.abc import Callable

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.models.subjects import CONFIG_BUCKET

POLICY_KEY = "policy"
_ROOT = f"$KV.{CONFIG_BUCKET}."


class NatsPolicyStore:
    """`PolicyStore` over a KV bucket. Changes are heard by a plain subscription: nats-py's KV watch can stall."""

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, f"KV_{CONFIG_BUCKET}", is_replicated=is_replicated)

    async def load(self) -> bytes | None:
        found = await self._reader.last(_ROOT + POLICY_KEY)
        return None if found is None or found.is_tombstone else found.payload

    async def save(self, document: bytes | None) -> None:
        headers = {"KV-Operation": "DEL"} if document is None else None
        await self._mux.store(_ROOT + POLICY_KEY, document or b"", headers=headers)

    async def listen(self, on_change: Callable[[], None]) -> None:
        def hear(message: BusMessage) -> None:
            on_change()

        await self._mux.subscribe(f"{_ROOT}>", hear)
