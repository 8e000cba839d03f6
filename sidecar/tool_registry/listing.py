"""Pages of the list of tools. Pure."""

from collections.abc import Collection, Iterator

from sidecar.errors import InvalidRequest
from sidecar.models.subjects import SHARED_SCOPE
from sidecar.models.tool import ToolInfo, ToolList, ToolListRequest
from sidecar.tool_registry.catalogue import ToolCatalogue, ToolEntry

MOST_PAGE_BYTES = 512 * 1024
_ENVELOPE_BYTES = 512


def page_of(
    catalogue: ToolCatalogue, scope: str, asked: ToolListRequest, *, allowed: Collection[str] | None, now: float
) -> ToolList:
    """Live tools of a scope by name, highest version first; as many as fit a message.

    Shared ones, where asked for, are those that jobs of this tenant may use. Raises InvalidRequest for a cursor
    that is none.
    """
    start = _position(asked.cursor)
    tools: list[ToolInfo] = []
    size = 0
    for at, entry in enumerate(_entries(catalogue, scope, asked, allowed, now)):
        if at < start:
            continue
        size += len(entry.document) + _ENVELOPE_BYTES
        if len(tools) == asked.limit or (tools and size > MOST_PAGE_BYTES):
            return ToolList(tools=tuple(tools), cursor=str(at))
        tools.append(entry.shown())
    return ToolList(tools=tuple(tools))


def _entries(
    catalogue: ToolCatalogue, scope: str, asked: ToolListRequest, allowed: Collection[str] | None, now: float
) -> Iterator[ToolEntry]:
    own = catalogue.names(scope, now)
    yield from _of(catalogue, scope, own, asked, now)
    if asked.shared and scope != SHARED_SCOPE:
        shared = [
            n for n in catalogue.names(SHARED_SCOPE, now) if n not in own and (allowed is None or n in allowed)
        ]
        yield from _of(catalogue, SHARED_SCOPE, shared, asked, now)


def _of(
    catalogue: ToolCatalogue, scope: str, names: Collection[str], asked: ToolListRequest, now: float
) -> Iterator[ToolEntry]:
    for name in names:
        if asked.name is None or asked.name == name:
            live = catalogue.live(scope, name, now).values()
            yield from sorted(live, key=lambda entry: entry.version, reverse=True)


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
        raise InvalidRequest("is not the cursor of an earlier page: leave it out to start anew", path="cursor")
    return int(cursor)
