"""Prompt templates in the KV bucket `LLM_PROMPT`."""

from collections.abc import Callable

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import TOMBSTONE, StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.errors import Conflict
from sidecar.models.authors import is_aimed
from sidecar.models.subjects import HEADER_EXPECTED, HEADER_OPERATION, PROMPT_BUCKET
from sidecar.ports.bus import StoredPrompt, StoredPrompts

_ROOT = f"$KV.{PROMPT_BUCKET}."


class NatsPromptStore:
    """`PromptStore` over a KV bucket. Changes are heard by a plain subscription: nats-py's KV watch can stall."""

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, f"KV_{PROMPT_BUCKET}", is_replicated=is_replicated)
        self._genuine = GenuineReader(
            self._reader, bucket=PROMPT_BUCKET, writes=mux.foreign_writes, is_genuine=is_no_acknowledgement
        )

    async def mark(self) -> int:
        return (await self._reader.contents()).last_seq

    async def load(self) -> StoredPrompts:
        found: dict[str, StoredPrompt | None] = {}
        foreign: list[StoredMessage] = []
        async for item in self._reader.scan(f"{_ROOT}>", seq=1):
            if not is_no_acknowledgement(item):
                foreign.append(item)
                continue
            key = item.subject.removeprefix(_ROOT)
            found[key] = None if item.is_tombstone else StoredPrompt(key, item.seq, item.payload)
        await self._genuine.remove(foreign)
        overrun = {item.subject.removeprefix(_ROOT) for item in foreign} - found.keys()
        return StoredPrompts([prompt for prompt in found.values() if prompt is not None], sorted(overrun))

    async def get(self, key: str, *, revision: int) -> bytes | None:
        found = await self._reader.get(revision)
        if found is None or found.subject != _ROOT + key or found.is_tombstone:
            return None
        return found.payload

    async def create(self, key: str, document: bytes) -> int:
        last = await self._genuine.last(_ROOT + key)
        if last is not None and not last.is_tombstone:
            raise Conflict(f"{key} is stored already")
        headers = {HEADER_EXPECTED: str(last.seq if last is not None else 0)}
        return (await self._mux.store(_ROOT + key, document, headers=headers)).seq

    async def delete(self, key: str) -> None:
        await self._mux.store(_ROOT + key, b"", headers={HEADER_OPERATION: "DEL"})

    async def listen(self, on_change: Callable[[str, bytes | None], None]) -> None:
        def hear(message: BusMessage) -> None:
            # A stranger's bytes are a change too: read back, they are met and taken away.
            is_template = TOMBSTONE not in message.raw_headers and not is_aimed(message.payload, message.headers)
            on_change(message.subject.removeprefix(_ROOT), message.payload if is_template else None)

        await self._mux.subscribe(f"{_ROOT}>", hear)
