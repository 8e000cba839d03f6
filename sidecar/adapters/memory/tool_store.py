"""Published versions of tools in memory: twin of `adapters.nats.tool_store`."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.stream import Entry
from sidecar.models.base import epoch, rfc3339
from sidecar.models.subjects import TOOL_BUCKET, token_version, version_token
from sidecar.ports.tools import StoredTool, ToolChange, ToolKey, ToolSnapshot

T = TypeVar("T")

_ROOT = f"$KV.{TOOL_BUCKET}."
_EXPIRES = "Llm-Expires"
_TOMBSTONE_S = 3600


class MemoryToolStore:
    """`ToolStore` twin over a shared bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def put(self, key: ToolKey, document: bytes, *, expires: float, revision: int, keep_s: int) -> int:
        subject = _subject(key)

        def store() -> int:
            last = self._bus.tools.last(subject)
            is_free = last is not None and (
                (revision == 0 and not last.payload) or _is_foreign(last.payload, last.headers)
            )
            expected = last.seq if is_free and last is not None else revision
            return self._write(subject, document, {_EXPIRES: rfc3339(expires)}, expected, keep_s)

        return await self._perform("put", subject, store)

    async def get(self, key: ToolKey) -> StoredTool | None:
        subject = _subject(key)
        return await self._perform("get", subject, lambda: _stored(self._bus.tools.last(subject)))

    async def delete(self, key: ToolKey, *, revision: int) -> None:
        subject = _subject(key)
        await self._perform("delete", subject, lambda: self._write(subject, b"", {}, revision, _TOMBSTONE_S))

    async def discard(self, revision: int) -> None:
        await self._perform("discard", _ROOT, lambda: self._bus.tools.delete(revision))

    async def snapshot(self) -> ToolSnapshot:
        def read() -> ToolSnapshot:
            entries = list(self._bus.tools.find(f"{_ROOT}>"))
            found = [_stored(entry) for entry in entries]
            foreign = [
                ToolChange(entry.seq, _key(entry.subject), None, is_foreign=True)
                for entry in entries
                if _is_foreign(entry.payload, entry.headers)
            ]
            self._bus.foreign_writes[TOOL_BUCKET] += len(foreign)
            return ToolSnapshot([tool for tool in found if tool is not None], self._bus.tools.last_seq, foreign)

        return await self._perform("snapshot", _ROOT, read)

    async def last_revision(self) -> int:
        return await self._perform("last_revision", _ROOT, lambda: self._bus.tools.last_seq)

    async def listen(self, on_change: Callable[[ToolChange], None]) -> None:
        def hear(hint: Hint) -> None:
            key = _key(hint.subject)
            if _is_foreign(hint.payload, hint.headers):
                self._bus.foreign_writes[TOOL_BUCKET] += 1
                on_change(ToolChange(hint.seq, key, None, is_foreign=True))
                return
            expires = epoch(hint.headers[_EXPIRES]) if hint.payload else 0.0
            stored = StoredTool(key, hint.payload, expires, hint.seq) if hint.payload else None
            on_change(ToolChange(hint.seq, key, stored))

        self._bus.listen(self._replica, f"{_ROOT}>", hear)

    def _write(self, subject: str, document: bytes, headers: dict[str, str], revision: int, keep_s: int) -> int:
        ack = self._bus.tools.store(subject, document, headers, expected=revision, ttl_s=keep_s)
        self._bus.tell(Hint(subject, document, headers, ack.seq))
        return ack.seq

    async def _perform(self, name: str, subject: str, effect: Callable[[], T]) -> T:
        return await self._bus.perform(Operation(self._replica, f"tools.{name}", subject), effect)


def _subject(key: ToolKey) -> str:
    return f"{_ROOT}{key.scope}.{key.name}.{version_token(key.version)}"


def _key(subject: str) -> ToolKey:
    scope, name, token = subject.removeprefix(_ROOT).split(".")
    return ToolKey(scope, name, token_version(token))


def _is_foreign(payload: bytes, headers: Mapping[str, str]) -> bool:
    return bool(payload) and _EXPIRES not in headers


def _stored(entry: Entry | None) -> StoredTool | None:
    """An empty value stands for a version forgotten."""
    if entry is None or not entry.payload or _is_foreign(entry.payload, entry.headers):
        return None
    return StoredTool(_key(entry.subject), entry.payload, epoch(entry.headers[_EXPIRES]), entry.seq)
