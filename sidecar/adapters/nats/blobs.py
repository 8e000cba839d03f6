"""Objects in the buckets `LLM_BLOB_<tenant>`, by ADR-20: pieces of an upload, then one description under the name.

No consumers: pieces are read by direct get in batches, and one by one from the leader where a follower lags or
the bucket (somebody else may have made it) has no direct get.
"""

import logging
import secrets
from collections.abc import AsyncIterator
from hashlib import sha256

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.genuine import GenuineReader, is_no_acknowledgement
from sidecar.adapters.nats.streams.provision import ensure_stream
from sidecar.adapters.nats.streams.topology import object_store, object_stream
from sidecar.config.settings import Settings
from sidecar.errors import BusRefused, BusUnavailable, Conflict, InvalidRequest, Permanent, StartupError
from sidecar.models import codec
from sidecar.models.base import rfc3339
from sidecar.models.objects import (
    CHUNK_BYTES,
    ObjectInfo,
    ObjectMeta,
    bucket_of,
    chunk_subject,
    hex_digest,
    info_of,
    meta_of,
    meta_subject,
)
from sidecar.models.subjects import HEADER_MESSAGE_ID, HEADER_ROLLUP, checked
from sidecar.ports.bus import Clock

log = logging.getLogger(__name__)

_NOBODY = 503
_STORE_FAILED = 10077
_HEADROOM = 1024
# Of all tenants together: labels stay few.
_METRIC = "LLM_BLOB"


class NatsBlobs:
    """`Blobs` over JetStream. A bucket is made, or brought up to date, when this process first writes to it."""

    def __init__(self, mux: Mux, settings: Settings, *, clock: Clock) -> None:
        self._mux = mux
        self._settings = settings
        self._clock = clock
        self._made: set[str] = set()

    @property
    def largest_piece(self) -> int:
        return max(1, min(CHUNK_BYTES, self._mux.connection.max_payload - _HEADROOM))

    async def put(self, tenant: str, name: str, data: bytes) -> ObjectInfo:
        upload = secrets.token_hex(11)
        size = self.largest_piece
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        for part, piece in enumerate(pieces):
            await self.append(tenant, upload, part=part, data=piece)
        return await self.finish(
            tenant, name, upload=upload, parts=len(pieces), size=len(data), sha256=hex_digest(data)
        )

    async def append(self, tenant: str, upload: str, *, part: int, data: bytes) -> None:
        headers = {HEADER_MESSAGE_ID: f"{upload}:{part}"}
        await self._store(tenant, chunk_subject(checked(tenant), checked(upload)), data, headers)

    async def finish(
        self, tenant: str, name: str, *, upload: str, parts: int, size: int, sha256: str
    ) -> ObjectInfo:
        subject = chunk_subject(checked(tenant), checked(upload))
        if parts:
            there = await self._mux.api(f"STREAM.INFO.{object_stream(tenant)}", {"subjects_filter": subject})
            count = (there["state"].get("subjects") or {}).get(subject, 0)
            if count != parts:
                raise Conflict(f"upload {upload} has {count} pieces, not {parts}")
        before = await self._meta(tenant, name)
        meta = meta_of(
            tenant, name, upload=upload, size=size, chunks=parts, digest=sha256, mtime=rfc3339(self._clock.now())
        )
        headers = {HEADER_ROLLUP: "sub"}
        await self._store(tenant, meta_subject(tenant, name), codec.encode(meta), headers)
        if before is not None and before.nuid != upload:
            await self._purge(tenant, before.nuid)
        return info_of(meta)

    async def info(self, tenant: str, name: str) -> ObjectInfo | None:
        meta = await self._meta(tenant, name)
        return None if meta is None else info_of(meta)

    async def get(self, tenant: str, name: str, *, max_bytes: int) -> bytes | None:
        meta = await self._meta(tenant, name)
        if meta is None:
            return None
        if meta.size > max_bytes:
            raise Permanent(
                f"object {name!r} has {meta.size} bytes, at most {max_bytes} are taken",
                code="payload_too_large",
                details={"bytes": meta.size, "limit_bytes": max_bytes},
            )
        return b"".join([piece async for piece in self._pieces(tenant, meta)])

    async def read(self, tenant: str, name: str) -> AsyncIterator[bytes]:
        meta = await self._meta(tenant, name)
        if meta is None:
            raise Permanent(f"{bucket_of(tenant)} holds no object {name!r}", code="not_found")
        async for piece in self._pieces(tenant, meta):
            yield piece

    async def delete(self, tenant: str, name: str) -> None:
        meta = await self._meta(tenant, name)
        if meta is None:
            return
        gone = ObjectMeta(name=name, bucket=meta.bucket, nuid=meta.nuid, deleted=True)
        headers = {HEADER_ROLLUP: "sub"}
        await self._store(tenant, meta_subject(tenant, name), codec.encode(gone), headers)
        await self._purge(tenant, meta.nuid)

    async def _store(self, tenant: str, subject: str, data: bytes, headers: dict[str, str]) -> None:
        if tenant not in self._made:
            await self._make(tenant)
        try:
            await self._mux.store(subject, data, headers=headers)
        except BusUnavailable as e:
            if e.details.get("status") != _NOBODY:
                raise
            await self._make(tenant)
            await self._mux.store(subject, data, headers=headers)
        except BusRefused as e:
            if e.details.get("err_code") != _STORE_FAILED:
                raise
            raise BusRefused(
                f"{bucket_of(tenant)} is full: delete objects, or raise retention.objects_bytes",
                code="payload_too_large",
            ) from e

    async def _make(self, tenant: str) -> None:
        spec = object_store(self._settings, checked(tenant))
        try:
            await ensure_stream(self._mux, spec, adopt=self._settings.nats.adopt)
        except StartupError as e:
            # Somebody else's bucket of this name may serve all the same.
            log.warning("the bucket is not as configured", extra={"bucket": spec.name, "error": e.message})
            await self._must_exist(spec.name, e)
        self._made.add(tenant)

    async def _must_exist(self, stream: str, problem: StartupError) -> None:
        try:
            await self._mux.api(f"STREAM.INFO.{stream}")
        except NotFound as e:
            raise BusRefused(problem.message, code="payload_too_large") from e

    async def _meta(self, tenant: str, name: str) -> ObjectMeta | None:
        reader = GenuineReader(
            self._reader(tenant), bucket=_METRIC, writes=self._mux.foreign_writes, is_genuine=is_no_acknowledgement
        )
        found = await reader.last(meta_subject(checked(tenant), name))
        if found is None:
            return None
        try:
            meta = codec.decode(found.payload, ObjectMeta)
        except InvalidRequest as e:
            raise Permanent(
                f"object {name!r} has a description that cannot be read: {e.message}", code="invalid_request"
            ) from e
        if meta.is_link:
            raise Permanent(f"object {name!r} is a link: put the content itself", code="invalid_request")
        return None if meta.deleted else meta

    async def _pieces(self, tenant: str, meta: ObjectMeta) -> AsyncIterator[bytes]:
        """The pieces in order. Raises Permanent where they are not what the description says."""
        reader, subject = self._reader(tenant), chunk_subject(tenant, meta.nuid)
        digest, size, seq = sha256(), 0, 1
        by_leader = False
        while size < meta.size:
            if by_leader:
                found = await reader.next(subject, seq=seq)
                items = [] if found is None else [found]
            else:
                try:
                    items, _ = await reader.batch(subject, seq=seq, limit=32)
                except BusUnavailable as e:
                    if e.details.get("status") != _NOBODY:
                        raise
                    items = []
            if not items and by_leader:
                break
            by_leader = not items
            for item in items:
                seq = item.seq + 1
                size += len(item.payload)
                digest.update(item.payload)
                if size > meta.size:
                    break
                yield item.payload
        wanted = meta.sha256
        if size != meta.size or (wanted is not None and wanted != digest.hexdigest()):
            raise Permanent(
                f"object {meta.name!r} is not whole: {size} of {meta.size} bytes are there, or the digest differs",
                code="invalid_request",
            )

    async def _purge(self, tenant: str, upload: str) -> None:
        """What the purge leaves behind ages with the bucket."""
        try:
            await self._mux.api(f"STREAM.PURGE.{object_stream(tenant)}", {"filter": chunk_subject(tenant, upload)})
        except (BusUnavailable, NotFound) as e:
            log.info("old pieces stay until they age", extra={"bucket": bucket_of(tenant), "error": e.message})

    def _reader(self, tenant: str) -> StreamReader:
        return StreamReader(self._mux, object_stream(checked(tenant)), is_replicated=True)
