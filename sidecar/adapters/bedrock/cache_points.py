"""Cache points where Bedrock takes them: none stands first, doubled, after reasoning or after most documents.

A point that stands elsewhere goes back to the nearest place before it that is allowed: what is cached then is a
beginning of what was to be cached. Where there is no such place it is dropped. Both are said.
"""

from collections.abc import Iterator
from typing import Any

from sidecar.adapters.bedrock.caching import MAX_POINTS, has_points, keep_newest
from sidecar.models.profile import ModelProfile

Body = dict[str, Any]


def tidy_cache_points(body: Body, profile: ModelProfile, warnings: list[str]) -> None:
    if not has_points(body):
        return
    is_claude = profile.family == "claude"
    system = body.get("system") if "system" in profile.traits.cache_points else None
    before: list[Body] = system if system is not None else []
    moved = dropped = 0
    for message in body["messages"]:
        content: list[Body] = []
        for block in message["content"]:
            if "cachePoint" not in block:
                content.append(block)
                continue
            place, where = _place_in(content, is_claude), content
            if place == 0 and before:
                place, where = _place_in(before, is_claude), before
            if place == 0 or "cachePoint" in where[place - 1]:
                dropped += 1
            else:
                moved += place != len(content) or where is not content
                where.insert(place, block)
        message["content"][:] = content
        before = message["content"]
    if moved:
        warnings.append(f"cache points where this model takes none were sent further in front: {moved}")
    if dropped:
        warnings.append(f"cache points with nothing new to cache before them were not sent: {dropped}")
    _lifetimes(body, profile, warnings)
    others = sum(1 for _ in _points(body)) - sum(1 for _ in _in_messages(body))
    if too_many := keep_newest(body["messages"], MAX_POINTS - others):
        warnings.append(f"a request takes {MAX_POINTS} cache points; the {too_many} oldest were not sent")


def _place_in(content: list[Body], is_claude: bool) -> int:
    """Before which block a point at the end of `content` may stand; 0 where nowhere."""
    place = len(content)
    while place > 0 and not _may_precede(content[place - 1], is_claude):
        place -= 1
    return place


def _may_precede(block: Body, is_claude: bool) -> bool:
    if "reasoningContent" in block or "toolUse" in block:
        return False
    document = block.get("document")
    return document is None or (is_claude and document.get("format") == "pdf")


def _lifetimes(body: Body, profile: ModelProfile, warnings: list[str]) -> None:
    """Long lives before short ones, and only with models that have them."""
    unknown = late = 0
    is_short = False
    for point in _points(body):
        if point.get("ttl") is None:
            is_short = True
        elif not profile.traits.long_cache:
            unknown += 1
            del point["ttl"]
        elif is_short:
            late += 1
            del point["ttl"]
    if unknown:
        warnings.append("this model keeps no cache for an hour; cache points were sent with 5 minutes")
    if late:
        warnings.append("cache points of an hour behind one of 5 minutes were sent with 5 minutes, too")


def _points(body: Body) -> Iterator[Body]:
    """In the order in which Bedrock reads them: tools, system, messages."""
    for block in body.get("toolConfig", {}).get("tools", ()):
        if "cachePoint" in block:
            yield block["cachePoint"]
    for block in body.get("system", ()):
        if "cachePoint" in block:
            yield block["cachePoint"]
    yield from _in_messages(body)


def _in_messages(body: Body) -> Iterator[Body]:
    for message in body["messages"]:
        for block in message["content"]:
            if "cachePoint" in block:
                yield block["cachePoint"]
