"""The operators' policy in the KV bucket `LLM_CONFIG`."""

import secrets
from collections.abc import Callable, Mapping

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.errors import Conflict
from sidecar.models.subjects import CONFIG_BUCKET, HEADER_EXPECTED, HEADER_OPERATION
from sidecar.ports.cluster import StoredPolicy

POLICY_KEY = "policy"
GOOD_KEY = "policy.good"
HISTORY = 10
_ROOT = f"$KV.{CONFIG_BUCKET}."
_SUBJECT = _ROOT + POLICY_KEY
_GOOD = f"{_ROOT}{GOOD_KEY}."
_ACCEPTED = "Llm-Policy"
_GONE = {HEADER_OPERATION: "DEL"}


class NatsPolicyStore:
    """`PolicyStore` over a KV bucket. Changes are heard by a plain subscription: nats-py's KV watch can stall.

    The accepted policy lies under a key that ends in a random number, a new one each time: an acknowledgement can
    be aimed at a key that is known, and ten of them push everything out of its history.
    """

    def __init__(self, mux: Mux, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._reader = StreamReader(mux, f"KV_{CONFIG_BUCKET}", is_replicated=is_replicated)
        self._genuine = GenuineReader(
            self._reader, bucket=CONFIG_BUCKET, writes=mux.foreign_writes, is_genuine=is_no_acknowledgement
        )

    async def load(self) -> StoredPolicy:
        top = await self._reader.last(_SUBJECT)
        if top is None:
            return StoredPolicy(None, "absent")
        if is_no_acknowledgement(top):
            return _said(top)
        found = [item async for item in self._reader.scan(_SUBJECT, seq=1)]
        said = [item for item in found if is_no_acknowledgement(item)]
        if not said and len(found) >= HISTORY:
            # Left as it is: it is all that tells that something may have been there.
            return StoredPolicy(None, "overrun")
        await self._genuine.remove([item for item in found if not is_no_acknowledgement(item)])
        return _said(said[-1]) if said else StoredPolicy(None, "absent")

    async def save(self, document: bytes | None) -> None:
        await self._mux.store(_SUBJECT, document or b"", headers=_GONE if document is None else None)

    async def put_back(self, document: bytes | None) -> None:
        top = await self._reader.last(_SUBJECT)
        found = [item async for item in self._reader.scan(_SUBJECT, seq=1)]
        if top is not None and is_no_acknowledgement(top):
            raise Conflict("an operator has said what the policy is")
        expected = {HEADER_EXPECTED: str(top.seq if top is not None else 0)}
        headers = {**_GONE, **expected} if document is None else expected
        await self._mux.store(_SUBJECT, document or b"", headers=headers)
        await self._genuine.remove([item for item in found if not is_no_acknowledgement(item)])

    async def load_good(self) -> StoredPolicy | None:
        found = await self._reader.newest(f"{_GOOD}*")
        if found is not None and _ACCEPTED not in found.headers:
            kept = [item for item in await self._kept() if _ACCEPTED in item.headers]
            found = kept[-1] if kept else None
        if found is None:
            return None
        return StoredPolicy(None if found.headers[_ACCEPTED] == "none" else found.payload, "said")

    async def keep_good(self, document: bytes | None) -> None:
        before = await self._kept()
        headers: Mapping[str, str] = {_ACCEPTED: "none" if document is None else "document", HEADER_EXPECTED: "0"}
        await self._mux.store(f"{_GOOD}{secrets.token_hex(16)}", document or b"", headers=headers)
        for item in before:
            await self._reader.delete(item.seq)

    async def listen(self, on_change: Callable[[], None]) -> None:
        def hear(message: BusMessage) -> None:
            on_change()

        await self._mux.subscribe(_SUBJECT, hear)

    async def _kept(self) -> list[StoredMessage]:
        return [item async for item in self._reader.scan(f"{_GOOD}*", seq=1)]


def _said(found: StoredMessage) -> StoredPolicy:
    return StoredPolicy(None if found.is_tombstone else found.payload, "said")
