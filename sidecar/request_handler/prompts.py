"""Stored prompts: every replica holds all templates in memory, so that admission need not wait for the bus.

A job is bound to the template that it was admitted with: its document names the version and the revision, and
whoever runs it takes exactly that document, whatever has been stored since.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from sidecar.errors import Conflict, InvalidRequest, SidecarError, TooCostly
from sidecar.models.base import FieldError
from sidecar.models.codec import decode
from sidecar.models.content import Message
from sidecar.models.prompt import (
    SHARED,
    PromptTemplate,
    PromptUse,
    Value,
    is_version,
    key_of,
    parts_of,
    text_digest,
    version_order,
)
from sidecar.models.request import JobRequest, PromptRef
from sidecar.models.shown import shown
from sidecar.ports.bus import Clock, PromptStore
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.lifecycle import Tasks, Waker

log = logging.getLogger(__name__)

LOOK_S = 15.0
SETTLE_S = 0.05
MOST_TEMPLATES = 10_000
# A document in bytes, and characters of all its texts once they are filled in: more is done apart.
MOST_READ_INLINE = 16 * 1024
MOST_FILLED_INLINE = 256 * 1024


class _Entry(msgspec.Struct):
    """A document as it is stored; read when it is first used. `revision` 0: heard of, not read back yet."""

    document: bytes
    revision: int
    template: PromptTemplate | None = None
    problem: str | None = None

    def read(self) -> PromptTemplate:
        """Raises InvalidRequest for a document that is no template."""
        if self.template is None and self.problem is None:
            try:
                self.template = decode(self.document, PromptTemplate)
            except InvalidRequest as e:
                self.problem = e.message
        if self.template is None:
            raise InvalidRequest(f"is stored, but is no template: {self.problem}", path="prompt.name")
        return self.template

    def is_filled_in_at_once(self, ref: PromptRef) -> bool:
        """Whether the document and what becomes of it are small. One that cannot be filled in says so at once."""
        if len(self.document) > MOST_READ_INLINE:
            return False
        try:
            template = self.read()
            return template.size(template.values(ref.variables)) <= MOST_FILLED_INLINE
        except (InvalidRequest, FieldError):
            return True


class Prompts:
    """The templates of all tenants, and requests made of them."""

    def __init__(
        self, store: PromptStore, *, work: BoundedWork, clock: Clock, on_crash: Callable[[BaseException], None]
    ) -> None:
        """`work` fills in what is large."""
        self._store = store
        self._work = work
        self._clock = clock
        self._tasks = Tasks(on_crash)
        self._waker = Waker(clock)
        self._entries: dict[tuple[str, str], dict[str, _Entry]] = {}
        self._mark = -1

    async def start(self) -> None:
        await self._store.listen(self._on_change)
        await self._reload()
        self._tasks.spawn(self._watch(), name="prompts")

    async def stop(self) -> None:
        await self._tasks.cancel()

    def is_filled_in_at_once(self, tenant: str, request: JobRequest) -> bool:
        """Whether `rendered` takes no longer than a moment; for others there is `rendered_later`."""
        ref = _ref_of(request)
        try:
            _, _, entry = self._find(tenant, ref)
        except InvalidRequest:
            return True
        return entry.is_filled_in_at_once(ref)

    def rendered(self, tenant: str, request: JobRequest) -> tuple[JobRequest, PromptUse]:
        """The request with messages in place of its template's name, by what is known at this moment.

        Raises InvalidRequest with the path of what is wrong.
        """
        ref = _ref_of(request)
        scope, version, entry = self._find(tenant, ref)
        filled = _filled(entry.read(), ref.variables, request.system)
        return _made(request, ref, filled, scope=scope, version=version, revision=entry.revision)

    async def rendered_later(self, tenant: str, request: JobRequest) -> tuple[JobRequest, PromptUse]:
        """The same, away from the event loop where that takes longer than a moment. Raises InvalidRequest."""
        ref = _ref_of(request)
        scope, version, entry = self._find(tenant, ref)
        filled = await self._fill(tenant, entry, ref, request.system)
        return _made(request, ref, filled, scope=scope, version=version, revision=entry.revision)

    async def rendered_as(
        self, tenant: str, request: JobRequest, pinned: PromptUse | None
    ) -> tuple[JobRequest, PromptUse]:
        """The request made of the template it was admitted with. Raises InvalidRequest where that is gone."""
        if pinned is None:
            return await self._late(tenant, request)
        ref = _ref_of(request)
        entry = self._entries.get((pinned.scope, pinned.name), {}).get(pinned.version)
        if entry is None or (pinned.revision and entry.revision != pinned.revision):
            key = key_of(pinned.scope, pinned.name, pinned.version)
            document = await self._store.get(key, revision=pinned.revision) if pinned.revision else None
            # Without that revision the words decide whether what is stored now is the same.
            entry = _Entry(document, pinned.revision) if document is not None else entry
        if entry is not None:
            filled = await self._fill(tenant, entry, ref, request.system)
            made, use = _made(
                request, ref, filled, scope=pinned.scope, version=pinned.version, revision=pinned.revision
            )
            if use.sha256 == pinned.sha256:
                return made, use
        raise InvalidRequest(
            f"version {pinned.version} of {pinned.name!r} was replaced or removed while the job waited",
            path="prompt.version",
        )

    async def _late(self, tenant: str, request: JobRequest) -> tuple[JobRequest, PromptUse]:
        """This replica may not have heard yet of what the one that admitted the job knew."""
        try:
            return await self.rendered_later(tenant, request)
        except InvalidRequest:
            await self._reload()
            return await self.rendered_later(tenant, request)

    async def _fill(self, tenant: str, entry: _Entry, ref: PromptRef, system: str | None) -> "FilledPrompt":
        if entry.is_filled_in_at_once(ref):
            return _filled(entry.read(), ref.variables, system)
        try:
            return await self._work.run(tenant, fill_in, entry.document, ref.variables, system)
        except TooCostly as e:
            why = f"filling in the template {e.message}: give shorter values, or store a shorter template"
            raise InvalidRequest(why, path="prompt.variables") from e

    def _find(self, tenant: str, ref: PromptRef) -> tuple[str, str, _Entry]:
        for scope in (tenant, SHARED):
            versions = self._entries.get((scope, ref.name))
            if not versions:
                continue
            if ref.version is None:
                version = max(versions, key=version_order)
                return scope, version, versions[version]
            wanted = version_order(ref.version) if is_version(ref.version) else None
            for version, entry in versions.items():
                if version_order(version) == wanted:
                    return scope, version, entry
            known = ", ".join(sorted(versions, key=version_order))
            raise InvalidRequest(
                f"template {ref.name!r} has no version {ref.version!r}; it has {known}", path="prompt.version"
            )
        raise InvalidRequest(f"no prompt template named {ref.name!r} is stored", path="prompt.name")

    def _on_change(self, key: str, document: bytes | None) -> None:
        """Take a new version over at once, so that who stored it may use it; all else when it is read back."""
        found = parts_of(key)
        if found is not None and document is not None:
            scope, name, version = found
            self._entries.setdefault((scope, name), {}).setdefault(version, _Entry(document, 0))
        self._mark = -1
        self._waker.wake()

    async def _watch(self) -> None:
        while True:
            await self._waker.wait(LOOK_S)
            await self._clock.sleep(SETTLE_S)
            await self._reload()

    async def _reload(self) -> None:
        """Read the bucket again if it has changed. While the bus is away what is known goes on to serve."""
        try:
            mark = await self._store.mark()
            if mark == self._mark:
                return
            stored, overrun = await self._store.load()
            if await self._put_back(overrun):
                stored, _ = await self._store.load()
        except SidecarError as e:
            log.warning("prompt templates could not be read", extra={"error": e.message})
            return
        if len(stored) > MOST_TEMPLATES:
            log.error("only the newest prompt templates are used", extra={"stored": len(stored)})
        before, self._entries = self._entries, {}
        for prompt in sorted(stored, key=lambda prompt: prompt.revision)[-MOST_TEMPLATES:]:
            if (found := parts_of(prompt.key)) is None:
                log.warning("a key of the prompt bucket names no template", extra={"key": shown(prompt.key)})
                continue
            scope, name, version = found
            known = before.get((scope, name), {}).get(version)
            entry = known if known is not None and known.document == prompt.document else None
            entry = entry or _Entry(prompt.document, prompt.revision)
            entry.revision = prompt.revision
            self._entries.setdefault((scope, name), {})[version] = entry
        self._mark = mark

    async def _put_back(self, keys: Sequence[str]) -> bool:
        """Store anew what strangers wrote over as often as the bucket keeps revisions. Whether there was any."""
        is_any = False
        for key in keys:
            found = parts_of(key)
            entry = self._entries.get(found[:2], {}).get(found[2]) if found is not None else None
            if entry is not None:
                log.warning("a prompt template was written over: stored again", extra={"key": shown(key)})
                is_any = True
                with suppress(Conflict):
                    await self._store.create(key, entry.document)
        return is_any


def _ref_of(request: JobRequest) -> PromptRef:
    if request.prompt is None:
        raise SidecarError("the request names no template")
    return request.prompt


class FilledPrompt(msgspec.Struct, frozen=True, array_like=True):
    """`sha256` is of the texts, the request's own system prompt before the template's."""

    system: str | None
    messages: tuple[Message, ...]
    sha256: str


def fill_in(document: bytes, variables: dict[str, Value], system: str | None) -> FilledPrompt:
    """For a worker process: a stored template with a request's variables. Raises InvalidRequest."""
    return _filled(_Entry(document, 0).read(), variables, system)


def _filled(template: PromptTemplate, variables: Mapping[str, Value], system: str | None) -> FilledPrompt:
    try:
        own, messages = template.rendered(template.values(variables))
    except FieldError as e:
        raise InvalidRequest(e.message, path=f"prompt.{e.path}") from e
    used = own if system is None else system
    return FilledPrompt(used, messages, text_digest(used, messages))


def _made(
    request: JobRequest, ref: PromptRef, filled: FilledPrompt, *, scope: str, version: str, revision: int
) -> tuple[JobRequest, PromptUse]:
    """A system prompt of the request itself goes before the template's."""
    try:
        made = msgspec.structs.replace(request, messages=filled.messages, prompt=None, system=filled.system)
    except FieldError as e:
        raise InvalidRequest(
            f"with these variables the prompt's {e.path} {e.message}", path="prompt.variables"
        ) from e
    use = PromptUse(name=ref.name, version=version, scope=scope, sha256=filled.sha256, revision=revision)
    return made, use
