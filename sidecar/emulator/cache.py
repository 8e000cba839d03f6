"""Prompt caching: what stands before a cachePoint is written once and read for five minutes or an hour after."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from sidecar.emulator.tokens import CHARS_PER_TOKEN, count_block

MINIMUM_TOKENS = 1_024
_TTL_S = {"5m": 300.0, "1h": 3_600.0}
_encode_json = msgspec.json.Encoder().encode


class CacheUse(NamedTuple):
    """Tokens read from and written to the cache by one call."""

    read_tokens: int
    write_tokens: int
    ttl: str = "5m"


class PromptCache:
    """Prefixes seen, per model and region. Time is `clock`'s, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expires: dict[bytes, float] = {}

    def look_up(self, body: Mapping[str, Any], *, model_id: str, region: str) -> CacheUse | None:
        """What this call reads and writes; None where it has no cachePoint. Remembers the prefixes."""
        now = self._clock()
        points = list(_find_points(body, f"{model_id}|{region}".encode()))
        if not points:
            return None
        read = max((tokens for key, tokens, _ in points if self._expires.get(key, 0.0) > now), default=0)
        longest = points[-1]
        for key, tokens, ttl in points:
            if tokens >= MINIMUM_TOKENS:
                self._expires[key] = now + _TTL_S.get(ttl, _TTL_S["5m"])
        write = longest[1] - read if longest[1] >= MINIMUM_TOKENS else 0
        return CacheUse(read, write, longest[2])

    def reset(self) -> None:
        """Forget all prefixes."""
        self._expires.clear()


def _find_points(body: Mapping[str, Any], salt: bytes) -> Iterator[tuple[bytes, int, str]]:
    """(key of the prefix, tokens in it, ttl) for each cachePoint, in the order tools, system, messages."""
    digest = hashlib.blake2b(salt, digest_size=16)
    tokens = 0
    for block in _blocks(body):
        point = block.get("cachePoint")
        if point is not None:
            yield digest.digest(), tokens, point.get("ttl", "5m")
            continue
        encoded = _encode_json(block)
        digest.update(encoded)
        tokens += -(-len(encoded) // CHARS_PER_TOKEN) if "toolSpec" in block else count_block(block)


def _blocks(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (body.get("toolConfig") or {}).get("tools") or ()
    yield from body.get("system") or ()
    for message in body.get("messages") or ():
        yield from message.get("content") or ()
