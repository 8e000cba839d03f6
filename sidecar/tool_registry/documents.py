"""Registrations as the bucket keeps them. Pure."""

import msgspec

from sidecar.models.codec import decode
from sidecar.models.subjects import Subjects
from sidecar.models.tool import ToolInfo, ToolRegistration
from sidecar.ports.tools import StoredTool, ToolKey
from sidecar.tool_registry.catalogue import ToolEntry, entry_of

_encoder = msgspec.json.Encoder(order="sorted")
_VOLATILE = ("ttl_s",)


def document_of(registration: ToolRegistration) -> bytes:
    """All that a published version may not change: the registration without its ttl, keys sorted."""
    fields = {name: getattr(registration, name) for name in registration.__struct_fields__}
    return _encoder.encode({name: value for name, value in fields.items() if name not in _VOLATILE})


def registration_of(document: bytes) -> ToolRegistration:
    """Raises InvalidRequest for a document that holds no registration."""
    return decode(document, ToolRegistration)


def info_of(
    scope: str, registration: ToolRegistration, *, subjects: Subjects, discovered: bool = False
) -> ToolInfo:
    return ToolInfo(
        scope=scope,
        name=registration.name,
        version=registration.version,
        description=registration.description,
        input_schema=registration.input_schema,
        output_schema=registration.output_schema,
        timeout_s=registration.timeout_s,
        idempotent=registration.idempotent,
        subject=subjects.call(scope, registration.name, registration.version),
        expires=None,
        discovered=discovered,
    )


def entry_from(stored: StoredTool, *, subjects: Subjects) -> ToolEntry:
    """Raises InvalidRequest or ValueError for what somebody else wrote there."""
    registration = registration_of(stored.document)
    if (registration.name, registration.version) != (stored.key.name, stored.key.version):
        raise ValueError("the document is of another tool than its key")
    info = info_of(stored.key.scope, registration, subjects=subjects)
    return entry_of(info, document=stored.document, expires=stored.expires, revision=stored.revision)


def key_of(scope: str, registration: ToolRegistration) -> ToolKey:
    return ToolKey(scope, registration.name, registration.version)
