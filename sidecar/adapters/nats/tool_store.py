"""Published versions of tools in the KV bucket `LLM_TOOL`."""

from collections.abc import Callable, Mapping

from sidecar.adapters.nats.client.message import BusMessage, decode_headers
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader, split_headers
from sidecar.adapters.nats.job_store import EXPECTED
from sidecar.errors import Conflict
from sidecar.models.base import epoch, rfc3339
from sidecar.models.subjects import TOOL_BUCKET, Subjects, is_name, token_version, version_token
from sidecar.ports.tools import StoredTool, ToolChange, ToolKey, ToolSnapshot

HEADER_EXPIRES = "Llm-Expires"
OPERATION = "KV-Operation"
_ROOT = f"$KV.{TOOL_BUCKET}."
_TTL = "Nats-TTL"
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
        headers = {HEADER_EXPIRES: rfc3339(expires), _TTL: str(keep_s)}
        try:
            return await self._write(key, document, headers, revision)
        except Conflict:
            if revision:
                raise
            found = await self._reader.last(_subject(key))
            if found is None or not found.is_tombstone:
                raise
            return await self._write(key, document, headers, found.seq)

    async def get(self, key: ToolKey) -> StoredTool | None:
        found = await self._reader.last(_subject(key))
        if found is None or found.is_tombstone:
            return None
        return StoredTool(key, found.payload, _expires(found.headers), found.seq)

    async def delete(self, key: ToolKey, *, revision: int) -> None:
        await self._write(key, b"", {OPERATION: "DEL", _TTL: str(_TOMBSTONE_S)}, revision)

    async def snapshot(self) -> ToolSnapshot:
        revision = await self.last_revision()
        tools = []
        async for found in self._reader.scan(f"{_ROOT}>", seq=1):
            key = _key(found.subject)
            if key is not None and not found.is_tombstone:
                tools.append(StoredTool(key, found.payload, _expires(found.headers), found.seq))
        return ToolSnapshot(tools, revision)

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
            key = _key(_ROOT + message.subject.removeprefix(root))
            on_change(_change(int(sequence), key, message.payload, own))

        await self._mux.subscribe(f"{root}>", hear)

    async def _write(self, key: ToolKey, document: bytes, headers: Mapping[str, str], revision: int) -> int:
        ack = await self._mux.store(_subject(key), document, headers={**headers, EXPECTED: str(revision)})
        return ack.seq


def _change(revision: int, key: ToolKey | None, document: bytes, headers: Mapping[str, str]) -> ToolChange:
    if key is None or OPERATION in headers:
        return ToolChange(revision, key, None)
    return ToolChange(revision, key, StoredTool(key, document, _expires(headers), revision))


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
