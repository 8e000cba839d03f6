"""What a result may show beside its text, once its text has been filtered. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.response_formatter.filters.stream import Chain
from sidecar.response_formatter.filters.values import screened_value


class Beside(msgspec.Struct, frozen=True, array_like=True):
    """`blocks` are those of the answer that are no text, `messages` what the job added to the conversation."""

    blocks: dict[int, dict[str, Any]]
    structured: Any
    messages: tuple[dict[str, Any], ...]
    error: Any
    """An error's message and details: it may quote the answer."""


class Rewriter:
    """Holds for an answer, and for what tools took and gave."""

    def __init__(self, chain: Chain, tools: Chain) -> None:
        self._chain = chain
        self._tools = tools

    def rewritten(self, beside: Beside) -> Beside:
        return Beside(
            blocks={at: self.block(block) for at, block in beside.blocks.items()},
            structured=self.value(beside.structured),
            messages=tuple(
                {**message, "content": self._content(message["content"])} for message in beside.messages
            ),
            error=self.value(beside.error),
        )

    def block(self, block: dict[str, Any]) -> dict[str, Any]:
        """A block that is no text."""
        if block.get("type") == "tool_use":
            return {**block, "input": self.of_tools(block["input"])}
        if block.get("type") == "other":
            return {**block, "value": self.value(block.get("value"))}
        return block

    def value(self, value: Any) -> Any:
        return value if value is None else screened_value(value, self._chain)

    def of_tools(self, value: Any) -> Any:
        return screened_value(value, self._tools) if value is not None and self._tools.rules else value

    def _content(self, content: Any) -> Any:
        if isinstance(content, str):
            return self.value(content)
        shown = []
        for block in content:
            if block.get("type") == "tool_result":
                shown.append({**block, "content": self.of_tools(block["content"])})
            elif "text" in block:
                kept = with_text(block, self.value(block["text"]))
                shown += [kept] if kept is not None else []
            else:
                shown.append(self.block(block))
        return shown


def with_text(block: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    """A block of the answer with what may be shown of its text; None where nothing is left of it."""
    if text == block["text"]:
        return dict(block)
    if not text:
        return None
    # A signature is of the text as the model wrote it.
    return {key: value for key, value in {**block, "text": text}.items() if key != "signature"}
