"""The operators' policy in memory: twin of `adapters.nats.policies`."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import TypeVar

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.genuine import genuine, is_no_acknowledgement
from sidecar.adapters.memory.stream import Entry
from sidecar.errors import Conflict
from sidecar.models.subjects import CONFIG_BUCKET
from sidecar.ports.cluster import StoredPolicy

T = TypeVar("T")

_SUBJECT = f"$KV.{CONFIG_BUCKET}.policy"
_GOOD = f"{_SUBJECT}.good."
_ACCEPTED = "Llm-Policy"
_HISTORY = 10
_numbers = count()


class MemoryPolicyStore:
    """`PolicyStore` twin over a shared bus. A marker stands for a document taken away."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    async def load(self) -> StoredPolicy:
        def find() -> StoredPolicy:
            found = list(self._bus.config.find(_SUBJECT))
            if len(found) >= _HISTORY and not any(map(is_no_acknowledgement, found)):
                return StoredPolicy(None, "overrun")
            entry = genuine(self._bus, self._bus.config, _SUBJECT)
            if entry is None:
                return StoredPolicy(None, "absent")
            return StoredPolicy(None if "KV-Operation" in entry.headers else entry.payload, "said")

        return await self._perform("load", find)

    async def save(self, document: bytes | None) -> None:
        await self._perform("save", lambda: self._store(document))

    async def put_back(self, document: bytes | None) -> None:
        def store() -> None:
            last = self._bus.config.last(_SUBJECT)
            if last is not None and is_no_acknowledgement(last):
                raise Conflict("an operator has said what the policy is")
            self._store(document, expected=last.seq if last is not None else 0)
            for entry in list(self._bus.config.find(_SUBJECT)):
                if not is_no_acknowledgement(entry):
                    self._bus.config.delete(entry.seq)

        await self._perform("put_back", store)

    async def load_good(self) -> StoredPolicy | None:
        def find() -> StoredPolicy | None:
            kept = [entry for entry in self._kept() if _ACCEPTED in entry.headers]
            if not kept:
                return None
            is_none = kept[-1].headers[_ACCEPTED] == "none"
            return StoredPolicy(None if is_none else kept[-1].payload, "said")

        return await self._perform("load_good", find)

    async def keep_good(self, document: bytes | None) -> None:
        def keep() -> None:
            before = self._kept()
            headers = {_ACCEPTED: "none" if document is None else "document"}
            self._bus.config.store(f"{_GOOD}{next(_numbers)}", document or b"", headers)
            for entry in before:
                self._bus.config.delete(entry.seq)

        await self._perform("keep_good", keep)

    async def listen(self, on_change: Callable[[], None]) -> None:
        def hear(hint: Hint) -> None:
            on_change()

        self._bus.listen(self._replica, _SUBJECT, hear)

    def _kept(self) -> list[Entry]:
        return list(self._bus.config.find(f"{_GOOD}*"))

    def _store(self, document: bytes | None, *, expected: int | None = None) -> None:
        headers: Mapping[str, str] = {"KV-Operation": "DEL"} if document is None else {}
        ack = self._bus.config.store(_SUBJECT, document or b"", headers, expected=expected)
        self._bus.tell(Hint(_SUBJECT, document or b"", headers, ack.seq))

    async def _perform(self, name: str, effect: Callable[[], T]) -> T:
        return await self._bus.perform(Operation(self._replica, f"policies.{name}", _SUBJECT), effect)
