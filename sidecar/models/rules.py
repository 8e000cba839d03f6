"""Rules over several fields of a request: what the protocol asks, and what no Bedrock model would take.

What only some models refuse is not here: that is the normaliser's, once the model is known. All functions
raise FieldError with the path of the field, below the request.
"""

from collections.abc import Sequence
from typing import Any

from sidecar.models.base import FieldError
from sidecar.models.content import (
    Block,
    CachePointBlock,
    JsonBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)

MAX_DEPTH = 64
_CONTAINERS = (dict, list, tuple)


def check_depth(value: Any, *, path: str) -> None:
    """JSON of free form nests at most `MAX_DEPTH` levels: what parsers, validators and encoders all can walk."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, _CONTAINERS)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise FieldError(f"is nested deeper than {MAX_DEPTH} levels: flatten it", path=path)


def check_messages(messages: Sequence[Message]) -> None:
    """A conversation begins with the user, no message is blank, and every tool call has its one result.

    Consecutive messages of one role count as one turn.
    """
    if messages[0].role != "user":
        raise FieldError("must be 'user': a conversation begins with the user", path="messages[0].role")
    open_calls: dict[str, str] = {}
    previous = "user"
    for i, message in enumerate(messages):
        path = f"messages[{i}].content"
        if _is_blank(message.content):
            raise FieldError("is blank: send text, or leave the message out", path=path)
        if open_calls and message.role == "assistant" != previous:
            _refuse_open(open_calls)
        if not isinstance(message.content, str):
            for j, block in enumerate(message.content):
                _check_block(block, message.role, open_calls, f"{path}[{j}]")
        previous = message.role
    if open_calls:
        _refuse_open(open_calls)


def _is_blank(content: str | Sequence[Block]) -> bool:
    if isinstance(content, str):
        return not content or content.isspace()
    return all(
        (isinstance(block, TextBlock) and (not block.text or block.text.isspace()))
        or isinstance(block, CachePointBlock)
        for block in content
    )


def _check_block(block: Block, role: str, open_calls: dict[str, str], path: str) -> None:
    """`open_calls` maps the ids of the last turn's tool calls to their paths, until their results are seen."""
    if isinstance(block, ToolUseBlock):
        if role != "assistant":
            raise FieldError("a tool_use stands in an assistant message only", path=path)
        if block.id in open_calls:
            raise FieldError(f"repeats the tool_use id {block.id!r}: give each call its own", path=f"{path}.id")
        check_depth(block.input, path=f"{path}.input")
        open_calls[block.id] = path
    elif isinstance(block, ToolResultBlock):
        if role != "user":
            raise FieldError("a tool_result stands in a user message only", path=path)
        if open_calls.pop(block.tool_use_id, None) is None:
            raise FieldError(
                f"{block.tool_use_id!r} answers no tool_use of the assistant's turn before, or answers it twice",
                path=f"{path}.tool_use_id",
            )
        for k, part in enumerate(block.content if not isinstance(block.content, str) else ()):
            if isinstance(part, JsonBlock):
                check_depth(part.value, path=f"{path}.content[{k}].value")
    elif isinstance(block, ReasoningBlock) and role != "assistant":
        raise FieldError("reasoning stands in an assistant message only", path=path)


def _refuse_open(open_calls: dict[str, str]) -> None:
    for call_id, path in open_calls.items():
        raise FieldError(
            f"the tool_use {call_id!r} has no tool_result: add one to the user message that follows", path=path
        )


def check_tools(names: Sequence[str], choice: object, chosen_name: str | None) -> None:
    """Tool names are unique, and `tool_choice` asks for nothing that `tools` does not offer."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in seen:
            raise FieldError(f"repeats the tool {name!r} of tools[{seen[name]}]: name it once", path=f"tools[{i}]")
        seen[name] = i
    if chosen_name is not None and chosen_name not in seen:
        raise FieldError(f"{chosen_name!r} is not one of 'tools': add it there", path="tool_choice.name")
    if choice == "any" and not names:
        raise FieldError("'any' asks for a tool call, but 'tools' is empty: name a tool", path="tool_choice")
