"""What the model says: content blocks and a stop reason, from the request and its scripted behaviour.

Pure and deterministic: the same request and behaviour give the same answer, tool ids included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgspec

from sidecar.emulator.behaviour import Behaviour, ToolCall
from sidecar.emulator.schema_instance import make_instance
from sidecar.emulator.tokens import CHARS_PER_TOKEN, count_text, count_tool_use

GUARDRAIL_MESSAGE = "Sorry, the model cannot answer this question."
MASK = "{NAME}"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WORDS = (
    "the queue drains slowly while a second worker waits for its turn and every job keeps the place it was given "
    "so that no tenant ever has to stand behind a flood that somebody else has caused today because order is kept "
    "by cost rather than by count and what one call does not use is handed back before the next one is admitted "
    "to the model whose answer arrives in pieces that are small enough to read as they come and large enough to "
    "be worth the trip across the wire from one end of the bus to the other where a listener collects them "
)
_CORPUS = _WORDS * 40
_SIGNATURE = "RXJ1"
_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the answer depends on. `text` is the user's last text without directives.

    `thinks_in_text`: reasoning is written into the text, as Nova 1 does. `tool_type` is the `type` of tool calls.
    """

    text: str
    digest: bytes
    tool_results: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Mapping[str, Any] | None = None
    schema: Any = None
    stop_sequences: Sequence[str] = ()
    max_tokens: int = 4_096
    thinks_in_text: bool = False
    tool_type: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Blocks as Converse returns them. `raw_arguments` replaces a tool call's JSON text, by block index."""

    blocks: list[dict[str, Any]]
    stop_reason: str
    output_tokens: int
    raw_arguments: Mapping[int, str] = field(default_factory=dict)


def make_text(seed: str, tokens: int) -> str:
    """Deterministic prose of exactly `tokens` tokens."""
    length = tokens * CHARS_PER_TOKEN
    start = crc32(seed.encode()) % len(_WORDS)
    start = _CORPUS.find(" ", start) + 1
    corpus = _CORPUS
    while len(corpus) < start + length:
        corpus += _CORPUS
    return corpus[start : start + length].capitalize()


def make_tool_id(digest: bytes, index: int) -> str:
    """`tooluse_` and 22 characters, as the service makes them."""
    number = int.from_bytes(blake2b(digest, digest_size=17, salt=index.to_bytes(2, "big")).digest(), "big")
    letters: list[str] = []
    for _ in range(22):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "tooluse_" + "".join(letters)


def sign_reasoning(text: str) -> str:
    """The signature of a reasoning text, by which a changed replay is known."""
    return _SIGNATURE + blake2b(text.encode(), digest_size=24).hexdigest()


def compose(prompt: Prompt, behaviour: Behaviour) -> Answer:
    """The answer, cut at `max_tokens` and at the first stop sequence."""
    if behaviour.guardrail == "block":
        return Answer([{"text": GUARDRAIL_MESSAGE}], "guardrail_intervened", count_text(GUARDRAIL_MESSAGE))
    builder = _Builder(prompt.max_tokens)
    _add_reasoning(builder, prompt, behaviour)
    calls = _tool_calls(prompt, behaviour)
    if behaviour.text is not None or not calls:
        _add_text(builder, prompt, behaviour)
    for index, call in enumerate(calls):
        builder.add_tool(call, call.id or make_tool_id(prompt.digest, index), prompt.tool_type)
    stop = behaviour.stop or builder.stop or ("tool_use" if calls else "end_turn")
    if behaviour.guardrail == "mask":
        stop = "guardrail_intervened"
    return Answer(builder.blocks, stop, builder.used, builder.raw_arguments)


class _Builder:
    """Collects blocks until the output budget is used up."""

    def __init__(self, max_tokens: int) -> None:
        self.left = max_tokens
        self.used = 0
        self.blocks: list[dict[str, Any]] = []
        self.stop: str | None = None
        self.raw_arguments: dict[int, str] = {}

    def take(self, text: str) -> str:
        tokens = count_text(text)
        if tokens > self.left:
            text = text[: self.left * CHARS_PER_TOKEN]
            tokens, self.stop = self.left, "max_tokens"
        self.left -= tokens
        self.used += tokens
        return text

    def add_tool(self, call: ToolCall, tool_id: str, tool_type: str | None) -> None:
        if self.stop == "max_tokens":
            return
        block = {"toolUseId": tool_id, "name": call.name, "input": call.arguments}
        arguments = _encode_json(call.arguments).decode() if call.raw is None else call.raw
        cost = count_tool_use(call.name, arguments)
        if cost > self.left:
            # A real model is cut inside the arguments: what was said of them is no JSON.
            arguments = arguments[: max(self.left * CHARS_PER_TOKEN, 1)]
            cost, self.stop, block["input"] = self.left, "max_tokens", {}
        if call.raw is not None or self.stop == "max_tokens":
            self.raw_arguments[len(self.blocks)] = arguments
        self.left -= cost
        self.used += cost
        if tool_type:
            block["type"] = tool_type
        self.blocks.append({"toolUse": block})


def _add_reasoning(builder: _Builder, prompt: Prompt, behaviour: Behaviour) -> None:
    wanted = behaviour.reasoning
    if wanted is None:
        return
    text = wanted if isinstance(wanted, str) else make_text("reasoning:" + prompt.text, int(wanted))
    if prompt.thinks_in_text:
        builder.blocks.append({"text": builder.take(f"<thinking>{text}</thinking>\n")})
        return
    text = builder.take(text)
    if behaviour.redacted:
        builder.blocks.append({"reasoningContent": {"redactedContent": _SIGNATURE + prompt.digest.hex()}})
        return
    signed = {"text": text, "signature": sign_reasoning(text)}
    builder.blocks.append({"reasoningContent": {"reasoningText": signed}})


def _add_text(builder: _Builder, prompt: Prompt, behaviour: Behaviour) -> None:
    if builder.stop == "max_tokens":
        return
    text = _text_of(prompt, behaviour)
    found = [(at, s) for s in prompt.stop_sequences if (at := text.find(s)) >= 0]
    cut = builder.take(text[: min(found)[0]] if found else text)
    if found and builder.stop is None:
        builder.stop = "stop_sequence"
    if behaviour.guardrail == "mask":
        first, _, rest = cut.partition(" ")
        cut = f"{MASK} {rest}" if first else cut
    if behaviour.citations:
        builder.blocks.append({"citationsContent": {"content": [{"text": cut}], "citations": [_citation(cut)]}})
    else:
        builder.blocks.append({"text": cut})


def _citation(text: str) -> dict[str, Any]:
    return {
        "title": "Document 1",
        "sourceContent": [{"text": text[:40]}],
        "location": {"documentChar": {"documentIndex": 0, "start": 0, "end": min(len(text), 40)}},
    }


def _text_of(prompt: Prompt, behaviour: Behaviour) -> str:
    if behaviour.text is not None:
        return behaviour.text
    if behaviour.echo:
        return prompt.text
    if prompt.schema is not None:
        return _encode_json(make_instance(prompt.schema, hint=prompt.text[:40] or "example")).decode()
    if prompt.tool_results:
        return _report(prompt.tool_results)
    tokens = behaviour.tokens
    if tokens is None:
        tokens = 16 + crc32(prompt.text.encode()) % 32
    return make_text(prompt.text, tokens)


def _report(results: Sequence[Mapping[str, Any]]) -> str:
    parts: list[str] = []
    for result in results:
        for content in result.get("content") or ():
            parts.append(
                content["text"] if "text" in content else _encode_json(content.get("json", content)).decode()
            )
    return "The tools answered: " + "; ".join(parts)


def _tool_calls(prompt: Prompt, behaviour: Behaviour) -> tuple[ToolCall, ...]:
    if not prompt.tools:
        return ()
    if behaviour.tools:
        return behaviour.tools
    choice = prompt.tool_choice or {}
    named = choice.get("tool", {}).get("name")
    # Forced to call any: the first tool, and the last one once there are results; a model goes on, too.
    for spec in reversed(prompt.tools) if prompt.tool_results else prompt.tools:
        if named == spec.get("name") or (named is None and "any" in choice):
            schema = spec.get("inputSchema", {}).get("json", {})
            return (ToolCall(spec["name"], make_instance(schema) or {}),)
    return ()
