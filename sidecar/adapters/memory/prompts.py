"""Prompt templates in memory: twin of `adapters.nats.prompts`."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.genuine import genuine
from sidecar.errors import Conflict
from sidecar.models.authors import is_aimed
from sidecar.models.subjects import PROMPT_BUCKET
from sidecar.ports.bus import StoredPrompt, StoredPrompts

T = TypeVar("T")

_ROOT = f"$KV.{PROMPT_BUCKET}."
_GONE: Mapping[str, str] = {"KV-Operation": "DEL"}


class MemoryPromptStore:
    """`PromptStore` twin over a shared bus. A marker stands for a document taken away."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def mark(self) -> int:
        return await self._perform("mark", "", lambda: self._bus.prompts.last_seq)

    async def load(self) -> StoredPrompts:
        def find() -> StoredPrompts:
            found: dict[str, StoredPrompt] = {}
            overrun: list[str] = []
            for subject in self._bus.prompts.counts(f"{_ROOT}>"):
                key = subject.removeprefix(_ROOT)
                entry = genuine(self._bus, self._bus.prompts, subject)
                if entry is None:
                    overrun.append(key)
                elif "KV-Operation" not in entry.headers:
                    found[key] = StoredPrompt(key, entry.seq, entry.payload)
            return StoredPrompts(list(found.values()), overrun)

        return await self._perform("load", "", find)

    async def get(self, key: str, *, revision: int) -> bytes | None:
        entry = await self._perform("get", key, lambda: self._bus.prompts.get(revision))
        if entry is None or entry.subject != _ROOT + key or "KV-Operation" in entry.headers:
            return None
        return entry.payload

    async def create(self, key: str, document: bytes) -> int:
        def store() -> int:
            last = genuine(self._bus, self._bus.prompts, _ROOT + key)
            if last is not None and "KV-Operation" not in last.headers:
                raise Conflict(f"{key} is stored already")
            return self._store(key, document, {})

        return await self._perform("create", key, store)

    async def delete(self, key: str) -> None:
        await self._perform("delete", key, lambda: self._store(key, b"", _GONE))

    async def listen(self, on_change: Callable[[str, bytes | None], None]) -> None:
        def hear(hint: Hint) -> None:
            is_gone = "KV-Operation" in hint.headers or is_aimed(hint.payload, hint.headers)
            on_change(hint.subject.removeprefix(_ROOT), None if is_gone else hint.payload)

        self._bus.listen(self._replica, f"{_ROOT}>", hear)

    def _store(self, key: str, document: bytes, headers: Mapping[str, str]) -> int:
        ack = self._bus.prompts.store(_ROOT + key, document, headers)
        self._bus.tell(Hint(_ROOT + key, document, headers, ack.seq))
        return ack.seq

    async def _perform(self, name: str, key: str, effect: Callable[[], T]) -> T:
        return await self._bus.perform(Operation(self._replica, f"prompts.{name}", _ROOT + key), effect)
