"""What of a prompt a provider may have cached, as hashes: a later turn finds its pool by them."""

from hashlib import blake2b
from typing import Any

import msgspec

from sidecar.models.content import DocumentBlock, ImageBlock, Message, TextBlock
from sidecar.models.request import JobRequest

# The least that any model caches, by the smallest `cache_min_tokens` of the catalogue.
LEAST_TOKENS = 1000
CHARS_A_TOKEN = 4
MOST_PREFIXES = 12
# A wrong match costs a preference, not an answer, so of long texts both ends and the length are enough.
_SAMPLE = 4096


def prompt_prefixes(tenant: str, request: JobRequest, *, tokens: int) -> tuple[bytes, ...]:
    """Hashes of the prompt's prefixes, longest first: after each of the last messages, and after tools and system
    where those alone are long enough to be cached.

    Empty where nothing is chosen by it: the request names a model, wants no cache, or is too short for one.
    """
    if request.model is not None or request.cache == "none" or tokens < LEAST_TOKENS:
        return ()
    state = blake2b(tenant.encode(), digest_size=16)
    tools = msgspec.json.encode(request.tools) if request.tools else b""
    system = request.system or ""
    _add(state, tools)
    _add(state, system)
    found = []
    if len(tools) + len(system) >= LEAST_TOKENS * CHARS_A_TOKEN:
        found.append(state.digest())
    for message in request.messages or ():
        _add_message(state, message)
        found.append(state.digest())
    return tuple(reversed(found[:1] + found[1:][-MOST_PREFIXES:]))


def _add_message(state: Any, message: Message) -> None:
    state.update(message.role.encode())
    if isinstance(message.content, str):
        _add(state, message.content)
        return
    for block in message.content:
        if isinstance(block, TextBlock):
            _add(state, block.text)
        elif isinstance(block, ImageBlock | DocumentBlock):
            _add(state, block.source.data or block.source.object or "")
        else:
            _add(state, msgspec.json.encode(block))


def _add(state: Any, value: str | bytes) -> None:
    size = len(value)
    ends = value if size <= 2 * _SAMPLE else value[:_SAMPLE] + value[-_SAMPLE:]  # type: ignore[operator]
    state.update(b"\0%d\0" % size)
    state.update(ends.encode("utf-8", "surrogatepass") if isinstance(ends, str) else ends)
