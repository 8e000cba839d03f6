"""Prompt templates in the KV bucket `LLM_PROMPT`."""

from collections.abc import Callable, Sequence

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import TOMBSTONE, StreamReader
from sidecar.adapters.nats.job_store import EXPECTED
from sidecar.errors import Conflict
from sidecar.models.subjects import PROMPT_BUCKET
from sidecar.ports.bus import StoredPrompt

_ROOT = f"$KV.{PROMPT_BUCKET}."


class NatsPromptStore:
    """`PromptStore` over a KV bucket. Changes are heard by a plain subscription: nats-py's KV watch can stall."""

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, f"KV_{PROMPT_BUCKET}", is_replicated=is_replicated)

    async def mark(self) -> int:
        return (await self._reader.contents()).last_seq

    async def load(self) -> Sequence[StoredPrompt]:
        found: dict[str, StoredPrompt | None] = {}
        async for item in self._reader.scan(f"{_ROOT}>", seq=1):
            key = item.subject.removeprefix(_ROOT)
            found[key] = None if item.is_tombstone else StoredPrompt(key, item.seq, item.payload)
        return [prompt for prompt in found.values() if prompt is not None]

    async def get(self, key: str, *, revision: int) -> bytes | None:
        found = await self._reader.get(revision)
        if found is None or found.subject != _ROOT + key or found.is_tombstone:
            return None
        return found.payload

    async def create(self, key: str, document: bytes) -> int:
        last = await self._reader.newest(_ROOT + key)
        if last is not None and not last.is_tombstone:
            raise Conflict(f"{key} is stored already")
        headers = {EXPECTED: str(last.seq if last is not None else 0)}
        return (await self._mux.store(_ROOT + key, document, headers=headers)).seq

    async def delete(self, key: str) -> None:
        await self._mux.store(_ROOT + key, b"", headers={"KV-Operation": "DEL"})

    async def listen(self, on_change: Callable[[str, bytes | None], None]) -> None:
        def hear(message: BusMessage) -> None:
            is_gone = TOMBSTONE in message.raw_headers
            on_change(message.subject.removeprefix(_ROOT), None if is_gone else message.payload)

        await self._mux.subscribe(f"{_ROOT}>", hear)
