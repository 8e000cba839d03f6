"""Objects too large for a message: how the bucket `LLM_BLOB_<tenant>` holds them (NATS ADR-20).

Any client of the NATS Object Store reads and writes the same buckets; the endpoints `objects.<tenant>.get` and
`.put` are for clients that may not use JetStream's API.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from sidecar.models.base import FieldError, Name, Open, Strict, matching
from sidecar.models.content import ObjectName
from sidecar.models.subjects import BLOB_BUCKET_PREFIX

CHUNK_BYTES = 128 * 1024
MAX_CHUNKS = 1_000_000
_DIGEST = "SHA-256="

Sha256 = Annotated[str, matching(r"^[0-9a-f]{64}$", "SHA-256, 64 hexadecimal digits")]


def bucket_of(tenant: str) -> str:
    return f"{BLOB_BUCKET_PREFIX}{tenant}"


def chunk_subject(tenant: str, upload: str) -> str:
    """Where the pieces of one upload lie, in order."""
    return f"$O.{bucket_of(tenant)}.C.{upload}"


def meta_subject(tenant: str, name: str) -> str:
    """Where an object's description lies; the name's own characters need not fit a subject."""
    return f"$O.{bucket_of(tenant)}.M.{urlsafe_b64encode(name.encode()).decode()}"


def hex_digest(data: bytes) -> str:
    return sha256(data).hexdigest()


class ObjectMeta(Open, frozen=True, kw_only=True, omit_defaults=True):
    """An object's description as ADR-20 stores it. `nuid` names the upload that holds the content."""

    name: str
    bucket: str
    nuid: Annotated[str, matching(r"^[A-Za-z0-9_-]{1,64}$", "an upload's id")] = "none"
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    chunks: Annotated[int, msgspec.Meta(ge=0)] = 0
    digest: str = ""
    mtime: str = ""
    deleted: bool = False
    description: str | None = None
    headers: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    options: dict[str, Any] | None = None

    @property
    def sha256(self) -> str | None:
        """The content's hash in hexadecimal; None where the writer gave none that can be read."""
        kind, _, encoded = self.digest.partition("=")
        if kind.upper() != "SHA-256":
            return None
        try:
            raw = urlsafe_b64decode(encoded)
        except (Base64Error, ValueError):
            return None
        return raw.hex() if len(raw) == sha256().digest_size else None

    @property
    def is_link(self) -> bool:
        return bool((self.options or {}).get("link"))


def meta_of(tenant: str, name: str, *, upload: str, size: int, chunks: int, digest: str, mtime: str) -> ObjectMeta:
    """The description of a whole upload; `digest` in hexadecimal."""
    return ObjectMeta(
        name=name,
        bucket=bucket_of(tenant),
        nuid=upload,
        size=size,
        chunks=chunks,
        digest=_DIGEST + urlsafe_b64encode(bytes.fromhex(digest)).decode(),
        mtime=mtime,
        options={"max_chunk_size": CHUNK_BYTES},
    )


def info_of(meta: ObjectMeta) -> "ObjectInfo":
    return ObjectInfo(bucket=meta.bucket, name=meta.name, size=meta.size, sha256=meta.sha256)


class ObjectGet(Strict, frozen=True, kw_only=True):
    """Asks for an object's content."""

    name: ObjectName


class ObjectChunk(Open, frozen=True, kw_only=True, rename={"data": "bytes"}):
    """A piece of an object, in order; the first begins at `at` 0."""

    at: int
    data: bytes


class ObjectPut(Strict, frozen=True, kw_only=True, rename={"data": "bytes"}):
    """A piece of an upload, or its end.

    Pieces come one after another with `bytes` and `part` 0, 1, 2 …, each after the reply to the one before; the
    end has no bytes but `parts`, `size` and `sha256`. `upload` is the client's own id for one upload.
    """

    name: ObjectName
    upload: Name
    part: Annotated[int, msgspec.Meta(ge=0, le=MAX_CHUNKS)] = 0
    data: bytes | None = None
    parts: Annotated[int, msgspec.Meta(ge=0, le=MAX_CHUNKS)] | None = None
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None = None
    sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        ends = (self.parts, self.size, self.sha256)
        if self.data is not None and any(value is not None for value in ends):
            raise FieldError("give either 'bytes', or the end's 'parts', 'size' and 'sha256'")
        if self.data is None and any(value is None for value in ends):
            raise FieldError("the end of an upload needs 'parts', 'size' and 'sha256'")


class ObjectInfo(Open, frozen=True, kw_only=True):
    """What is known of a stored object, or of an upload that is under way (`is_whole` false)."""

    bucket: str
    name: str
    size: int
    sha256: str | None = None
    is_whole: bool = True
