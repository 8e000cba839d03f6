"""What of a request a model would read: texts and values with their places, and the call with others. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import Permanent
from sidecar.models.call import ModelCall
from sidecar.models.content import JsonBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock
from sidecar.response_formatter.filters.scanner import BlockMatch

# Members of a tool's schema that are words for the model; the others are its form.
_WORDS_OF_SCHEMA = frozenset(("title", "description", "default", "examples", "enum", "const", "$comment"))

OfText = Callable[[str, str], str]
"""What stands for a text, given its path and itself."""
OfValue = Callable[[str, Any], Any]


class Place(NamedTuple):
    """Where something stands in a request, and what."""

    path: str
    said: Any


def places(
    messages: Sequence[Message], system: str | None, tools: Sequence[Any] = ()
) -> tuple[list[Place], list[Place]]:
    """All texts that a model would read, and all values of JSON, each with its place."""
    texts: list[Place] = []
    values: list[Place] = []

    def text(path: str, said: str) -> str:
        texts.append(Place(path, said))
        return said

    def value(path: str, said: Any) -> Any:
        values.append(Place(path, said))
        return said

    if system:
        text("system", system)
    for at, message in enumerate(messages):
        _message(message, f"messages[{at}].content", text, value)
    for at, tool in enumerate(tools):
        _tool(tool, f"tools[{at}]", text, value)
    return texts, values


def told_call(call: ModelCall, texts: Mapping[str, str], values: Sequence[Any]) -> ModelCall:
    """The call with each text as `texts` says, and its values, in the order of `places`, as `values` are."""
    left = iter(values)

    def text(path: str, said: str) -> str:
        return texts.get(said, said)

    def value(path: str, said: Any) -> Any:
        return next(left)

    messages = tuple([_message(message, "", text, value) for message in call.messages])
    tools = tuple([_tool(tool, "", text, value) for tool in call.tools])
    system = texts.get(call.system, call.system) if call.system else call.system
    return msgspec.structs.replace(call, system=system, messages=messages, tools=tools)


def _message(message: Message, path: str, text: OfText, value: OfValue) -> Message:
    if isinstance(message.content, str):
        return msgspec.structs.replace(message, content=text(path, message.content))
    blocks = tuple([_block(block, f"{path}[{at}]", text, value) for at, block in enumerate(message.content)])
    return msgspec.structs.replace(message, content=blocks)


def _block(block: Any, path: str, text: OfText, value: OfValue) -> Any:
    if isinstance(block, TextBlock):
        return TextBlock(text=text(f"{path}.text", block.text))
    if isinstance(block, JsonBlock):
        return JsonBlock(value=value(f"{path}.value", block.value))
    if isinstance(block, ToolUseBlock):
        return msgspec.structs.replace(block, input=value(f"{path}.input", block.input)) if block.input else block
    if not isinstance(block, ToolResultBlock):
        return block
    where = f"{path}.content"
    if isinstance(block.content, str):
        return msgspec.structs.replace(block, content=text(where, block.content))
    parts = tuple([_block(part, f"{where}[{at}]", text, value) for at, part in enumerate(block.content)])
    return msgspec.structs.replace(block, content=parts)


def _tool(tool: Any, path: str, text: OfText, value: OfValue) -> Any:
    description = tool.description and text(f"{path}.description", tool.description)
    schema = _schema(tool.input_schema, f"{path}.input_schema", value)
    return msgspec.structs.replace(tool, description=description, input_schema=schema)


def _schema(schema: Any, path: str, value: OfValue) -> Any:
    """A schema with its words seen; its members are the names of arguments, and stay."""
    if isinstance(schema, list):
        return [_schema(item, path, value) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value(f"{path}.{key}", item)
        if key in _WORDS_OF_SCHEMA and not isinstance(item, dict)
        else _schema(item, path, value)
        for key, item in schema.items()
    }


def refusal(blocked: BlockMatch, path: str) -> Permanent:
    return Permanent(
        f"filter {blocked.name!r} blocks the input: {blocked.kind}",
        code="guardrail_blocked",
        details={**details_of(blocked), "path": path},
    )


def details_of(blocked: BlockMatch) -> dict[str, Any]:
    return {"filter": blocked.name, "kind": blocked.kind}
