"""Token counts. One rule everywhere: a token is four characters, rounded up for each text.

No tokenizer of a real model is published for most of these models; what matters here is that reservation,
usage, `maxTokens` and CountTokens agree with each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

CHARS_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1_500
TOOL_USE_OVERHEAD = 8

_encode_json = msgspec.json.Encoder().encode


def count_text(text: str) -> int:
    """Tokens of `text`."""
    return -(-len(text) // CHARS_PER_TOKEN)


def count_tool_use(name: str, arguments_json: str) -> int:
    """Tokens the model spends on one tool call."""
    return count_text(name + arguments_json) + TOOL_USE_OVERHEAD


def count_block(block: Mapping[str, Any]) -> int:
    """Tokens of one content block of a request."""
    text = block.get("text")
    if isinstance(text, str):
        return count_text(text)
    if "image" in block:
        return TOKENS_PER_IMAGE
    if "cachePoint" in block:
        return 0
    return -(-len(_encode_json(block)) // CHARS_PER_TOKEN)


def count_input(request: Mapping[str, Any]) -> int:
    """Input tokens of a Converse body: system, messages and tools."""
    total = sum(count_block(block) for block in request.get("system") or ())
    messages: Sequence[Mapping[str, Any]] = request.get("messages") or ()
    for message in messages:
        for block in message.get("content") or ():
            total += count_block(block)
    tool_config = request.get("toolConfig")
    if tool_config:
        total += -(-len(_encode_json(tool_config)) // CHARS_PER_TOKEN)
    return max(total, 1)
