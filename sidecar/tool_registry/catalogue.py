"""The view of all tools: what is published, what lives, and what a name with a range stands for. Pure."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from sidecar.errors import Permanent
from sidecar.models.base import rfc3339
from sidecar.models.subjects import SHARED_SCOPE
from sidecar.models.tool import ToolInfo
from sidecar.ports.tools import ToolKey
from sidecar.tool_registry.versions import Version, highest, parse_range, parse_version

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """One version of a tool. `info.expires` is empty; `expires` (seconds since 1970) says until when it lives."""

    info: ToolInfo
    version: Version
    document: bytes
    expires: float
    revision: int

    @property
    def key(self) -> ToolKey:
        return ToolKey(self.info.scope, self.info.name, self.info.version)

    def is_live(self, now: float) -> bool:
        return self.expires > now

    def shown(self) -> ToolInfo:
        return msgspec.structs.replace(self.info, expires=rfc3339(self.expires))


class ScopeUsage(msgspec.Struct):
    """What a scope keeps, live or remembered."""

    versions: int = 0
    size_bytes: int = 0


class Amnesty(NamedTuple):
    """Versions that ended after `after`, as `revision` of the bucket had them, count as live until `until`."""

    after: float
    until: float
    revision: int


Tools = dict[str, dict[str, dict[str, ToolEntry]]]
"""Entries by scope, name and version."""


class ToolCatalogue:
    """All versions that are registered, remembered or discovered. Registered ones hide discovered ones."""

    def __init__(self) -> None:
        self._published: Tools = {}
        self._discovered: Tools = {}
        self._usage: dict[str, ScopeUsage] = {}
        self._amnesty = Amnesty(0.0, 0.0, 0)

    def forgive(self, amnesty: Amnesty) -> None:
        """Nobody could renew for a while: do not hold that against those who would have."""
        self._amnesty = amnesty

    def is_live(self, entry: ToolEntry, now: float) -> bool:
        after, until, revision = self._amnesty
        return entry.expires > now or (now < until and entry.expires > after and entry.revision <= revision)

    def get(self, key: ToolKey) -> ToolEntry | None:
        """The published version, alive or remembered."""
        return self._published.get(key.scope, {}).get(key.name, {}).get(key.version)

    def put(self, entry: ToolEntry) -> None:
        """Take a published version over, unless what is known of it is as new."""
        before = self.get(entry.key)
        if before is not None and before.revision >= entry.revision:
            return
        if before is not None:
            self._count(before, -1)
        _put(self._published, entry)
        self._count(entry, 1)

    def renew(self, key: ToolKey, *, expires: float, revision: int) -> None:
        """A published version lives on, or ends."""
        entry = self.get(key)
        if entry is not None and revision > entry.revision:
            _put(self._published, replace(entry, expires=expires, revision=revision))

    def forget(self, key: ToolKey, *, revision: int) -> None:
        """Let go of a published version, unless it was written at `revision` or later."""
        entry = self.get(key)
        if entry is None or entry.revision >= revision:
            return
        self._count(entry, -1)
        names = self._published[key.scope]
        del names[key.name][key.version]
        if not names[key.name]:
            del names[key.name]
        if not names:
            del self._published[key.scope]

    def keep_only(self, keys: Iterable[ToolKey], *, revision: int) -> None:
        """Forget what is not in `keys` and was not written after `revision`."""
        kept = set(keys)
        for entry in list(self.published()):
            if entry.key not in kept:
                self.forget(entry.key, revision=revision + 1)

    def clear(self) -> None:
        """Forget all that was published."""
        self._published.clear()
        self._usage.clear()

    def set_discovered(self, entries: Iterable[ToolEntry]) -> None:
        """Replace what was discovered."""
        self._discovered = {}
        for entry in entries:
            _put(self._discovered, entry)

    def published(self, scope: str | None = None) -> Iterator[ToolEntry]:
        """All registered and remembered versions, of a scope or of all."""
        scopes = self._published if scope is None else (scope,)
        return (
            entry
            for one in scopes
            for versions in self._published.get(one, {}).values()
            for entry in versions.values()
        )

    def versions(self, scope: str, name: str) -> Collection[ToolEntry]:
        """All registered and remembered versions of a tool."""
        return self._published.get(scope, {}).get(name, {}).values()

    def usage(self, scope: str | None = None) -> ScopeUsage:
        """What a scope keeps, or all together."""
        if scope is not None:
            return self._usage.get(scope) or ScopeUsage()
        every = self._usage.values()
        return ScopeUsage(sum(usage.versions for usage in every), sum(usage.size_bytes for usage in every))

    def live(self, scope: str, name: str, now: float) -> dict[str, ToolEntry]:
        """A tool's live versions."""
        live: dict[str, ToolEntry] = {}
        for version, entry in self._discovered.get(scope, {}).get(name, {}).items():
            if entry.is_live(now):
                live[version] = entry
        for version, entry in self._published.get(scope, {}).get(name, {}).items():
            if self.is_live(entry, now):
                live[version] = entry
        return live

    def names(self, scope: str, now: float) -> list[str]:
        """The names of a scope's tools that have a live version, sorted."""
        names = self._published.get(scope, {}).keys() | self._discovered.get(scope, {}).keys()
        return sorted(name for name in names if self.live(scope, name, now))

    def live_count(self, now: float) -> int:
        """How many versions live, over all scopes."""
        scopes = self._published.keys() | self._discovered.keys()
        return sum(len(self.live(scope, name, now)) for scope in scopes for name in self.names(scope, now))

    def resolve(self, tenant: str, ref: str, now: float) -> ToolInfo:
        """The highest live version that fits `name` or `name@range`: the tenant's own, else the shared one.

        A live tool of the tenant hides a shared one of its name altogether. Raises Permanent (`unknown_tool`).
        """
        name, _, text = ref.partition("@")
        try:
            wanted = parse_range(text)
        except ValueError as e:
            raise Permanent(f"{ref!r}: {e}", code="unknown_tool", details={"tool": name}) from e
        own = self.live(tenant, name, now)
        offered = own or self.live(SHARED_SCOPE, name, now)
        entry = highest(wanted, [(entry.version, entry) for entry in offered.values()])
        if entry is None:
            raise self._unknown(tenant, ref, name, offered, is_own=bool(own), now=now)
        return entry.shown()

    def _unknown(
        self, tenant: str, ref: str, name: str, offered: dict[str, ToolEntry], *, is_own: bool, now: float
    ) -> Permanent:
        live = [str(version) for version in sorted((e.version for e in offered.values()), reverse=True)]
        if live:
            whose = f"tenant {tenant!r} has" if is_own else "there are"
            message = f"no live version of the tool fits {ref!r}: {whose} {_listed(live)}"
        else:
            names = sorted({*self.names(tenant, now), *self.names(SHARED_SCOPE, now)})
            known = f"live tools are {_listed(names)}" if names else "no tool is live"
            message = f"no live tool is called {name[:80]!r}: {known}"
        return Permanent(message, code="unknown_tool", details={"tool": name[:80], "live": live[:_MOST_NAMED]})

    def _count(self, entry: ToolEntry, sign: int) -> None:
        scope = entry.info.scope
        usage = self._usage.setdefault(scope, ScopeUsage())
        usage.versions += sign
        usage.size_bytes += sign * len(entry.document)
        if not usage.versions:
            del self._usage[scope]


def _put(tools: Tools, entry: ToolEntry) -> None:
    info = entry.info
    tools.setdefault(info.scope, {}).setdefault(info.name, {})[info.version] = entry


def entry_of(info: ToolInfo, *, document: bytes, expires: float, revision: int) -> ToolEntry:
    """Raises ValueError for a version that is none."""
    return ToolEntry(info, parse_version(info.version), document, expires, revision)


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
