"""From Bedrock's blocks to neutral ones: shared by whole answers and streams. Pure."""

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sidecar.adapters.bedrock.answer_text import answer_text
from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.mending import NotMendable, counted, mended_response
from sidecar.adapters.bedrock.thinking import split_thinking
from sidecar.adapters.bedrock.tool_forms import renamed
from sidecar.adapters.bedrock.wire import ConverseResponse, WireUsage
from sidecar.errors import ModelFailed
from sidecar.models.base import FieldError
from sidecar.models.call import ModelReply, UnreadableCall
from sidecar.models.content import (
    AnswerBlock,
    ImageBlock,
    OtherBlock,
    ReasoningBlock,
    Source,
    TextBlock,
    ToolUseBlock,
)
from sidecar.models.result import StopReason, Usage, UsageBasis
from sidecar.models.rules import MAX_DEPTH, check_depth

STOP_REASONS: dict[str, StopReason] = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "guardrail",
    "content_filtered": "content_filtered",
    "malformed_model_output": "malformed_output",
    "malformed_tool_use": "malformed_output",
    "model_context_window_exceeded": "context_overflow",
}
# After these a tool's arguments may be cut, even where what there is of them reads as JSON.
CUTTING_STOPS = frozenset(
    {"max_tokens", "model_context_window_exceeded", "malformed_model_output", "malformed_tool_use"}
)
# After these a whole call is made all the same: models and gateways name the reason wrong, content is content.
_CALLING_STOPS = frozenset({"end_turn", "stop_sequence", "tool_use", "other"})
NAMELESS = "unnamed_tool"
_MOST_SHOWN = 200
MIN_CHARS_A_TOKEN = 4

_response_decoder = msgspec.json.Decoder(ConverseResponse)


def decode_response(response: bytes | Mapping[str, Any], encoded: EncodedCall) -> ModelReply:
    """A whole answer. Raises ModelFailed for what is none: empty, HTML, without a stop reason.

    It was paid for: what a strict reader refuses is read again as far as it can be, and the error of one that
    cannot be used says what it cost.
    """
    replaced = 0
    try:
        if isinstance(response, bytes):
            parsed = _response_decoder.decode(response)
        else:
            parsed = msgspec.convert(response, ConverseResponse)
            msgspec.json.encode(parsed.output.message.content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        try:
            parsed, replaced = mended_response(response)
        except NotMendable:
            raise _unusable(response, e) from e
    reader = BlockReader(encoded)
    reader.replaced = replaced
    content = parsed.output.message.content
    blocks: list[AnswerBlock] = []
    for place, block in enumerate(content):
        may_be_cut = parsed.stop_reason in CUTTING_STOPS and place == len(content) - 1
        blocks.extend(reader.read(block, may_be_cut=may_be_cut))
    return reader.reply(blocks, raw_stop=parsed.stop_reason, usage=parsed.usage, trace=parsed.trace)


def _unusable(response: bytes | Mapping[str, Any], why: Exception) -> ModelFailed:
    error = ModelFailed(
        f"Bedrock answered with HTTP 200 but without an answer ({why})", details={"provider_code": "empty_answer"}
    )
    error.reached, error.counted = "answered", counted(response)
    if isinstance(response, bytes) and response.lstrip().startswith(b"{"):
        error.heard_chars = len(response)
    return error


class BlockReader:
    """Reads the blocks of one answer; keeps what must be said about them in `warnings`."""

    def __init__(self, encoded: EncodedCall) -> None:
        self._encoded = encoded
        self._ids: set[str] = set()
        self._unreadable: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._answered_by_tool = False
        self.replaced = 0
        """Characters of the answer that were half surrogate pairs."""
        self.warnings = list(encoded.warnings)

    def read(self, block: Mapping[str, Any], *, may_be_cut: bool = False) -> Iterable[AnswerBlock]:
        """The neutral form of one whole block; none for an empty text."""
        text = block.get("text")
        if isinstance(text, str):
            return self.text(text)
        reasoning = block.get("reasoningContent")
        if isinstance(reasoning, Mapping):
            return self._reasoning(reasoning, block)
        use = block.get("toolUse")
        if isinstance(use, Mapping):
            return (self._tool_use(use, block, may_be_cut=may_be_cut),)
        image = block.get("image")
        if isinstance(image, Mapping):
            return (self._image(image, block),)
        cited = block.get("citationsContent")
        if isinstance(cited, Mapping):
            return self._cited(cited, block)
        if "toolResult" in block:
            return (OtherBlock(value=_as_it_came(block)),)
        kind = next(iter(block), "empty")
        return (self.other(block, f"the answer holds a block of the unknown kind {kind!r}"),)

    def text(self, text: str) -> Iterable[AnswerBlock]:
        if not text:
            return ()
        if self._encoded.is_wrapped and self._encoded.output_tool is None:
            return (TextBlock(text=answer_text(text, is_wrapped=True)),)
        if not self._encoded.splits_thinking:
            return (TextBlock(text=text),)
        return tuple(
            ReasoningBlock(text=piece.text) if piece.is_reasoning else TextBlock(text=piece.text)
            for piece in split_thinking(text)
        )

    def _cited(self, cited: Mapping[str, Any], block: Mapping[str, Any]) -> Iterable[AnswerBlock]:
        parts = cited.get("content") or ()
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
            return (self.other(block, "the answer holds citations of an unknown form"),)
        found = self.citations(cited.get("citations") or ())
        return (*self.text("".join(part["text"] for part in parts)), *found)

    def citations(self, found: Iterable[Mapping[str, Any]]) -> Iterable[AnswerBlock]:
        """The sources of the text before, as they came: one block, none without sources."""
        kept = [_as_it_came(citation) for citation in found]
        return (OtherBlock(value={"citations": kept}),) if kept else ()

    def answer(self, text: str) -> TextBlock:
        """An answer that was given by calling the tool for it."""
        self._answered_by_tool = True
        return TextBlock(text=text)

    def other(self, block: Mapping[str, Any], why: str) -> OtherBlock:
        self.warnings.append(f"{why}; it is kept as it came")
        return OtherBlock(value=_as_it_came(block))

    def tool_use(self, *, use_id: str, name: str, arguments: Any, raw: Mapping[str, Any]) -> AnswerBlock:
        """A tool call with whole arguments, or the block as it came where it must not run.

        No arguments at all (null, an empty text) are `{}`. Arguments that are no object leave the call with `{}`
        and among the reply's unreadable ones.
        """
        if name == self._encoded.output_tool:
            written = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
            return self.answer(answer_text(written, is_wrapped=self._encoded.is_wrapped))
        if not self._encoded.takes_tools:
            return self.other(raw, f"the model called {name!r} although tool_choice is none")
        given = {} if arguments is None or arguments == "" else arguments
        problem = _problem_of(name, given)
        if problem is not None and not self._encoded.offers_tools:
            return self.other(raw, f"the call of tool {name!r} could not be read: {problem}")
        block = ToolUseBlock(
            id=self._unique(use_id or name or NAMELESS),
            name=self._encoded.tool_names.get(name, name) or NAMELESS,
            input=self._own_keys(name, given) if problem is None else {},
        )
        if problem is not None:
            self.warnings.append(f"a call of the tool {block.name!r} could not be read: {problem}")
            self._unreadable[block.id] = problem, raw
        return block

    def _own_keys(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        keys = self._encoded.keys.get(name)
        if not keys:
            return given
        own: dict[str, Any] = renamed(given, keys)
        return own

    def reply(
        self,
        blocks: list[AnswerBlock],
        *,
        raw_stop: str,
        usage: WireUsage | None,
        trace: Mapping[str, Any] | None,
        first_token_ms: int | None = None,
    ) -> ModelReply:
        guardrail = (trace or {}).get("guardrail")
        stop_reason = self._stop_reason(blocks, raw_stop, guardrail)
        if self.replaced:
            self.warnings.append(f"half surrogate pairs in the answer were replaced by U+FFFD: {self.replaced}")
        taken, basis = self._taken(usage, blocks)
        content = ordered(blocks)
        unreadable: tuple[UnreadableCall, ...] = ()
        if self._unreadable:
            content, unreadable = self._settle(content, stop_reason)
        return ModelReply(
            content=content,
            unreadable=unreadable,
            stop_reason=stop_reason,
            raw_stop_reason=raw_stop,
            usage=taken,
            usage_basis=basis,
            warnings=tuple(self.warnings),
            guardrail_trace=guardrail,
            first_token_ms=first_token_ms,
        )

    def _taken(self, usage: WireUsage | None, blocks: list[AnswerBlock]) -> tuple[Usage, UsageBasis]:
        """What the answer took: as counted, and where a counter is missing, by its length."""
        if usage is None:
            self.warnings.append("Bedrock reported no usage; it is estimated")
            return estimate_usage(self._encoded.params, blocks), "estimated"
        known = (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens,
            usage.cache_write_input_tokens,
        )
        counters = [None if count is None or count < 0 else count for count in known]
        missing = [at for at, count in enumerate(counters) if count is None]
        if not missing:
            return _usage(known), "observed"
        guess = estimate_usage(self._encoded.params, blocks)
        if usage.total_tokens is not None and len(missing) == 1:
            counters[missing[0]] = max(0, usage.total_tokens - sum(count or 0 for count in counters))
        for at, length in ((0, guess.input_tokens), (1, guess.output_tokens)):
            counters[at] = length if counters[at] is None else counters[at]
        names = ", ".join(_COUNTERS[at] for at in missing)
        self.warnings.append(f"Bedrock reported no count of {names}; it is estimated")
        return _usage(counters), "estimated"

    def _settle(
        self, content: tuple[AnswerBlock, ...], stop_reason: StopReason
    ) -> tuple[tuple[AnswerBlock, ...], tuple[UnreadableCall, ...]]:
        """The calls that cannot be read: for the model where it is asked again, else as they came."""
        if stop_reason != "tool_use":
            raws = {use_id: OtherBlock(value=_as_it_came(raw)) for use_id, (_, raw) in self._unreadable.items()}
            return tuple([raws.get(b.id, b) if isinstance(b, ToolUseBlock) else b for b in content]), ()
        calls = [block for block in content if isinstance(block, ToolUseBlock)]
        return content, tuple(
            [
                UnreadableCall(call=place, problem=problem, raw=_as_it_came(raw))
                for place, block in enumerate(calls)
                if (found := self._unreadable.get(block.id)) is not None
                for problem, raw in (found,)
            ]
        )

    def _tool_use(self, use: Mapping[str, Any], block: Mapping[str, Any], *, may_be_cut: bool) -> AnswerBlock:
        name = word(use.get("name"))
        if use.get("type") == "server_tool_use":
            return OtherBlock(value=_as_it_came(block))
        if may_be_cut and name != self._encoded.output_tool:
            return self.other(block, f"the arguments of tool {name!r} may be cut")
        return self.tool_use(
            use_id=word(use.get("toolUseId")), name=name, arguments=use.get("input", {}), raw=block
        )

    def _reasoning(self, reasoning: Mapping[str, Any], block: Mapping[str, Any]) -> Iterable[AnswerBlock]:
        thought = reasoning.get("reasoningText")
        if isinstance(thought, Mapping) and isinstance(thought.get("text"), str):
            if not thought["text"] and not thought.get("signature"):
                return ()
            return (ReasoningBlock(text=thought["text"], signature=thought.get("signature")),)
        redacted = reasoning.get("redactedContent")
        if hidden := binary(redacted):
            return (ReasoningBlock(redacted=hidden),)
        return (self.other(block, "the answer holds reasoning of an unknown form"),)

    def _image(self, image: Mapping[str, Any], block: Mapping[str, Any]) -> AnswerBlock:
        source = image.get("source")
        data = binary(source.get("bytes")) if isinstance(source, Mapping) else None
        if data and image.get("format") in ("png", "jpeg", "gif", "webp"):
            return ImageBlock(source=Source(data=data), format=image["format"])
        return self.other(block, "the answer holds an image of an unknown form")

    def _unique(self, use_id: str) -> str:
        if use_id not in self._ids:
            self._ids.add(use_id)
            return use_id
        copy = 2
        while f"{use_id}-{copy}" in self._ids:
            copy += 1
        self.warnings.append(f"the tool use id {use_id!r} comes twice; the later one is now {use_id}-{copy}")
        self._ids.add(f"{use_id}-{copy}")
        return f"{use_id}-{copy}"

    def _stop_reason(self, blocks: list[AnswerBlock], raw: str, guardrail: Any) -> StopReason:
        has_calls = any(isinstance(block, ToolUseBlock) for block in blocks)
        if raw == "tool_use" and not has_calls:
            return "end_turn" if self._answered_by_tool else self._without_content(blocks, raw)
        if raw == "guardrail_intervened" and _only_masked(guardrail):
            self.warnings.append("a guardrail masked parts of the conversation; the answer is whole otherwise")
            return "tool_use" if has_calls else "end_turn"
        found = STOP_REASONS.get(raw, "other")
        if raw not in STOP_REASONS:
            self.warnings.append(f"the model stopped for the unknown reason {raw!r}")
        if has_calls and found in _CALLING_STOPS:
            if found != "tool_use":
                self.warnings.append(f"the model stopped for the reason {raw!r}, but its answer calls tools")
            return "tool_use"
        return self._without_content(blocks, raw) if found == "other" else found

    def _without_content(self, blocks: list[AnswerBlock], raw: str) -> StopReason:
        """What an answer is that stopped for no reason one knows: without anything said it is none."""
        if any(isinstance(b, ImageBlock) or (isinstance(b, TextBlock) and b.text.strip()) for b in blocks):
            return "other"
        self.warnings.append(f"the model stopped for the reason {raw!r} and said nothing")
        return "malformed_output"


def binary(value: Any) -> bytes | None:
    """Binary content as either transport gives it; None for what is none."""
    if isinstance(value, bytes):
        return value
    try:
        return b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None


def word(value: Any) -> str:
    """A name or id as it came; nothing for what is no text."""
    return value if isinstance(value, str) else ""


def _problem_of(name: str, arguments: Any) -> str | None:
    """Why nothing can be called like this; None where it can."""
    if not name:
        return "it names no tool"
    if not isinstance(arguments, dict):
        shown = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        more = "…" if len(shown) > _MOST_SHOWN else ""
        return f"its arguments are not one JSON object: {shown[:_MOST_SHOWN]}{more}"
    if _is_too_deep(arguments):
        return f"its arguments are nested deeper than {MAX_DEPTH} levels"
    return None


def _is_too_deep(value: Any) -> bool:
    try:
        check_depth(value, path="")
    except FieldError:
        return True
    return False


def _as_it_came(block: Mapping[str, Any]) -> Any:
    """The block; as text where it is nested so deep that nobody after us could read it."""
    return msgspec.json.encode(block).decode() if _is_too_deep(dict(block)) else dict(block)


def ordered(blocks: list[AnswerBlock]) -> tuple[AnswerBlock, ...]:
    """Reasoning first and tool calls last, where the answer had it otherwise.

    Signed reasoning between texts stays where it is: its provider wants it back unmoved.
    """
    ranks = [_rank(block) for block in blocks]
    if ranks == sorted(ranks) or (
        all(b.signature or b.redacted for b in blocks if isinstance(b, ReasoningBlock)) and _calls_are_last(ranks)
    ):
        return tuple(blocks)
    return tuple(sorted(blocks, key=_rank))


def _rank(block: object) -> int:
    if isinstance(block, ReasoningBlock):
        return 0
    return 2 if isinstance(block, ToolUseBlock) else 1


def _calls_are_last(ranks: list[int]) -> bool:
    return 2 not in ranks or all(rank == 2 for rank in ranks[ranks.index(2) :])


_COUNTERS = ("input tokens", "output tokens", "tokens read from the cache", "tokens written to the cache")


def _usage(counters: Sequence[int | None]) -> Usage:
    return Usage(
        input_tokens=counters[0] or 0,
        output_tokens=counters[1] or 0,
        cache_read_tokens=counters[2] or 0,
        cache_write_tokens=counters[3] or 0,
    )


def estimate_usage(params: Mapping[str, Any], blocks: Iterable[AnswerBlock]) -> Usage:
    """Tokens by length, four characters each, for an answer that came without its bill."""
    said = sum(len(msgspec.json.encode(block)) for block in blocks)
    asked = len(msgspec.json.encode(params))
    return Usage(input_tokens=asked // MIN_CHARS_A_TOKEN, output_tokens=said // MIN_CHARS_A_TOKEN)


def _only_masked(guardrail: Any) -> bool:
    """Whether the trace names masking and no blocking."""
    actions = set(_actions(guardrail))
    return "ANONYMIZED" in actions and "BLOCKED" not in actions


def _actions(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        action = node.get("action")
        if isinstance(action, str):
            yield action
        for child in node.values():
            yield from _actions(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _actions(child)
