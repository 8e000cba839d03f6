"""Objects of tenants: what requests name is fetched for the model; clients put and get by two endpoints."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from sidecar.config.settings import CurrentPolicy
from sidecar.errors import InvalidRequest, Permanent, SidecarError
from sidecar.models.api import schemas_of
from sidecar.models.call import ModelCall
from sidecar.models.codec import decode, encode
from sidecar.models.content import DocumentBlock, ImageBlock, Message, Source, ToolResultBlock
from sidecar.models.objects import ObjectChunk, ObjectGet, ObjectInfo, ObjectPut, bucket_of
from sidecar.models.subjects import HEADER_END, checked
from sidecar.ports.bus import STREAM_READ_SEATS, Blobs, Endpoint, Query, Reply
from sidecar.request_handler.admission import check_tenant
from sidecar.runtime.redaction import told

# What stands around the bytes of a chunk in JSON.
_CHUNK_FIELDS = 64
_HOLDS_SOURCE = (ImageBlock, DocumentBlock)


class Objects:
    """`max_input_bytes` bounds what one job's objects may hold together."""

    def __init__(self, blobs: Blobs, *, max_input_bytes: int, policy: CurrentPolicy) -> None:
        self._blobs = blobs
        self._policy = policy
        self._max_input_bytes = max_input_bytes

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "objects_get",
                "objects.*.get",
                self.get,
                schemas_of(ObjectGet, ObjectChunk),
                seats=STREAM_READ_SEATS,
            ),
            Endpoint("objects_put", "objects.*.put", self.put, schemas_of(ObjectPut, ObjectInfo)),
        )

    async def filled(self, call: ModelCall, *, tenant: str) -> ModelCall:
        """The call with every object's content in place of its name.

        Raises InvalidRequest with the path of the source, code `payload_too_large` where the bound is crossed.
        """
        contents: dict[str, bytes] = {}
        left = self._max_input_bytes
        for path, source in named_objects(call.messages):
            if source.object is None or source.object in contents:
                continue
            content = await self._fetched(tenant, source.object, path, left)
            contents[source.object] = content
            left -= len(content)
        if not contents:
            return call
        messages = tuple(_with_contents(message, contents) for message in call.messages)
        return msgspec.structs.replace(call, messages=messages)

    async def _fetched(self, tenant: str, name: str, path: str, most: int) -> bytes:
        try:
            content = await self._blobs.get(tenant, name, max_bytes=most)
        except Permanent as e:
            raise InvalidRequest(told(e), path=path, code=e.code) from e
        if content is None:
            raise InvalidRequest(
                f"{bucket_of(tenant)} holds no object {name!r}: put it there first, it may also have expired",
                path=path,
            )
        if not content:
            raise InvalidRequest(f"object {name!r} is empty", path=path)
        return content

    async def get(self, query: Query) -> AsyncIterator[Reply]:
        """The pieces of an object, then an empty reply that says so."""
        tenant = self._tenant(query)
        asked = decode(query.payload, ObjectGet)
        at, size = 0, max(1, self._blobs.largest_piece * 3 // 4 - _CHUNK_FIELDS)
        async for piece in self._blobs.read(tenant, asked.name):
            for begin in range(0, len(piece), size):
                part = piece[begin : begin + size]
                yield Reply(encode(ObjectChunk(at=at, data=part)))
                at += len(part)
        yield Reply(b"", {HEADER_END: "true"})

    async def put(self, query: Query) -> Reply:
        """Take one piece of an upload, or its end."""
        tenant = self._tenant(query)
        asked = decode(query.payload, ObjectPut)
        if asked.data is not None:
            await self._blobs.append(tenant, asked.upload, part=asked.part, data=asked.data)
            return Reply(
                encode(ObjectInfo(bucket=bucket_of(tenant), name=asked.name, size=len(asked.data), is_whole=False))
            )
        if asked.parts is None or asked.size is None or asked.sha256 is None:
            raise SidecarError("an upload's end was taken without its numbers")
        info = await self._blobs.finish(
            tenant, asked.name, upload=asked.upload, parts=asked.parts, size=asked.size, sha256=asked.sha256
        )
        return Reply(encode(info))

    def _tenant(self, query: Query) -> str:
        tenant = checked(query.tokens[0] if query.tokens else "", path="subject.tenant")
        check_tenant(tenant, policy=self._policy.now.tenant(tenant))
        return tenant


def named_objects(messages: tuple[Message, ...]) -> Iterator[tuple[str, Source]]:
    """Every source that is an object, with its path below the request."""
    for i, message in enumerate(messages):
        if isinstance(message.content, str):
            continue
        for j, block in enumerate(message.content):
            path = f"messages[{i}].content[{j}]"
            if isinstance(block, _HOLDS_SOURCE) and block.source.object is not None:
                yield f"{path}.source.object", block.source
            elif isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
                for k, part in enumerate(block.content):
                    if isinstance(part, _HOLDS_SOURCE) and part.source.object is not None:
                        yield f"{path}.content[{k}].source.object", part.source


def _with_contents(message: Message, contents: dict[str, bytes]) -> Message:
    if isinstance(message.content, str):
        return message
    return msgspec.structs.replace(message, content=tuple(_with_content(b, contents) for b in message.content))


def _with_content(block: Any, contents: dict[str, bytes]) -> Any:
    if isinstance(block, _HOLDS_SOURCE) and block.source.object is not None:
        return msgspec.structs.replace(block, source=Source(data=contents[block.source.object]))
    if isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
        return msgspec.structs.replace(block, content=tuple(_with_content(p, contents) for p in block.content))
    return block
