"""Objects in memory: twin of `adapters.nats.blobs`."""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.errors import BusRefused, Conflict, InvalidRequest, Permanent
from sidecar.models.objects import CHUNK_BYTES, ObjectInfo, bucket_of, hex_digest
from sidecar.models.subjects import is_name

T = TypeVar("T")


class MemoryBlobs:
    """`Blobs` twin over a shared bus. `bus.objects` maps (tenant, name) to content and the time it was stored."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica

    @property
    def largest_piece(self) -> int:
        return CHUNK_BYTES

    async def put(self, tenant: str, name: str, data: bytes) -> ObjectInfo:
        return await self._perform("put", tenant, lambda: self._keep(tenant, name, data, hex_digest(data)))

    async def append(self, tenant: str, upload: str, *, part: int, data: bytes) -> None:
        if not is_name(upload):
            raise InvalidRequest(f"{upload[:80]!r}: use 1 to 64 of A-Z a-z 0-9 _ -")

        def keep() -> None:
            self._bus.uploads.setdefault((tenant, upload), {}).setdefault(part, data)

        await self._perform("append", tenant, keep)

    async def finish(
        self, tenant: str, name: str, *, upload: str, parts: int, size: int, sha256: str
    ) -> ObjectInfo:
        def keep() -> ObjectInfo:
            pieces = self._bus.uploads.get((tenant, upload), {})
            if len(pieces) != parts:
                raise Conflict(f"upload {upload} has {len(pieces)} pieces, not {parts}")
            info = self._keep(tenant, name, b"".join(pieces.values()), sha256)
            self._bus.uploads.pop((tenant, upload), None)
            return ObjectInfo(bucket=info.bucket, name=name, size=size, sha256=sha256)

        return await self._perform("finish", tenant, keep)

    async def info(self, tenant: str, name: str) -> ObjectInfo | None:
        found = await self._perform("info", tenant, lambda: self._find(tenant, name))
        if found is None:
            return None
        data, digest = found
        return ObjectInfo(bucket=bucket_of(tenant), name=name, size=len(data), sha256=digest)

    async def get(self, tenant: str, name: str, *, max_bytes: int) -> bytes | None:
        found = await self._perform("get", tenant, lambda: self._find(tenant, name))
        if found is None:
            return None
        data, digest = found
        if len(data) > max_bytes:
            raise Permanent(
                f"object {name!r} has {len(data)} bytes, at most {max_bytes} are taken", code="payload_too_large"
            )
        return _whole(name, data, digest)

    async def read(self, tenant: str, name: str) -> AsyncIterator[bytes]:
        found = await self._perform("read", tenant, lambda: self._find(tenant, name))
        if found is None:
            raise Permanent(f"{bucket_of(tenant)} holds no object {name!r}", code="not_found")
        data, digest = found
        for at in range(0, len(data), CHUNK_BYTES):
            yield data[at : at + CHUNK_BYTES]
        _whole(name, data, digest)

    async def delete(self, tenant: str, name: str) -> None:
        await self._perform("delete", tenant, lambda: self._bus.objects.pop((tenant, name), None))

    def _keep(self, tenant: str, name: str, data: bytes, digest: str) -> ObjectInfo:
        held = sum(len(d) for (t, n), (d, _, _) in self._bus.objects.items() if t == tenant and n != name)
        if held + len(data) > self._bus.max_objects:
            raise BusRefused(f"{bucket_of(tenant)} is full", code="payload_too_large")
        self._bus.objects[tenant, name] = (data, digest, self._bus.clock.now())
        return ObjectInfo(bucket=bucket_of(tenant), name=name, size=len(data), sha256=digest)

    def _find(self, tenant: str, name: str) -> tuple[bytes, str] | None:
        found = self._bus.objects.get((tenant, name))
        if found is None or found[2] + self._bus.objects_s <= self._bus.clock.now():
            return None
        return found[0], found[1]

    async def _perform(self, name: str, tenant: str, effect: Callable[[], T]) -> T:
        if not is_name(tenant):
            raise InvalidRequest(f"{tenant[:80]!r}: use 1 to 64 of A-Z a-z 0-9 _ -")
        return await self._bus.perform(Operation(self._replica, f"blobs.{name}", bucket_of(tenant)), effect)


def _whole(name: str, data: bytes, digest: str) -> bytes:
    if hex_digest(data) != digest:
        raise Permanent(f"object {name!r} is not whole: its digest differs", code="invalid_request")
    return data
