"""The texts of a request that a model would read, and their refusal. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sidecar.errors import Permanent
from sidecar.models.content import JsonBlock, Message, TextBlock, ToolResultBlock
from sidecar.response_formatter.filters.scanner import BlockMatch

_LONGEST_STEP = 64
_LONGEST_PATH = 300


def texts(messages: Sequence[Message], system: str | None) -> list[tuple[str, str]]:
    """All texts that a model would read, with their places."""
    found = [("system", system)] if system else []
    for at, message in enumerate(messages):
        path = f"messages[{at}].content"
        if isinstance(message.content, str):
            found.append((path, message.content))
            continue
        for place, block in enumerate(message.content):
            where = f"{path}[{place}]"
            if isinstance(block, TextBlock):
                found.append((f"{where}.text", block.text))
            elif isinstance(block, ToolResultBlock):
                found.extend(_result_texts(block, f"{where}.content"))
    return found


def _result_texts(block: ToolResultBlock, path: str) -> list[tuple[str, str]]:
    if isinstance(block.content, str):
        return [(path, block.content)]
    found = []
    for at, part in enumerate(block.content):
        if isinstance(part, TextBlock):
            found.append((f"{path}[{at}].text", part.text))
        elif isinstance(part, JsonBlock):
            found.extend(_leaves(part.value, f"{path}[{at}].value"))
    return found


def _leaves(value: Any, path: str) -> list[tuple[str, str]]:
    """The texts inside a JSON value."""
    if isinstance(value, str):
        return [(path, value)]
    if isinstance(value, dict):
        return [
            leaf for key, item in value.items() for leaf in _leaves(item, _below(path, f".{key[:_LONGEST_STEP]}"))
        ]
    if isinstance(value, list):
        return [leaf for at, item in enumerate(value) for leaf in _leaves(item, _below(path, f"[{at}]"))]
    return []


def _below(path: str, step: str) -> str:
    """A path is made for each text: one that grew with the names in it would cost more than the texts."""
    return path + step if len(path) < _LONGEST_PATH else path


def with_texts(message: Message, told: Mapping[str, str]) -> Message:
    """The message with each of its texts as `told` says."""
    if isinstance(message.content, str):
        return msgspec.structs.replace(message, content=told.get(message.content, message.content))
    blocks = tuple(_with_text(block, told) for block in message.content)
    return msgspec.structs.replace(message, content=blocks)


def _with_text(block: Any, told: Mapping[str, str]) -> Any:
    if isinstance(block, TextBlock):
        return TextBlock(text=told.get(block.text, block.text))
    if isinstance(block, JsonBlock):
        return JsonBlock(value=_with_leaves(block.value, told))
    if isinstance(block, ToolResultBlock):
        if isinstance(block.content, str):
            return msgspec.structs.replace(block, content=told.get(block.content, block.content))
        return msgspec.structs.replace(block, content=tuple(_with_text(part, told) for part in block.content))
    return block


def _with_leaves(value: Any, told: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return told.get(value, value)
    if isinstance(value, dict):
        return {key: _with_leaves(item, told) for key, item in value.items()}
    return [_with_leaves(item, told) for item in value] if isinstance(value, list) else value


def refusal(blocked: BlockMatch, path: str) -> Permanent:
    return Permanent(
        f"filter {blocked.name!r} blocks the input: {blocked.kind}",
        code="guardrail_blocked",
        details={**details_of(blocked), "path": path},
    )


def details_of(blocked: BlockMatch) -> dict[str, Any]:
    return {"filter": blocked.name, "kind": blocked.kind}
