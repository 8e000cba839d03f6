"""Tools without registration: endpoints of micro services (ADR-32) whose metadata carries `llm.tool`.

What services say is not to be trusted: an endpoint counts only if its subject is the one that is derived for the
tool, so that nobody can aim the sidecar at other subjects, and a scope is the one that the subject names.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from sidecar.config.settings import CurrentPolicy
from sidecar.errors import BusUnavailable, InvalidRequest
from sidecar.models.codec import decode, encode
from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown
from sidecar.models.subjects import Subjects, is_name, token_version
from sidecar.models.tool import ToolRegistration
from sidecar.ports.bus import Clock
from sidecar.ports.tools import ToolBus, ToolKey
from sidecar.runtime.lifecycle import Tasks, logged
from sidecar.runtime.schema_checks import SchemaChecks
from sidecar.tool_registry.catalogue import ToolCatalogue, ToolEntry, entry_of
from sidecar.tool_registry.documents import document_of, info_of
from sidecar.tool_registry.publishing import check_registration

log = logging.getLogger(__name__)

METADATA_KEY = "llm.tool"
EVERY_S = 5.0
GATHER_S = 1.0
LIVES_S = 20.0
REFUSED_S = 60.0
MOST_FOUND = 1_000


class _Endpoint(msgspec.Struct):
    subject: str = ""
    metadata: dict[str, str] | None = None


class _Service(msgspec.Struct):
    """As much of an INFO response as is needed."""

    name: str = ""
    endpoints: list[_Endpoint] | None = None


_decode_service = msgspec.json.Decoder(_Service).decode


@dataclass(slots=True, kw_only=True, eq=False)
class Discovery:
    """Asks for services now and then, and keeps what was found in `catalogue`."""

    bus: ToolBus
    catalogue: ToolCatalogue
    clock: Clock
    policy: CurrentPolicy
    subjects: Subjects
    checks: SchemaChecks

    _found: dict[ToolKey, ToolEntry] = field(default_factory=dict, init=False)
    _read: dict[str, tuple[str, ToolEntry]] = field(default_factory=dict, init=False)
    _refused: set[str] = field(default_factory=set, init=False)

    def start(self, tasks: Tasks) -> None:
        tasks.spawn(self._watch(), name="services")

    async def _watch(self) -> None:
        while True:
            pause_s = REFUSED_S
            with logged("looking for services"):
                pause_s = await self._look_patiently()
            await self.clock.sleep(pause_s)

    async def _look_patiently(self) -> float:
        """Look, and say when to do it again: without permission to ask, seldom."""
        try:
            await self.look()
        except BusUnavailable as e:
            log.info("services were not asked: %s", e)
        return EVERY_S

    async def look(self) -> None:
        """Ask all services once. What has not answered for `LIVES_S` is forgotten."""
        scopes = self.policy.now.tools.discovery
        if scopes:
            answers = await self.bus.services(wait_s=GATHER_S)
            await self._take(answers, scopes)
        now = self.clock.now()
        self._found = {
            key: entry for key, entry in self._found.items() if entry.is_live(now) and _allows(scopes, key.scope)
        }
        self.catalogue.set_discovered(self._found.values())

    async def _take(self, answers: Collection[bytes], scopes: Collection[str]) -> None:
        expires = self.clock.now() + LIVES_S
        for endpoint in endpoints_of(answers):
            try:
                entry = await self._entry(endpoint, expires)
            except (InvalidRequest, ValueError) as e:
                self._refuse(endpoint.subject, str(e))
                continue
            known = self._found.get(entry.key)
            if not _allows(scopes, entry.key.scope) or (known is None and len(self._found) >= MOST_FOUND):
                continue
            if known is not None and known.document != entry.document and known.is_live(self.clock.now()):
                self._refuse(endpoint.subject, "two services say different things of one version")
                continue
            self._found[entry.key] = entry

    async def _entry(self, endpoint: _Endpoint, expires: float) -> ToolEntry:
        """What was said before need not be read and checked again."""
        text = (endpoint.metadata or {}).get(METADATA_KEY, "")
        said, known = self._read.get(endpoint.subject, (None, None))
        if known is None or said != text:
            # A thousand services that are all new must not hold the event loop together.
            await asyncio.sleep(0)
            known = await entry_from_service(endpoint.subject, text, self.subjects, self.checks)
            if len(self._read) >= MOST_FOUND:
                self._read.clear()
            self._read[endpoint.subject] = text, known
        return replace(known, expires=expires)

    def _refuse(self, subject: str, why: str) -> None:
        """Say so once."""
        if subject not in self._refused and len(self._refused) < MOST_FOUND:
            self._refused.add(subject)
            log.warning(
                "a service is not taken for a tool", extra={"subject": shown(subject), "error": shown(why, 500)}
            )


def endpoints_of(answers: Collection[bytes]) -> Iterator[_Endpoint]:
    """The endpoints that say they are tools; answers that cannot be read have none."""
    for answer in answers:
        try:
            service = _decode_service(answer)
        except UNREADABLE:
            continue
        for endpoint in service.endpoints or ():
            if endpoint.metadata and METADATA_KEY in endpoint.metadata:
                yield endpoint


async def entry_from_service(subject: str, text: str, subjects: Subjects, checks: SchemaChecks) -> ToolEntry:
    """The tool of an endpoint on `subject` whose metadata says `text`; without an end.

    Raises InvalidRequest or ValueError for one that is no tool.
    """
    scope, name, version = _named(subject, subjects)
    fields = decode(text.encode("utf-8", "replace"), dict[str, Any])
    for named, value in (("name", name), ("version", version)):
        if fields.setdefault(named, value) != value:
            raise InvalidRequest(f"is {fields[named]!r}, but the subject says {value!r}", path=named)
    registration = decode(encode(fields), ToolRegistration)
    await check_registration(registration, len(text), scope=scope, checks=checks)
    info = info_of(scope, registration, subjects=subjects, discovered=True)
    return entry_of(info, document=document_of(registration), expires=0.0, revision=0)


def _named(subject: str, subjects: Subjects) -> tuple[str, str, str]:
    """Scope, name and version of a call subject. Raises ValueError for any other subject."""
    tokens = subject.removeprefix(subjects.endpoint("call", "")).split(".")
    if len(tokens) != 3 or not (is_name(tokens[0]) and is_name(tokens[1])):
        raise ValueError("the subject is none that tools are called on")
    scope, name, version = tokens[0], tokens[1], token_version(tokens[2])
    if subjects.call(scope, name, version) != subject:
        raise ValueError("the subject is none that tools are called on")
    return scope, name, version


def _allows(scopes: Collection[str], scope: str) -> bool:
    return "*" in scopes or scope in scopes
