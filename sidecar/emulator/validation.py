"""What Bedrock refuses any Converse body for, before a model sees it, with the words it uses.

Where no report of the service's own words was found, the message says what its documentation says. What single
model families refuse besides stands in `quirks.py`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sidecar.emulator.exceptions import Refusal

TOOL_NAME = "[a-zA-Z0-9_-]+"
TOOL_USE_ID = "[a-zA-Z0-9_.:-]+"
MAX_NAME_LENGTH = 64

_DOCUMENT_NAME = re.compile(r"[A-Za-z0-9()\[\]-]+(?: [A-Za-z0-9()\[\]-]+)*")
_RANGES = {"maxTokens": (1, None), "temperature": (0, 1), "topP": (0, 1)}

Message = Mapping[str, Any]


def check_body(body: Mapping[str, Any]) -> None:
    """Raises Refusal for the first fault of the request itself."""
    messages: Sequence[Message] = body.get("messages") or ()
    _check_order(messages)
    has_tool_blocks = False
    for index, message in enumerate(messages):
        has_tool_blocks |= _check_content(index, message)
    if has_tool_blocks:
        if not (body.get("toolConfig") or {}).get("tools"):
            _refuse("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        _check_tool_pairs(messages)
    for index, block in enumerate(body.get("system") or ()):
        if block.get("text") == "":
            _refuse_blank(f"SystemContentBlock object at system.{index}")
    _check_inference(body.get("inferenceConfig") or {})
    if "toolConfig" in body:
        _check_tools(body["toolConfig"] or {})


def _refuse(message: str) -> NoReturn:
    raise Refusal("validation", message)


def _refuse_blank(where: str) -> NoReturn:
    _refuse(f"The text field in the {where} is blank. Add text to the text field, and try again.")


def _refuse_value(value: Any, where: str, constraint: str) -> NoReturn:
    _refuse(
        f"1 validation error detected: Value '{value}' at '{where}' failed to satisfy constraint: "
        f"Member must {constraint}"
    )


def _check_order(messages: Sequence[Message]) -> None:
    if not messages:
        _refuse("A conversation must have at least one message.")
    expected = messages[0].get("role")
    for message in messages:
        if message.get("role") != expected:
            _refuse(
                "A conversation must alternate between user and assistant roles. Make sure the conversation "
                "alternates between user and assistant roles and try again."
            )
        expected = "assistant" if expected == "user" else "user"


def _check_content(index: int, message: Message) -> bool:
    """Whether the message holds tool blocks."""
    content = message.get("content") or ()
    if not content:
        _refuse(
            f"The content field in the Message object at messages.{index} is empty. Add a ContentBlock object to "
            "the content field and try again."
        )
    has_tool_blocks = False
    documents: list[str] = []
    for position, block in enumerate(content):
        if "text" in block:
            if not block["text"]:
                _refuse_blank(f"ContentBlock object at messages.{index}.content.{position}")
        elif "toolUse" in block or "toolResult" in block:
            has_tool_blocks = True
            _check_tool_block(f"messages.{index + 1}.member.content.{position + 1}.member", block)
        elif "document" in block:
            documents.append(str(block["document"].get("name", "")))
    if documents:
        _check_documents(index, documents, has_text=any("text" in block for block in content))
    return has_tool_blocks


def _check_tool_block(where: str, block: Mapping[str, Any]) -> None:
    kind = "toolUse" if "toolUse" in block else "toolResult"
    _check_pattern(str(block[kind].get("toolUseId", "")), f"{where}.{kind}.toolUseId", TOOL_USE_ID)
    if kind == "toolUse":
        _check_pattern(str(block[kind].get("name", "")), f"{where}.{kind}.name", TOOL_NAME)


def _check_pattern(value: str, where: str, pattern: str) -> None:
    if not value:
        _refuse_value(value, where, "have length greater than or equal to 1")
    if len(value) > MAX_NAME_LENGTH:
        _refuse_value(value, where, f"have length less than or equal to {MAX_NAME_LENGTH}")
    if not re.fullmatch(pattern, value):
        _refuse_value(value, where, f"satisfy regular expression pattern: {pattern}")


def _check_documents(index: int, names: Sequence[str], *, has_text: bool) -> None:
    if not has_text:
        _refuse(
            f"The Message object at messages.{index} has a document field without a text field. Add a "
            "ContentBlock with a text field and try again."
        )
    if len(set(names)) < len(names):
        _refuse("The document names in a message must be unique. Rename the documents and try again.")
    for name in names:
        if not _DOCUMENT_NAME.fullmatch(name):
            _refuse(
                "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, "
                "parentheses, and square brackets. The name can't contain more than one consecutive whitespace "
                "character."
            )


def _ids(message: Message, kind: str) -> list[str]:
    """Ids in a message; not those of tools that the service runs itself, whose blocks share one answer."""
    found = [block[kind] for block in message.get("content") or () if kind in block]
    return [block["toolUseId"] for block in found if block.get("type") in (None, "tool_use")]


def _check_tool_pairs(messages: Sequence[Message]) -> None:
    for index, (message, before) in enumerate(_with_predecessor(messages)):
        if message.get("role") == "assistant":
            used = _ids(message, "toolUse")
            doubled = sorted({i for i in used if used.count(i) > 1})
            if doubled:
                _refuse(
                    f"The toolUse blocks at messages.{index}.content contain duplicate Ids: {', '.join(doubled)}"
                )
            continue
        asked, answered = _ids(before, "toolUse") if before else [], _ids(message, "toolResult")
        missing = [i for i in asked if i not in answered]
        if missing:
            _refuse(
                f"Expected toolResult blocks at messages.{index}.content for the following Ids: "
                f"{', '.join(missing)}, but found: {', '.join(answered)}"
            )
        if len(answered) > len(asked):
            _refuse(
                f"The number of toolResult blocks at messages.{index}.content exceeds the number of toolUse "
                "blocks of previous turn."
            )


def _with_predecessor(messages: Sequence[Message]) -> Iterator[tuple[Message, Message | None]]:
    before: Message | None = None
    for message in messages:
        yield message, before
        before = message


def _check_inference(config: Mapping[str, Any]) -> None:
    for key, (low, high) in _RANGES.items():
        value = config.get(key)
        if value is None:
            continue
        if low is not None and value < low:
            _refuse_value(value, f"inferenceConfig.{key}", f"have value greater than or equal to {low}")
        if high is not None and value > high:
            _refuse_value(value, f"inferenceConfig.{key}", f"have value less than or equal to {high}")


def _check_tools(config: Mapping[str, Any]) -> None:
    tools = config.get("tools") or ()
    if "tools" in config and not tools:
        _refuse_value("[]", "toolConfig.tools", "have length greater than or equal to 1")
    names: list[str] = []
    for number, tool in enumerate(tools, start=1):
        spec = tool.get("toolSpec")
        if spec is None:
            continue
        where = f"toolConfig.tools.{number}.member.toolSpec"
        _check_pattern(str(spec.get("name", "")), f"{where}.name", TOOL_NAME)
        if spec.get("description") == "":
            _refuse_value("", f"{where}.description", "have length greater than or equal to 1")
        names.append(spec["name"])
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        _refuse(f"The toolConfig contains duplicate tool names: {', '.join(doubled)}")
    named = ((config.get("toolChoice") or {}).get("tool") or {}).get("name")
    if named is not None and named not in names:
        _refuse(f"The tool {named} in toolChoice is not defined in toolConfig.tools.")
