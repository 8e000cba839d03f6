"""What a result may show beside its text, once its text has been filtered. Pure.

`Rewriter` comes by every place of a result that a stranger's text can stand in, whatever looks at it there: rules,
judges, or what gathers texts for judges.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from sidecar.response_formatter.filters.values import Findings, ValueLook


class Beside(msgspec.Struct, frozen=True, array_like=True):
    """`blocks` are those of the answer that are no text, `messages` what the job added to the conversation."""

    blocks: dict[int, dict[str, Any]] = {}
    structured: Any = None
    messages: tuple[dict[str, Any], ...] = ()


class RewrittenBeside(msgspec.Struct, array_like=True):
    """`mirrored` was found in what repeats the answer's text: its structured form, and the conversation."""

    beside: Beside
    findings: Findings
    mirrored: Findings
    of_tools: Findings


class Rewriter:
    """`output` looks at what an answer says, `tools` at what tools took and gave; names in `known` stay."""

    def __init__(
        self,
        output: ValueLook,
        tools: ValueLook,
        *,
        mirrors: ValueLook | None = None,
        known: frozenset[str] = frozenset(),
    ) -> None:
        """`mirrors` looks at what repeats the answer's text; `output` where it is not given."""
        self._output = output
        self._mirrors = mirrors or output
        self._tools = tools
        self._known = known

    def rewritten(self, beside: Beside) -> Beside:
        return Beside(
            blocks={at: self._block(block) for at, block in beside.blocks.items()},
            structured=self._mirrors.value(beside.structured, path="structured"),
            messages=tuple(
                [{**message, "content": self._content(message["content"])} for message in beside.messages]
            ),
        )

    def _block(self, block: dict[str, Any]) -> dict[str, Any]:
        """A block that is no text."""
        if block.get("type") == "tool_use":
            name = block["name"]
            return {
                **block,
                "id": self._identifier(block["id"]),
                # One that nobody offered is the model's own words.
                "name": name if name in self._known else self._output.value(name),
                # A call without arguments says none.
                **({"input": self._tools.value(block["input"])} if "input" in block else {}),
            }
        if block.get("type") == "other":
            return {**block, "value": self._output.value(block.get("value"))}
        return block

    def _identifier(self, given: str) -> str:
        """An id has to stay one, and the same wherever it stands."""
        return given if self._output.value(given) == given else stand_in(given)

    def _content(self, content: Any) -> Any:
        if isinstance(content, str):
            return self._mirrors.value(content)
        shown = []
        for block in content:
            if block.get("type") == "tool_result":
                use_id = self._identifier(block["tool_use_id"])
                shown.append({**block, "tool_use_id": use_id, "content": self._tools.value(block["content"])})
            elif "text" in block:
                kept = with_text(block, self._mirrors.value(block["text"]))
                shown += [kept] if kept is not None else []
            else:
                shown.append(self._block(block))
        return shown


def stand_in(identifier: str) -> str:
    """What stands for an id that may not be shown."""
    return f"id_{sha256(identifier.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def with_text(block: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    """A block of the answer with what may be shown of its text; None where nothing is left of it."""
    if text == block["text"]:
        return dict(block)
    if not text:
        return None
    # A signature is of the text as the model wrote it.
    return {key: value for key, value in {**block, "text": text}.items() if key != "signature"}
