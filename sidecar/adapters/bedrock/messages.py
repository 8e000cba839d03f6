"""A conversation in Converse form: the rules that all families share; what differs stands in `MessageRules`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.adapters.bedrock.names import DocumentNames, ToolNames, tool_use_id
from sidecar.errors import InvalidRequest
from sidecar.models.content import (
    Block,
    CachePointBlock,
    DocumentBlock,
    ImageBlock,
    JsonBlock,
    Message,
    ReasoningBlock,
    ResultContent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.media import mismatch

WireBlock = dict[str, Any]
WireMessage = dict[str, Any]
BESIDE_DOCUMENTS = "See the attached documents."
SEPARATOR = "."
EMPTY_RESULT = "(empty)"


@dataclass(frozen=True, slots=True)
class MessageRules:
    """What a family's conversations may hold.

    `needs_signature`: reasoning goes back only with its signature. `result_documents`: documents may stand inside
    a tool result; `beside_results`: they may stand in the same message. `narrow_ids`: tool-use ids without dots
    and colons.
    """

    starts_with_user: bool = False
    allows_prefill: bool = True
    trims_prefill: bool = False
    replays_reasoning: bool = False
    needs_signature: bool = False
    allows_cache_points: bool = False
    result_documents: bool = True
    beside_results: bool = True
    narrow_ids: bool = False


class MessageEncoder:
    """Encodes one conversation; what could not be sent as it was lands in `warnings`."""

    def __init__(self, rules: MessageRules, names: ToolNames, warnings: list[str]) -> None:
        self._rules = rules
        self._names = names
        self._warnings = warnings
        self._documents = DocumentNames()
        self._hoisted: list[WireBlock] = []

    def encode(self, messages: Sequence[Message]) -> list[WireMessage]:
        """Raises InvalidRequest with the path of what no change of form can mend."""
        merged: list[WireMessage] = []
        for place, message in enumerate(messages):
            content = self._content(message, f"messages[{place}]")
            is_next = bool(merged) and merged[-1]["role"] == message.role
            if not content or (not is_next and all("cachePoint" in block for block in content)):
                if message.role == "user":
                    raise InvalidRequest(
                        "a user message needs content that is not blank", path=f"messages[{place}]"
                    )
                continue
            if is_next:
                merged[-1]["content"].extend(content)
            else:
                merged.append({"role": message.role, "content": content})
        self._check_turns(merged, messages)
        return self._arrange(merged)

    def _check_turns(self, merged: list[WireMessage], messages: Sequence[Message]) -> None:
        if not merged:
            raise InvalidRequest("there is no message with content", path="messages")
        if self._rules.starts_with_user and merged[0]["role"] != "user":
            raise only_here("this model wants the first message to be the user's", "messages[0]")
        last = merged[-1]
        if last["role"] != "assistant":
            return
        path = f"messages[{len(messages) - 1}]"
        if not self._rules.allows_prefill:
            raise only_here("this model takes no prefilled answer: end with a user message", path)
        if self._rules.trims_prefill and isinstance(text := last["content"][-1].get("text"), str):
            last["content"][-1]["text"] = text.rstrip()
            if text != text.rstrip():
                self._note("white space at the end of the prefilled answer was not sent")

    def _content(self, message: Message, path: str) -> list[WireBlock]:
        if isinstance(message.content, str):
            return [{"text": message.content}] if message.content.strip() else []
        content: list[WireBlock] = []
        for place, block in enumerate(message.content):
            self._check_role(block, message.role, f"{path}.content[{place}]")
            wire = self._block(block, f"{path}.content[{place}]")
            if wire is not None:
                content.append(wire)
        content.extend(self._hoisted)
        self._hoisted = []
        return content

    def _check_role(self, block: Block, role: str, path: str) -> None:
        if role == "assistant" and isinstance(block, ImageBlock | DocumentBlock | ToolResultBlock):
            raise InvalidRequest("only a user message may hold this block", path=path)
        if role == "user" and isinstance(block, ToolUseBlock | ReasoningBlock):
            raise InvalidRequest("only an assistant message may hold this block", path=path)

    def _block(self, block: Block, path: str) -> WireBlock | None:
        if isinstance(block, TextBlock):
            return {"text": block.text} if block.text.strip() else None
        if isinstance(block, ImageBlock):
            return _image(block, path)
        if isinstance(block, DocumentBlock):
            return self._document(block, path)
        if isinstance(block, ToolUseBlock):
            use_id = tool_use_id(block.id, is_narrow=self._rules.narrow_ids)
            return {
                "toolUse": {"toolUseId": use_id, "name": self._names.to_wire(block.name), "input": block.input}
            }
        if isinstance(block, ToolResultBlock):
            return self._result(block, path)
        if isinstance(block, ReasoningBlock):
            return self._reasoning(block)
        return self._cache_point(block)

    def _cache_point(self, block: CachePointBlock) -> WireBlock | None:
        if not self._rules.allows_cache_points:
            self._note("this model takes no cache points in messages; they were not sent")
            return None
        return cache_point(block.ttl)

    def _reasoning(self, block: ReasoningBlock) -> WireBlock | None:
        if not self._rules.replays_reasoning:
            self._note("this model takes no reasoning back; it was not sent")
            return None
        if block.redacted is not None:
            return {"reasoningContent": {"redactedContent": block.redacted}}
        if self._rules.needs_signature and not block.signature:
            self._note("reasoning without a signature (of another model) was not sent")
            return None
        thought: dict[str, Any] = {"text": block.text or ""}
        if block.signature:
            thought["signature"] = block.signature
        return {"reasoningContent": {"reasoningText": thought}}

    def _document(self, block: DocumentBlock, path: str) -> WireBlock:
        name = self._documents.take(block.name)
        return {"document": {"format": block.format, "name": name, "source": {"bytes": _bytes(block, path)}}}

    def _result(self, block: ToolResultBlock, path: str) -> WireBlock:
        content: list[WireBlock] = []
        if isinstance(block.content, str):
            content.append({"text": block.content if block.content.strip() else EMPTY_RESULT})
        else:
            for place, part in enumerate(block.content):
                content.append(self._result_part(part, f"{path}.content[{place}]"))
        return {
            "toolResult": {
                "toolUseId": tool_use_id(block.tool_use_id, is_narrow=self._rules.narrow_ids),
                "content": content or [{"text": EMPTY_RESULT}],
                "status": "error" if block.is_error else "success",
            }
        }

    def _result_part(self, part: ResultContent, path: str) -> WireBlock:
        if isinstance(part, TextBlock):
            return {"text": part.text if part.text.strip() else EMPTY_RESULT}
        if isinstance(part, JsonBlock):
            # Bedrock takes an object only.
            return {"json": part.value if isinstance(part.value, dict) else {"value": part.value}}
        if isinstance(part, ImageBlock):
            return _image(part, path)
        document = self._document(part, path)
        if self._rules.result_documents:
            return document
        self._note("documents inside tool results were sent beside them")
        self._hoisted.append(document)
        return {"text": f"The document «{document['document']['name']}» is attached below."}

    def _arrange(self, merged: list[WireMessage]) -> list[WireMessage]:
        arranged: list[WireMessage] = []
        calls: list[str] = []
        for message in merged:
            if message["role"] == "assistant":
                message["content"] = _in_order(message["content"])
                calls = [block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block]
                arranged.append(message)
            else:
                arranged.extend(self._user_turns(_results_first(message["content"], calls)))
        return arranged

    def _user_turns(self, content: list[WireBlock]) -> Iterable[WireMessage]:
        """One user message, or two with a separator where results and documents may not stand together."""
        results = [block for block in content if "toolResult" in block]
        has_documents = any("document" in block for block in content)
        if not results or not has_documents or self._rules.beside_results:
            return ({"role": "user", "content": _with_text(content)},)
        self._note("documents beside tool results were sent in a turn of their own")
        rest = [block for block in content if "toolResult" not in block]
        return (
            {"role": "user", "content": results},
            {"role": "assistant", "content": [{"text": SEPARATOR}]},
            {"role": "user", "content": _with_text(rest)},
        )

    def _note(self, warning: str) -> None:
        if warning not in self._warnings:
            self._warnings.append(warning)


def only_here(message: str, path: str) -> InvalidRequest:
    """A refusal of one model, which another one need not share."""
    error = InvalidRequest(message, path=path)
    error.details["model_specific"] = True
    return error


def cache_point(ttl: str = "5m") -> WireBlock:
    point = {"type": "default"}
    if ttl != "5m":
        point["ttl"] = ttl
    return {"cachePoint": point}


def _image(block: ImageBlock, path: str) -> WireBlock:
    return {"image": {"format": block.format, "source": {"bytes": _bytes(block, path)}}}


def _bytes(block: ImageBlock | DocumentBlock, path: str) -> bytes:
    source = block.source
    if source.data is None:
        raise InvalidRequest(f"the object {source.object!r} was not fetched", path=f"{path}.source.object")
    if (problem := mismatch(block.format, source.data)) is not None:
        raise InvalidRequest(problem, path=f"{path}.source")
    return source.data


def _with_text(content: list[WireBlock]) -> list[WireBlock]:
    """Documents need a text block beside them."""
    if any("document" in block for block in content) and not any("text" in block for block in content):
        first = next(place for place, block in enumerate(content) if "document" in block)
        return [*content[:first], {"text": BESIDE_DOCUMENTS}, *content[first:]]
    return content


def _results_first(content: list[WireBlock], calls: Sequence[str]) -> list[WireBlock]:
    """Tool results before all else, in the order of the calls that they answer."""
    results = [block for block in content if "toolResult" in block]
    if not results:
        return content
    order = {use_id: place for place, use_id in enumerate(calls)}
    results.sort(key=lambda block: order.get(block["toolResult"]["toolUseId"], len(order)))
    return [*results, *(block for block in content if "toolResult" not in block)]


def _in_order(content: list[WireBlock]) -> list[WireBlock]:
    """Reasoning, text, tool calls; signed reasoning between texts stays where its provider put it."""
    ranks = [0 if "reasoningContent" in block else 2 if "toolUse" in block else 1 for block in content]
    calls_are_last = 2 not in ranks or set(ranks[ranks.index(2) :]) == {2}
    if ranks == sorted(ranks) or (calls_are_last and _is_signed(content)):
        return content
    return [block for _, block in sorted(zip(ranks, content, strict=True), key=lambda pair: pair[0])]


def _is_signed(content: list[WireBlock]) -> bool:
    for block in content:
        thought = block.get("reasoningContent", {}).get("reasoningText")
        if thought is not None and "signature" not in thought:
            return False
    return True
