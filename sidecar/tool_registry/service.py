"""The registry: takes registrations, keeps them in the bucket, and knows what every replica has written there."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from sidecar.config.settings import CurrentPolicy
from sidecar.errors import BusUnavailable, Conflict, InvalidRequest, Permanent, TooCostly
from sidecar.models.api import schemas_of
from sidecar.models.base import rfc3339
from sidecar.models.codec import decode, encode
from sidecar.models.subjects import Subjects, checked
from sidecar.models.tool import (
    ToolDeregistered,
    ToolDeregistration,
    ToolInfo,
    ToolList,
    ToolListRequest,
    ToolRegistered,
    ToolRegistration,
)
from sidecar.ports.bus import Clock, Endpoint, Query, Reply
from sidecar.ports.tools import StoredTool, ToolBus, ToolChange, ToolKey, ToolStore
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.lifecycle import Beat, Tasks, logged
from sidecar.runtime.schema_checks import SchemaChecks
from sidecar.tool_registry.catalogue import ToolCatalogue, ToolEntry
from sidecar.tool_registry.discovery import Discovery
from sidecar.tool_registry.documents import document_of, key_of
from sidecar.tool_registry.follower import REMEMBER_S, Follower
from sidecar.tool_registry.listing import page_of
from sidecar.tool_registry.publishing import (
    RegistryLimits,
    check_compatible,
    check_registration,
    check_unchanged,
    neighbours,
    renewal,
    room_for,
)
from sidecar.tool_registry.versions import parse_version

MOST_KNOWN = 4_096
MOST_TRIES = 4
# Larger schemas are compared away from the event loop: each pair of their parts may be looked at.
MOST_COMPARED_INLINE = 1_024
PROLONG_S = 1.0


class _Known(NamedTuple):
    """A registration that was found good, by the digest of its bytes: a renewal need not be read again."""

    key: ToolKey
    document: bytes
    ttl_s: int


class ToolRegistry:
    """One replica's part of the registry: `find` is for jobs, the endpoints are for providers.

    Every replica holds the whole view, so that `find` asks nobody.
    """

    def __init__(
        self,
        *,
        store: ToolStore,
        bus: ToolBus,
        clock: Clock,
        policy: CurrentPolicy,
        subjects: Subjects,
        checks: SchemaChecks,
        work: BoundedWork,
        on_crash: Callable[[BaseException], None],
        limits: RegistryLimits | None = None,
    ) -> None:
        """`policy` is asked each time, so that a reload holds at once."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._subjects = subjects
        self._checks = checks
        self._work = work
        self._limits = limits or RegistryLimits()
        self._tasks = Tasks(on_crash)
        self._beat = Beat(clock, every_s=PROLONG_S)
        self._to_prolong: dict[ToolKey, _Known] = {}
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self.catalogue = ToolCatalogue()
        self._follower = Follower(store=store, catalogue=self.catalogue, clock=clock, subjects=subjects)
        self._discovery = Discovery(
            bus=bus, catalogue=self.catalogue, clock=clock, policy=policy, subjects=subjects, checks=checks
        )

    async def start(self) -> None:
        """Read what is registered; hear of changes, and look for services, from now on."""
        await self._follower.start(self._tasks)
        self._discovery.start(self._tasks)

    async def stop(self) -> None:
        await self._tasks.cancel()

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "tools_register",
                "tools.*.register",
                self._register,
                schemas_of(ToolRegistration, ToolRegistered),
                quick=self._renew,
            ),
            Endpoint(
                "tools_deregister",
                "tools.*.deregister",
                self._deregister,
                schemas_of(ToolDeregistration, ToolDeregistered),
            ),
            Endpoint("tools_list", "tools.*.list", self._list, schemas_of(ToolListRequest, ToolList)),
        )

    def find(self, tenant: str, ref: str) -> ToolInfo:
        """The tool that `name` or `name@range` stands for, for this tenant: the highest live version that fits.

        Raises Permanent: `unknown_tool` with what there is, `tenant_denied` where the policy does not allow it.
        """
        name = ref.partition("@")[0]
        allowed = self._policy.now.tenant(tenant).tools
        if allowed is not None and name not in allowed:
            may_use = ", ".join(allowed) or "none"
            raise Permanent(
                f"tenant {tenant!r} may not use the tool {name[:80]!r}; it may use: {may_use}",
                code="tenant_denied",
                details={"tool": name[:80]},
            )
        return self.catalogue.resolve(tenant, ref, self._clock.now())

    @property
    def live_count(self) -> int:
        """Versions of tools that live now, over all scopes."""
        return self.catalogue.live_count(self._clock.now())

    def _renew(self, query: Query) -> Reply | None:
        """The answer to a registration that is known and lasts long enough; prolongs it soon if it has to be."""
        known = self._known.get(_digest(query))
        entry = self.catalogue.get(known.key) if known is not None else None
        if known is None or entry is None or entry.document != known.document:
            return None
        asked = renewal(self._clock.now(), known.ttl_s, until=entry.expires)
        if asked.when == "now":
            return None
        if asked.when == "soon":
            self._prolong(known)
        return self._registered(known, entry.expires)

    def _prolong(self, known: _Known) -> None:
        if not self._to_prolong:
            self._tasks.spawn(self._prolong_all(), name="prolong tools")
        self._to_prolong[known.key] = known

    async def _prolong_all(self) -> None:
        """Write what was renewed since, all at once. What fails is written by its next renewal."""
        await self._beat.wait()
        batch, self._to_prolong = self._to_prolong, {}
        await asyncio.gather(*(self._prolong_one(known) for known in batch.values()))

    async def _prolong_one(self, known: _Known) -> None:
        entry, now = self.catalogue.get(known.key), self._clock.now()
        if entry is None or not entry.is_live(now):
            return
        asked = renewal(now, known.ttl_s, until=entry.expires)
        if asked.when != "never":
            with logged("prolonging a tool", tool=".".join(known.key)):
                await self._write(known.key, known.document, expires=asked.until, revision=entry.revision)

    async def _register(self, query: Query) -> Reply:
        scope, digest = _scope(query), _digest(query)
        known = self._known.get(digest)
        if known is None:
            registration = decode(query.payload, ToolRegistration)
            await check_registration(registration, len(query.payload), scope=scope, checks=self._checks)
            known = _Known(key_of(scope, registration), document_of(registration), registration.ttl_s)
        expires = await self._publish(known)
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return self._registered(known, expires)

    def _registered(self, known: _Known, expires: float) -> Reply:
        subject = self._subjects.call(*known.key)
        return Reply(encode(ToolRegistered(subject=subject, expires=rfc3339(expires))))

    async def _publish(self, known: _Known) -> float:
        """Make a version live for its ttl from now. Returns when it ends, as every replica will see it."""
        if not self._follower.is_ready:
            raise BusUnavailable("the registered tools have not been read yet: try again")
        for _ in range(MOST_TRIES):
            now, entry = self._clock.now(), self.catalogue.get(known.key)
            if entry is None:
                await self._admit(known, now)
            else:
                check_unchanged(entry.document, known.document)
            asked = renewal(now, known.ttl_s, until=entry.expires if entry else None)
            if asked.when != "now" and entry is not None:
                return entry.expires
            revision = entry.revision if entry else 0
            if await self._write(known.key, known.document, expires=asked.until, revision=revision):
                return asked.until
        raise BusUnavailable("too many providers register this version at once: try again")

    async def _admit(self, known: _Known, now: float) -> None:
        """Raises Permanent for a new version that breaks older promises, or has no room."""
        scope = known.key.scope
        await self._compare(known)
        forgotten = room_for(
            len(known.document),
            scope=self.catalogue.usage(scope),
            total=self.catalogue.usage(),
            kept=self.catalogue.published(scope),
            limits=self._limits,
            now=now,
        )
        for entry in forgotten:
            await self._forget(entry)

    async def _compare(self, known: _Known) -> None:
        """Raises InvalidRequest where a new version breaks what others promise, or cannot be compared in time."""
        scope, document = known.key.scope, known.document
        version, compared = parse_version(known.key.version), None
        # Others may be published while this one is compared.
        while (beside := neighbours(version, self.catalogue.versions(scope, known.key.name))) != compared:
            compared = beside
            size = len(document) + sum(len(other or b"") for other in beside)
            if beside == (None, None) or size <= MOST_COMPARED_INLINE:
                return check_compatible(document, *beside)
            try:
                await self._work.run(scope, check_compatible, document, *beside)
            except TooCostly as e:
                why = f"comparing it with the versions beside it {e.message}: simplify the schemas"
                raise InvalidRequest(why, path="version") from e

    async def _forget(self, entry: ToolEntry) -> None:
        try:
            await self._store.delete(entry.key, revision=entry.revision)
        except Conflict:
            await self._follower.refresh(entry.key)
        else:
            self.catalogue.forget(entry.key, revision=entry.revision + 1)

    async def _write(self, key: ToolKey, document: bytes, *, expires: float, revision: int) -> bool:
        """False when somebody else wrote meanwhile; their write is known then."""
        keep_s = max(1, int(expires - self._clock.now())) + REMEMBER_S
        try:
            written = await self._store.put(key, document, expires=expires, revision=revision, keep_s=keep_s)
        except Conflict:
            await self._follower.refresh(key)
            return False
        self._follower.apply(ToolChange(written, key, StoredTool(key, document, expires, written)))
        return True

    async def _deregister(self, query: Query) -> Reply:
        scope = _scope(query)
        asked = decode(query.payload, ToolDeregistration)
        removed = await self._end(ToolKey(scope, asked.name, asked.version))
        return Reply(encode(ToolDeregistered(name=asked.name, version=asked.version, removed=removed)))

    async def _end(self, key: ToolKey) -> bool:
        """End a registration now; what was published stays in mind. False when it did not live."""
        for _ in range(MOST_TRIES):
            now, entry = self._clock.now(), self.catalogue.get(key)
            if entry is None or not self.catalogue.is_live(entry, now):
                return False
            if await self._write(key, entry.document, expires=now, revision=entry.revision):
                return True
        raise BusUnavailable("too many providers register this version at once: try again")

    async def _list(self, query: Query) -> Reply:
        scope = _scope(query)
        asked = decode(query.payload, ToolListRequest)
        allowed = self._policy.now.tenant(scope).tools
        page = page_of(self.catalogue, scope, asked, allowed=allowed, now=self._clock.now())
        return Reply(encode(page))


def _digest(query: Query) -> bytes:
    """What tells one registration from another: its bytes and its scope."""
    scope = query.tokens[0] if query.tokens else ""
    return blake2b(b"%b %b" % (scope.encode(), query.payload), digest_size=20).digest()


def _scope(query: Query) -> str:
    return checked(query.tokens[0] if query.tokens else "", path="subject.scope")
