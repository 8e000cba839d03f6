"""What may be registered, and for how long it then lives. Pure."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from sidecar.errors import InvalidRequest, Permanent, TooCostly
from sidecar.models.tool import ToolRegistration
from sidecar.runtime.schema_checks import REMEDY, SchemaChecks
from sidecar.tool_registry.catalogue import ScopeUsage, ToolEntry
from sidecar.tool_registry.compatibility import Break, broken
from sidecar.tool_registry.documents import registration_of
from sidecar.tool_registry.versions import Version, parse_version

MOST_REGISTRATION_BYTES = 64 * 1024
LONG_TTL_S = 60
# Times the ttl. A third of one passes between two renewals: what is written now has to last for two more of them.
AHEAD = 1.7
ENOUGH = 1.34


class RegistryLimits(NamedTuple):
    """Bounds of the registry. A version counts while it lives and while it is remembered."""

    live_per_scope: int = 2_000
    versions_per_scope: int = 4_000
    bytes_per_scope: int = 16 * 1024 * 1024
    versions: int = 40_000
    bytes: int = 128 * 1024 * 1024


async def check_registration(
    registration: ToolRegistration, payload_bytes: int, *, scope: str, checks: SchemaChecks
) -> None:
    """Raises InvalidRequest (`payload_too_large` where it is that) with the path of what is wrong."""
    if payload_bytes > MOST_REGISTRATION_BYTES:
        raise InvalidRequest(
            f"a registration of {payload_bytes} bytes is larger than {MOST_REGISTRATION_BYTES}",
            code="payload_too_large",
        )
    try:
        parse_version(registration.version)
    except ValueError as e:
        raise InvalidRequest(str(e), path="version") from e
    await _check_schema(registration.input_schema, "input_schema", scope, checks)
    if registration.input_schema.get("type") != "object":
        raise InvalidRequest('must say "type": "object": a tool\'s input is an object', path="input_schema")
    if registration.output_schema is not None:
        await _check_schema(registration.output_schema, "output_schema", scope, checks)


async def _check_schema(schema: dict[str, Any], path: str, scope: str, checks: SchemaChecks) -> None:
    try:
        problem = await checks.problem(scope, msgspec.json.encode(schema))
    except TooCostly as e:
        raise InvalidRequest(f"reading the schema {e.message}: {REMEDY}", path=path) from e
    if problem is not None:
        raise InvalidRequest(f"is not a usable JSON Schema: {problem}", path=path)


def check_unchanged(published: bytes, document: bytes) -> None:
    """Raises InvalidRequest with the path where a version differs from what was published under its number."""
    if published == document:
        return
    old, new = msgspec.json.decode(published), msgspec.json.decode(document)
    path = _first_difference(old, new, "") or "version"
    raise InvalidRequest(
        "differs from what was published as this version, and a published version never changes: "
        "register a new version",
        path=path,
    )


def neighbours(version: Version, others: Iterable[ToolEntry]) -> tuple[bytes | None, bytes | None]:
    """The documents of the versions before and after one, as far as they have to do with it.

    Only releases of one line count: pre-releases promise nothing, and neither do versions of another major one.
    """
    if version.is_prerelease:
        return None, None
    line = [e for e in others if e.version.line == version.line and not e.version.is_prerelease]
    before = max((e for e in line if e.version < version), key=lambda e: e.version, default=None)
    after = min((e for e in line if e.version > version), key=lambda e: e.version, default=None)
    return before.document if before else None, after.document if after else None


def check_compatible(document: bytes, before: bytes | None, after: bytes | None) -> None:
    """Raises InvalidRequest where a version breaks what the one before promised, or the one after what it does."""
    registration = registration_of(document)
    if before is not None:
        older = registration_of(before)
        found = broken(older, registration)
        if found is not None:
            raise _incompatible(found, older.version, parse_version(registration.version))
    if after is not None:
        newer = registration_of(after)
        found = broken(registration, newer)
        if found is not None:
            raise InvalidRequest(
                f"version {newer.version}, published already, would not be compatible with it: "
                f"{found.path} {found.message}",
                path=found.path,
            )


def _incompatible(found: Break, older: str, version: Version) -> InvalidRequest:
    major, minor, _ = version.core
    major_one = f"{major + 1}.0.0" if major else f"0.{minor + 1}.0"
    return InvalidRequest(
        f"{found.message}: not compatible with version {older}; keep what that promised, or register {major_one}",
        path=found.path,
    )


def room_for(
    size_bytes: int,
    *,
    scope: ScopeUsage,
    total: ScopeUsage,
    kept: Iterable[ToolEntry],
    limits: RegistryLimits,
    now: float,
) -> list[ToolEntry]:
    """The remembered versions of the scope to forget, oldest first, so that another one fits.

    Raises Permanent (`quota_exceeded`) when what lives fills the limits.
    """
    entries = list(kept)
    live = sum(entry.is_live(now) for entry in entries)
    if live >= limits.live_per_scope:
        raise _full(f"{limits.live_per_scope} live versions of tools")
    over_versions = max(scope.versions + 1 - limits.versions_per_scope, total.versions + 1 - limits.versions)
    over_bytes = max(
        scope.size_bytes + size_bytes - limits.bytes_per_scope, total.size_bytes + size_bytes - limits.bytes
    )
    forgotten: list[ToolEntry] = []
    for entry in sorted((e for e in entries if not e.is_live(now)), key=lambda e: e.expires):
        if over_versions <= 0 and over_bytes <= 0:
            break
        forgotten.append(entry)
        over_versions -= 1
        over_bytes -= len(entry.document)
    if over_versions > 0 or over_bytes > 0:
        raise _full("as much as the registry takes")
    return forgotten


def _full(what: str) -> Permanent:
    return Permanent(
        f"the scope holds {what}: deregister some, or let their registrations end", code="quota_exceeded"
    )


class Renewal(NamedTuple):
    """What a registration that is repeated asks for: `until` is when it is to end as it will be written.

    `when` is `now` where that has to be written before it is promised, `soon` where what is written already lasts
    for this time but would not for the next, and `never` where it lasts for both.
    """

    when: Literal["now", "soon", "never"]
    until: float


def renewal(now: float, ttl_s: int, *, until: float | None) -> Renewal:
    """`until` is when the version ends as it is written, None for one that is not published.

    A short ttl is kept to the second. A long one is renewed ahead, so that a provider that renews three times a
    ttl is answered at once, and has the bucket written every other time, together with others.
    """
    if until is None or until <= now:
        return Renewal("now", now + ttl_s)
    ahead = ttl_s * AHEAD if ttl_s >= LONG_TTL_S else ttl_s
    if until < now + ttl_s:
        return Renewal("now", now + ahead)
    if ttl_s >= LONG_TTL_S and until < now + ttl_s * ENOUGH:
        return Renewal("soon", now + ahead)
    return Renewal("never", until)


def _first_difference(old: Any, new: Any, path: str) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                return f"{path}.{name}".lstrip(".")
            if old[name] != new[name]:
                return _first_difference(old[name], new[name], f"{path}.{name}".lstrip("."))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            if one != other:
                return _first_difference(one, other, f"{path}[{i}]")
    return path
