"""The registry: takes registrations, keeps them in the bucket, and knows what every replica has written there."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from sidecar.component import Tasks, logged
from sidecar.errors import BusUnavailable, Conflict, InvalidRequest, Permanent
from sidecar.models.base import rfc3339
from sidecar.models.codec import decode, encode
from sidecar.models.subjects import Subjects, is_name
from sidecar.models.tool import (
    ToolDeregistered,
    ToolDeregistration,
    ToolInfo,
    ToolList,
    ToolListRequest,
    ToolRegistered,
    ToolRegistration,
)
from sidecar.ports import Clock, Endpoint, Query, Reply, StoredTool, ToolBus, ToolChange, ToolKey, ToolStore
from sidecar.settings import Policy
from sidecar.tool_registry.catalogue import Catalogue
from sidecar.tool_registry.documents import document_of, entry_from, key_of

log = logging.getLogger(__name__)

CHECK_S = 1.0
REMEMBER_S = 30 * 86_400
MOST_KNOWN = 8192
MOST_TRIES = 4


class ToolRegistry:
    """One replica's part of the registry. `find` is for jobs, the endpoints are for providers."""

    def __init__(
        self,
        *,
        store: ToolStore,
        bus: ToolBus,
        clock: Clock,
        policy: Callable[[], Policy],
        subjects: Subjects,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """`policy` is asked each time, so that a reload holds at once."""
        self._store = store
        self._bus = bus
        self._clock = clock
        self._policy = policy
        self._subjects = subjects
        self._tasks = Tasks(on_crash)
        self.catalogue = Catalogue()
        self._seen = 0
        self._is_current = False
        self._heard: list[ToolChange] | None = None
        self._known: OrderedDict[tuple[str, bytes], tuple[ToolKey, bytes, int]] = OrderedDict()

    async def start(self) -> None:
        """Read what is registered, and hear of changes from now on."""
        await self._store.listen(self._hear)
        with logged("reading the tools"):
            await self._read()
        self._tasks.spawn(self._watch(), name="tools")

    async def stop(self) -> None:
        await self._tasks.cancel()

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "tools_register", "tools.*.register", self._register, _schemas(ToolRegistration, ToolRegistered)
            ),
            Endpoint(
                "tools_deregister",
                "tools.*.deregister",
                self._deregister,
                _schemas(ToolDeregistration, ToolDeregistered),
            ),
            Endpoint("tools_list", "tools.*.list", self._list, _schemas(ToolListRequest, ToolList)),
        )

    def find(self, tenant: str, ref: str) -> ToolInfo:
        """The tool that `name` or `name@range` stands for, for this tenant: the highest live version that fits.

        Raises Permanent: `unknown_tool` with what there is, `tenant_denied` where the policy does not allow it.
        """
        name = ref.partition("@")[0]
        allowed = self._policy().tenant(tenant).tools
        if allowed is not None and name not in allowed:
            may_use = ", ".join(allowed) or "none"
            raise Permanent(
                f"tenant {tenant!r} may not use the tool {name[:80]!r}; it may use: {may_use}",
                code="tenant_denied",
                details={"tool": name[:80]},
            )
        return self.catalogue.resolve(tenant, ref, self._clock.now())

    async def _register(self, query: Query) -> Reply:
        scope = _scope(query)
        digest = blake2b(query.payload, digest_size=16).digest()
        known = self._known.get((scope, digest))
        if known is None:
            registration = decode(query.payload, ToolRegistration)
            known = key_of(scope, registration), document_of(registration), registration.ttl_s
        key, document, ttl_s = known
        expires = await self._keep(key, document, ttl_s)
        self._known[scope, digest] = known
        self._known.move_to_end((scope, digest))
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        subject = self._subjects.call(scope, key.name, key.version)
        return Reply(encode(ToolRegistered(subject=subject, expires=rfc3339(expires))))

    async def _keep(self, key: ToolKey, document: bytes, ttl_s: int) -> float:
        """Make a version live for `ttl_s` from now. Returns when it ends."""
        for _ in range(MOST_TRIES):
            entry = self.catalogue.get(key)
            if entry is not None and entry.document != document:
                raise InvalidRequest(
                    "this version is published with other content: publish a new version", path="version"
                )
            expires = self._clock.now() + ttl_s
            try:
                await self._write(key, document, expires=expires, revision=entry.revision if entry else 0)
                return expires
            except Conflict:
                await self._refresh(key)
        raise BusUnavailable("too many providers register this version at once: try again")

    async def _write(self, key: ToolKey, document: bytes, *, expires: float, revision: int) -> None:
        keep_s = max(1, int(expires - self._clock.now())) + REMEMBER_S
        written = await self._store.put(key, document, expires=expires, revision=revision, keep_s=keep_s)
        self._apply(ToolChange(written, key, StoredTool(key, document, expires, written)))

    async def _refresh(self, key: ToolKey) -> None:
        """Read a version that somebody else wrote."""
        stored = await self._store.get(key)
        if stored is not None:
            self._apply(ToolChange(stored.revision, key, stored))
            return
        entry = self.catalogue.get(key)
        if entry is not None:
            self.catalogue.forget(key, revision=entry.revision + 1)

    async def _deregister(self, query: Query) -> Reply:
        scope = _scope(query)
        asked = decode(query.payload, ToolDeregistration)
        key = ToolKey(scope, asked.name, asked.version)
        removed = await self._end(key)
        return Reply(encode(ToolDeregistered(name=asked.name, version=asked.version, removed=removed)))

    async def _end(self, key: ToolKey) -> bool:
        """End a registration now. False when it did not live."""
        for _ in range(MOST_TRIES):
            entry, now = self.catalogue.get(key), self._clock.now()
            if entry is None or not entry.is_live(now):
                return False
            try:
                await self._write(key, entry.document, expires=now, revision=entry.revision)
                return True
            except Conflict:
                await self._refresh(key)
        raise BusUnavailable("too many providers register this version at once: try again")

    async def _list(self, query: Query) -> Reply:
        scope = _scope(query)
        asked = decode(query.payload, ToolListRequest)
        now = self._clock.now()
        names = self.catalogue.names(scope, now)
        tools = [
            entry.shown()
            for name in names
            for entry in sorted(
                self.catalogue.live(scope, name, now).values(), key=lambda e: e.version, reverse=True
            )
        ]
        del asked
        return Reply(encode(ToolList(tools=tuple(tools))))

    def _hear(self, change: ToolChange) -> None:
        if self._heard is not None:
            self._heard.append(change)
            return
        if change.revision != self._seen + 1:
            self._is_current = self._is_current and change.revision <= self._seen
        self._seen = max(self._seen, change.revision)
        self._apply(change)

    def _apply(self, change: ToolChange) -> None:
        if change.key is None:
            return
        if change.stored is None:
            self.catalogue.forget(change.key, revision=change.revision)
            return
        stored, known = change.stored, self.catalogue.get(change.key)
        if known is not None and known.document == stored.document:
            self.catalogue.renew(change.key, expires=stored.expires, revision=stored.revision)
            return
        try:
            self.catalogue.put(entry_from(stored, subjects=self._subjects))
        except (InvalidRequest, ValueError) as e:
            log.warning(
                "the bucket of tools holds what is none", extra={"key": ".".join(change.key), "error": str(e)}
            )

    async def _read(self) -> None:
        """Take over all that is stored; what is heard meanwhile counts after it."""
        heard: list[ToolChange] = []
        self._heard = heard
        try:
            snapshot = await self._store.snapshot()
            for stored in snapshot.tools:
                self._apply(ToolChange(stored.revision, stored.key, stored))
            self.catalogue.keep_only((tool.key for tool in snapshot.tools), revision=snapshot.revision)
            self._seen, self._is_current = snapshot.revision, True
        finally:
            self._heard = None
            for change in heard:
                if change.revision > self._seen:
                    self._hear(change)

    async def _watch(self) -> None:
        """Once a second: is there anything that was not heard?"""
        while True:
            await self._clock.sleep(CHECK_S)
            with logged("looking for changes of tools"):
                if not self._is_current or await self._store.last_revision() > self._seen:
                    await self._read()


def _scope(query: Query) -> str:
    scope = query.tokens[0] if query.tokens else ""
    if not is_name(scope):
        raise InvalidRequest(f"{scope[:80]!r}: use 1 to 64 of A-Z a-z 0-9 _ -", path="subject.scope")
    return scope


def _schemas(request: Any, response: Any) -> Mapping[str, str]:
    """Endpoint metadata (ADR-32): what goes in and what comes back, as JSON Schema."""
    return {
        "schema.request": msgspec.json.encode(msgspec.json.schema(request)).decode(),
        "schema.response": msgspec.json.encode(msgspec.json.schema(response)).decode(),
    }
