"""Published versions of tools in the KV bucket `LLM_TOOL`."""

from collections.abc import Callable, Mapping

from sidecar.adapters.nats.client.message import BusMessage, decode_headers
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StoredMessage, StreamReader, split_headers
from sidecar.errors import Conflict
from sidecar.models.base import epoch, rfc3339
from sidecar.models.subjects import (
    HEADER_EXPECTED,
    HEADER_OPERATION,
    HEADER_TTL,
    TOOL_BUCKET,
    Subjects,
    is_name,
    token_version,
    version_token,
)
from sidecar.ports.tools import StoredTool, ToolChange, ToolKey, ToolSnapshot

HEADER_EXPIRES = "Llm-Expires"
_ROOT = f"$KV.{TOOL_BUCKET}."
_TOMBSTONE_S = 3600


class NatsToolStore:
    """`ToolStore` over a KV bucket: the value is the document, a header says when the registration ends.

    So a renewal writes the bytes that are there already, which readers tell without decoding them. What was
    written is heard on the bucket's republished subject: only what was stored comes there, with its sequence.
    """

    def __init__(self, mux: Mux, subjects: Subjects, *, is_replicated: bool = False) -> None:
        self._mux = mux
        self._subjects = subjects
        self._reader = StreamReader(mux, f"KV_{TOOL_BUCKET}", is_replicated=is_replicated)

    async def put(self, key: ToolKey, document: bytes, *, expires: float, revision: int, keep_s: int) -> int:
        headers = {HEADER_EXPIRES: rfc3339(expires), HEADER_TTL: str(keep_s)}
        try:
            return await self._write(key, document, headers, revision)
        except Conflict:
            found = await self._reader.last(_subject(key))
            if found is None or not (_is_foreign(found) or (found.is_tombstone and not revision)):
                raise
            return await self._write(key, document, headers, found.seq)

    async def get(self, key: ToolKey) -> StoredTool | None:
        found = await self._reader.last(_subject(key))
        if found is None or found.is_tombstone or _is_foreign(found):
            return None
        return StoredTool(key, found.payload, _expires(found.headers), found.seq)

    async def delete(self, key: ToolKey, *, revision: int) -> None:
        await self._write(key, b"", {HEADER_OPERATION: "DEL", HEADER_TTL: str(_TOMBSTONE_S)}, revision)

    async def snapshot(self) -> ToolSnapshot:
        revision = await self.last_revision()
        tools, foreign = [], []
        async for found in self._reader.scan(f"{_ROOT}>", seq=1):
            key = _key(found.subject)
            if _is_foreign(found):
                self._met(found.subject, found.seq, found.payload)
                foreign.append(ToolChange(found.seq, key, None, is_foreign=True))
            elif key is not None and not found.is_tombstone:
                tools.append(StoredTool(key, found.payload, _expires(found.headers), found.seq))
        return ToolSnapshot(tools, revision, foreign)

    async def last_revision(self) -> int:
        return (await self._reader.contents()).last_seq

    async def listen(self, on_change: Callable[[ToolChange], None]) -> None:
        root = self._subjects.tool_written("")

        def hear(message: BusMessage) -> None:
            raw, server = split_headers(message.raw_headers)
            sequence = server.get("Nats-Sequence", "")
            if not sequence.isdecimal():
                return
            own = decode_headers(raw) if raw else {}
            subject = _ROOT + message.subject.removeprefix(root)
            change = _change(int(sequence), _key(subject), message.payload, own)
            if change.is_foreign:
                self._met(subject, change.revision, message.payload)
            on_change(change)

        await self._mux.subscribe(f"{root}>", hear)

    async def discard(self, revision: int) -> None:
        await self._reader.delete(revision)

    def _met(self, subject: str, seq: int, payload: bytes) -> None:
        self._mux.foreign_writes.met(TOOL_BUCKET, subject=subject, seq=seq, payload=payload)

    async def _write(self, key: ToolKey, document: bytes, headers: Mapping[str, str], revision: int) -> int:
        ack = await self._mux.store(_subject(key), document, headers={**headers, HEADER_EXPECTED: str(revision)})
        return ack.seq


def _change(revision: int, key: ToolKey | None, document: bytes, headers: Mapping[str, str]) -> ToolChange:
    if HEADER_OPERATION not in headers and HEADER_EXPIRES not in headers:
        return ToolChange(revision, key, None, is_foreign=True)
    if key is None or HEADER_OPERATION in headers:
        return ToolChange(revision, key, None)
    return ToolChange(revision, key, StoredTool(key, document, _expires(headers), revision))


def _is_foreign(found: StoredMessage) -> bool:
    """Every replica says when a registration ends, or that it was taken back; nobody else writes here."""
    return not found.is_tombstone and HEADER_EXPIRES not in found.headers


def _subject(key: ToolKey) -> str:
    return f"{_ROOT}{key.scope}.{key.name}.{version_token(key.version)}"


def _key(subject: str) -> ToolKey | None:
    """The tool that a subject of the bucket stands for; None for what somebody else wrote there."""
    tokens = subject.removeprefix(_ROOT).split(".")
    if len(tokens) != 3 or not (is_name(tokens[0]) and is_name(tokens[1])):
        return None
    return ToolKey(tokens[0], tokens[1], token_version(tokens[2]))


def _expires(headers: Mapping[str, str]) -> float:
    """What has no readable end has ended."""
    try:
        return epoch(headers.get(HEADER_EXPIRES, ""))
    except ValueError:
        return 0.0
