"""Cache points: where they pay, and where the client put them."""

from typing import Any

import msgspec

from sidecar.adapters.bedrock.messages import cache_point
from sidecar.models.profile import Traits

CHARS_A_TOKEN = 4
MAX_POINTS = 4


def place_cache_points(params: dict[str, Any], traits: Traits) -> None:
    """Add points after tools, system and the last user message, each where what stands before it is long enough.

    Places none where the client placed its own. The conversation gets one only when it can be expected to go
    on (it has turns, or tools): writing a cache that nobody reads costs a quarter more than it should.
    """
    if not traits.cache_points or has_points(params):
        return
    tools = params.get("toolConfig", {}).get("tools")
    system = params.get("system")
    tokens = _tokens(tools)
    if tools and "tools" in traits.cache_points and tokens >= traits.cache_min_tokens:
        tools.append(cache_point())
    tokens += _tokens(system)
    if system and "system" in traits.cache_points and tokens >= traits.cache_min_tokens:
        system.append(cache_point())
    if "messages" in traits.cache_points:
        _in_messages(params["messages"], tokens, traits.cache_min_tokens, goes_on=bool(tools))


def has_points(params: dict[str, Any]) -> bool:
    return any("cachePoint" in block for message in params["messages"] for block in message["content"])


def keep_newest(messages: list[dict[str, Any]], allowed: int) -> int:
    """Take out the oldest points beyond `allowed`. Returns how many went."""
    total = sum("cachePoint" in block for message in messages for block in message["content"])
    if total <= allowed:
        return 0
    excess = left = total - allowed
    for message in messages:
        kept = []
        for block in message["content"]:
            if "cachePoint" in block and left:
                left -= 1
            else:
                kept.append(block)
        message["content"] = kept
    return excess


def _in_messages(messages: list[dict[str, Any]], tokens: int, minimum: int, *, goes_on: bool) -> None:
    last = messages[-1]
    if last["role"] != "user" or not (goes_on or len(messages) > 1):
        return
    if tokens + sum(_tokens(message["content"]) for message in messages) < minimum:
        return
    # A point right after a document is refused.
    place = len(last["content"])
    while place > 0 and "document" in last["content"][place - 1]:
        place -= 1
    if place > 0:
        last["content"].insert(place, cache_point())


def _tokens(value: Any) -> int:
    """A rough estimate from the length of the JSON; binary counts by its base64 and so too much."""
    return len(msgspec.json.encode(value)) // CHARS_A_TOKEN if value else 0
