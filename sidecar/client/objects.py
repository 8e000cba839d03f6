"""The tenant's objects: large answers are fetched, large inputs are put, through the sidecar's own endpoints.

So a client needs no permission on JetStream. Whoever may use the Object Store can use the bucket
`LLM_BLOB_<tenant>` with any NATS library just as well.
"""

import uuid
from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sidecar.client.errors import UnknownJob, UnknownObject
from sidecar.errors import Permanent
from sidecar.models.content import DocumentBlock, ImageBlock, Message, Source, ToolResultBlock
from sidecar.models.objects import CHUNK_BYTES, ObjectChunk, ObjectGet, ObjectInfo, ObjectPut, hex_digest
from sidecar.models.plain import UNREADABLE
from sidecar.models.request import JobRequest
from sidecar.models.result import Output, Result

if TYPE_CHECKING:
    from sidecar.client.client import SidecarClient

R = TypeVar("R", bound=Result)

LEAST_WORTH_MOVING = 16 * 1024
_HEADROOM = 4 * 1024


class Objects:
    """What `SidecarClient` knows of objects; applications use its `put_object` and `get_object`."""

    def __init__(self, client: "SidecarClient") -> None:
        self._client = client

    async def put(self, name: str, data: bytes) -> ObjectInfo:
        """Store `data` under a name, over an older object of it."""
        room = (self._client.bus.max_payload - _HEADROOM) * 3 // 4
        size = max(1, min(CHUNK_BYTES, room))
        upload = uuid.uuid4().hex
        pieces = range(0, len(data), size)
        for part, at in enumerate(pieces):
            await self._say(ObjectPut(name=name, upload=upload, part=part, data=data[at : at + size]))
        return await self._say(
            ObjectPut(name=name, upload=upload, parts=len(pieces), size=len(data), sha256=hex_digest(data))
        )

    async def get(self, name: str, *, sha256: str | None = None) -> bytes:
        """The content. Raises UnknownObject, and Permanent when it is not what `sha256` says."""
        subject = self._client.subjects.endpoint("objects", self._client.tenant, "get")
        asked = msgspec.json.encode(ObjectGet(name=name))
        pieces: list[bytes] = []
        at = 0
        replies = self._client.ask_for_many(subject, asked)
        try:
            async with aclosing(replies):
                async for reply in replies:
                    chunk = msgspec.json.decode(reply, type=ObjectChunk)
                    if chunk.at != at:
                        raise Permanent(f"a piece of object {name!r} was lost on its way: fetch it again")
                    pieces.append(chunk.data)
                    at += len(chunk.data)
        except UnknownJob as e:
            raise UnknownObject(e.message, details=e.details) from e
        data = b"".join(pieces)
        if sha256 is not None and hex_digest(data) != sha256:
            raise Permanent(f"object {name!r} is not what the result names: it was replaced")
        return data

    async def resolved(self, result: R) -> R:
        """The result with its whole output, wherever that lies."""
        reference = result.output.object
        if reference is None:
            return result
        content = await self.get(reference.name, sha256=reference.sha256)
        try:
            output = msgspec.json.decode(content, type=Output)
        except UNREADABLE as e:
            raise Permanent(f"object {reference.name!r} holds no output ({e}): update the client") from e
        return msgspec.structs.replace(result, output=msgspec.structs.replace(output, object=reference))

    async def lightened(self, request: JobRequest, *, size: int, limit: int) -> JobRequest:
        """The request with so many inline sources, largest first, put as objects that it should fit `limit`."""
        sources = sorted(
            {id(s): s for s in _inline(request.messages or ())}.values(), key=lambda s: -len(s.data or b"")
        )
        names: dict[bytes, str] = {}
        for source in sources:
            if size <= limit or source.data is None or len(source.data) < LEAST_WORTH_MOVING:
                break
            if source.data not in names:
                name = f"input.{hex_digest(source.data)}"
                await self.put(name, source.data)
                names[source.data] = name
            size -= len(source.data) * 4 // 3
        if not names:
            return request
        messages = tuple(_with_names(message, names) for message in request.messages or ())
        return msgspec.structs.replace(request, messages=messages)

    async def _say(self, piece: ObjectPut) -> ObjectInfo:
        subject = self._client.subjects.endpoint("objects", self._client.tenant, "put")
        return await self._client.ask_endpoint(subject, msgspec.json.encode(piece), ObjectInfo)


def _inline(messages: Iterable[Message]) -> Iterable[Source]:
    for message in messages:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            parts: Iterable[Any] = (block,)
            if isinstance(block, ToolResultBlock):
                parts = () if isinstance(block.content, str) else block.content
            for part in parts:
                if isinstance(part, ImageBlock | DocumentBlock) and part.source.data is not None:
                    yield part.source


def _with_names(message: Message, names: dict[bytes, str]) -> Message:
    if isinstance(message.content, str):
        return message
    return msgspec.structs.replace(message, content=tuple(_with_name(block, names) for block in message.content))


def _with_name(block: Any, names: dict[bytes, str]) -> Any:
    if isinstance(block, ImageBlock | DocumentBlock) and block.source.data in names:
        return msgspec.structs.replace(block, source=Source(object=names[block.source.data]))
    if isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
        return msgspec.structs.replace(block, content=tuple(_with_name(part, names) for part in block.content))
    return block
