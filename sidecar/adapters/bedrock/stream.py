"""A streamed answer: events in, deltas and at last the whole reply out. Pure; the transports feed it."""

from typing import Any, Literal, NamedTuple

import msgspec

from sidecar.adapters.bedrock.answer_text import AnswerText
from sidecar.adapters.bedrock.call_form import EncodedCall
from sidecar.adapters.bedrock.decode import CUTTING_STOPS, BlockReader, binary, word
from sidecar.adapters.bedrock.mending import HIGH, mended_text
from sidecar.adapters.bedrock.thinking import ThinkingPiece, ThinkingSplitter
from sidecar.adapters.bedrock.wire import (
    AnyDelta,
    BlockDelta,
    BlockStart,
    BlockStop,
    MendedDelta,
    MessageStop,
    Metadata,
    ReasoningDelta,
    StreamEvent,
    ToolUseDelta,
    UnknownEvent,
    WireDelta,
)
from sidecar.errors import SidecarError, StreamInterrupted, TokenCounts
from sidecar.models.call import ModelDelta, ModelReply
from sidecar.models.content import AnswerBlock, OtherBlock, ReasoningBlock, TextBlock


class _Tool(NamedTuple):
    """A tool call as it began. `given`: arguments that came with the start; a few models send them there."""

    use_id: str
    name: str
    type: str | None
    given: Any


class _Block:
    """What has come of one content block."""

    __slots__ = ("pieces", "redacted", "signature", "splitter", "start", "thoughts", "tool", "unknown", "writer")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.thoughts: list[str] = []
        self.signature: str | None = None
        self.redacted = b""
        self.tool: _Tool | None = None
        self.start: dict[str, Any] = {}
        self.unknown: list[dict[str, Any]] = []
        self.splitter: ThinkingSplitter | None = None
        self.writer: AnswerText | None = None


class Assembler:
    """Puts one streamed answer together.

    `has_content` turns true with the first piece of content, `is_stopped` with messageStop, `is_complete` when
    the usage has come too. An answer is whole once it is stopped: what comes after is only the bill.
    """

    def __init__(self, encoded: EncodedCall) -> None:
        self._encoded = encoded
        self._reader = BlockReader(encoded)
        self._blocks: dict[int, _Block] = {}
        self._raw_stop: str | None = None
        self._metadata: Metadata | None = None
        self._unknown_events: set[str] = set()
        self._shift = 0
        self._held: dict[int, tuple[_Said, str]] = {}
        """The first halves of pairs that ended a delta, by block: the next one may begin with the second."""
        self.has_content = False

    @property
    def is_stopped(self) -> bool:
        return self._raw_stop is not None

    @property
    def is_complete(self) -> bool:
        return self._raw_stop is not None and self._metadata is not None

    def feed(self, event: StreamEvent) -> list[ModelDelta]:
        """The deltas that an event brings; one with neither text nor reasoning is a sign of life."""
        if isinstance(event, BlockDelta):
            text = event.delta.text
            block = self._blocks.get(event.content_block_index)
            if not text or block is None or block.splitter is not None or block.writer is not None or self._held:
                return self._delta(event)
            # Nearly all events of nearly all streams come this way.
            block.pieces.append(text)
            return [ModelDelta(index=event.content_block_index + self._shift, text=text)]
        if isinstance(event, BlockStart):
            return self._start(event)
        if isinstance(event, MessageStop):
            self._raw_stop = event.stop_reason
            return [delta for index in list(self._held) for delta in self._release(index)]
        elif isinstance(event, Metadata):
            self._metadata = event
        elif isinstance(event, BlockStop):
            return self._stop_block(event.content_block_index)
        elif isinstance(event, AnyDelta):
            self._block(event.content_block_index).unknown.append(event.delta)
            self.has_content = True
        elif isinstance(event, MendedDelta):
            return self._take(self._mended(event.delta, event.content_block_index), event.content_block_index)
        elif isinstance(event, UnknownEvent):
            self._unknown_events.add(event.kind)
        return []

    def account_for(self, error: SidecarError) -> None:
        """Tell an error that ends the stream what had come of the answer, and what that cost where it is known."""
        if self.has_content or self._blocks:
            error.reached = "answered"
        blocks = self._blocks.values()
        error.heard_chars = sum(sum(map(len, block.pieces)) + sum(map(len, block.thoughts)) for block in blocks)
        usage = self._metadata.usage if self._metadata is not None else None
        if usage is not None and usage.input_tokens is not None and usage.output_tokens is not None:
            error.counted = TokenCounts(
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_input_tokens or 0,
                usage.cache_write_input_tokens or 0,
            )

    def _mended(self, delta: WireDelta, index: int) -> WireDelta:
        """A delta without halves of pairs; one at its end waits for the next delta."""
        kind, said = _said(delta)
        _, before = self._held.pop(index, (kind, ""))
        text = before + said
        if HIGH.search(text):
            self._held[index] = kind, text[-1]
            text = text[:-1]
        text, count = mended_text(text)
        self._reader.replaced += count
        return _saying(kind, text, delta)

    def _release(self, index: int) -> list[ModelDelta]:
        """A half whose other never came."""
        kind, half = self._held.pop(index)
        text, count = mended_text(half)
        self._reader.replaced += count
        return self._take(_saying(kind, text, WireDelta()), index)

    def finish(self, *, first_token_ms: int | None = None, trouble: str | None = None) -> ModelReply:
        """The whole reply. `trouble` is what went wrong after messageStop.

        Raises StreamInterrupted when the answer has not been stopped.
        """
        if self._raw_stop is None:
            raise StreamInterrupted("the stream ended before messageStop: the answer is not whole")
        if trouble:
            self._reader.warnings.append(f"after the answer's end: {trouble}")
        for kind in sorted(self._unknown_events):
            self._reader.warnings.append(f"events of the unknown kind {kind!r} were ignored")
        blocks: list[AnswerBlock] = []
        for index in sorted(self._blocks):
            is_last = index == max(self._blocks)
            blocks.extend(self._finish_block(self._blocks[index], is_last=is_last))
        metadata = self._metadata or Metadata()
        return self._reader.reply(
            blocks,
            raw_stop=self._raw_stop,
            usage=metadata.usage,
            trace=metadata.trace,
            first_token_ms=first_token_ms,
        )

    def _block(self, index: int) -> _Block:
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = _Block()
            if self._encoded.splits_thinking:
                block.splitter = ThinkingSplitter()
            if self._encoded.is_wrapped and self._encoded.output_tool is None:
                block.writer = AnswerText(is_wrapped=True)
        return block

    def _start(self, event: BlockStart) -> list[ModelDelta]:
        block = self._block(event.content_block_index)
        block.start = event.start
        self.has_content = True
        use = event.start.get("toolUse")
        if isinstance(use, dict):
            given = use.get("input")
            block.tool = _Tool(word(use.get("toolUseId")), word(use.get("name")), use.get("type"), given or None)
            is_answer = block.tool.name == self._encoded.output_tool
            block.writer = AnswerText(is_wrapped=self._encoded.is_wrapped) if is_answer else None
        return [ModelDelta(index=event.content_block_index + self._shift)]

    def _stop_block(self, index: int) -> list[ModelDelta]:
        block = self._blocks.get(index)
        if block is None:
            return []
        if index in self._held:
            return [*self._release(index), *self._stop_block(index)]
        if block.writer is not None:
            return self._last_words(block, block.writer, index)
        if block.splitter is None:
            return []
        return self._split(block, index, block.splitter.flush())

    def _delta(self, event: BlockDelta) -> list[ModelDelta]:
        delta, index = event.delta, event.content_block_index
        return self._take(self._mended(delta, index) if index in self._held else delta, index)

    def _take(self, delta: WireDelta, index: int) -> list[ModelDelta]:
        block = self._block(index)
        self.has_content = True
        if delta.text is not None:
            return self._text(block, index, delta.text)
        if delta.tool_use is not None:
            if block.writer is not None:
                return self._write(block, block.writer.feed(delta.tool_use.input), index)
            block.pieces.append(delta.tool_use.input)
            return [ModelDelta(index=index + self._shift)]
        if delta.reasoning_content is not None:
            return self._reasoning(block, index, delta.reasoning_content)
        return [ModelDelta(index=index + self._shift)]

    def _write(self, block: _Block, text: str, index: int) -> list[ModelDelta]:
        block.pieces.append(text)
        return [ModelDelta(index=index + self._shift, text=text or None)]

    def _last_words(self, block: _Block, writer: AnswerText, index: int) -> list[ModelDelta]:
        """The end of an answer given as JSON; of a tool called without arguments it is all."""
        text = writer.flush()
        if not text and block.tool is not None and not any(block.pieces):
            text = writer.feed(_written(block.tool.given) or "{}") + writer.flush()
        block.writer = None
        return self._write(block, text, index) if text else []

    def _text(self, block: _Block, index: int, text: str) -> list[ModelDelta]:
        if block.writer is not None:
            return self._write(block, block.writer.feed(text), index)
        if block.splitter is None:
            block.pieces.append(text)
            return [ModelDelta(index=index + self._shift, text=text or None)]
        return self._split(block, index, block.splitter.feed(text)) or [ModelDelta(index=index + self._shift)]

    def _split(self, block: _Block, index: int, pieces: list[ThinkingPiece]) -> list[ModelDelta]:
        deltas = []
        for piece in pieces:
            if piece.is_reasoning:
                block.thoughts.append(piece.text)
                deltas.append(ModelDelta(index=index + self._shift, reasoning=piece.text))
                continue
            if block.thoughts and not block.pieces:
                self._shift += 1
            block.pieces.append(piece.text)
            deltas.append(ModelDelta(index=index + self._shift, text=piece.text))
        return deltas

    def _reasoning(self, block: _Block, index: int, delta: ReasoningDelta) -> list[ModelDelta]:
        if delta.signature:
            block.signature = (block.signature or "") + delta.signature
        if delta.redacted_content:
            block.redacted += delta.redacted_content
        if delta.text:
            block.thoughts.append(delta.text)
        return [ModelDelta(index=index + self._shift, reasoning=delta.text or None)]

    def _finish_block(self, block: _Block, *, is_last: bool) -> list[AnswerBlock]:
        if block.writer is not None:
            self._last_words(block, block.writer, 0)
        if block.tool is not None:
            return [self._tool_use(block, block.tool, is_last=is_last)]
        found: list[AnswerBlock] = []
        if block.redacted:
            found.append(ReasoningBlock(redacted=block.redacted))
        if block.splitter is not None:
            self._split(block, 0, block.splitter.flush())
        if block.thoughts or block.signature:
            found.append(ReasoningBlock(text="".join(block.thoughts), signature=block.signature))
        if text := "".join(block.pieces):
            found.append(TextBlock(text=text))
        citations = [delta["citation"] for delta in block.unknown if isinstance(delta.get("citation"), dict)]
        found.extend(self._reader.citations(citations))
        unknown = [delta for delta in block.unknown if not isinstance(delta.get("citation"), dict)]
        if unknown or (block.start and not found):
            found.extend(self._reader.read(_joined(block.start, unknown)))
        return found

    def _tool_use(self, block: _Block, tool: _Tool, *, is_last: bool) -> AnswerBlock:
        written = "".join(block.pieces)
        if not written and tool.name != self._encoded.output_tool:
            written = _written(tool.given)
        raw = {"toolUse": {"toolUseId": tool.use_id, "name": tool.name, "input": written}}
        if tool.type == "server_tool_use":
            raw["toolUse"]["type"] = tool.type
            return OtherBlock(value=raw)
        if tool.name == self._encoded.output_tool:
            return self._reader.answer(written)
        if not written and not (is_last and self._raw_stop in CUTTING_STOPS):
            written = "{}"
        try:
            arguments = msgspec.json.decode(written)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            if self._raw_stop in CUTTING_STOPS:
                return self._reader.other(raw, f"the arguments of tool {tool.name!r} are cut or not JSON")
            arguments = written
        return self._reader.tool_use(use_id=tool.use_id, name=tool.name, arguments=arguments, raw=raw)


def _written(given: Any) -> str:
    """Arguments that came with a call's start, as text."""
    if given is None:
        return ""
    return given if isinstance(given, str) else msgspec.json.encode(given).decode()


_Said = Literal["text", "input", "reasoning"]


def _said(delta: WireDelta) -> tuple[_Said, str]:
    if delta.tool_use is not None:
        return "input", delta.tool_use.input
    if delta.reasoning_content is not None:
        return "reasoning", delta.reasoning_content.text or ""
    return "text", delta.text or ""


def _saying(kind: _Said, text: str, delta: WireDelta) -> WireDelta:
    """`delta` with this text."""
    if kind == "input":
        return WireDelta(tool_use=ToolUseDelta(input=text))
    if kind == "reasoning":
        known = delta.reasoning_content or ReasoningDelta()
        return WireDelta(reasoning_content=msgspec.structs.replace(known, text=text))
    return WireDelta(text=text)


def _joined(start: dict[str, Any], deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """A block of a kind that is seldom streamed, in the form of a whole answer where that is known."""
    image, pieces = start.get("image"), [_image_piece(delta) for delta in deltas]
    data = b"".join(piece for piece in pieces if piece is not None)
    if not isinstance(image, dict) or not data or None in pieces:
        return {**start, "deltas": deltas}
    return {"image": {**image, "source": {"bytes": data}}}


def _image_piece(delta: dict[str, Any]) -> bytes | None:
    image = delta.get("image")
    source = image.get("source") if isinstance(image, dict) else None
    return binary(source.get("bytes")) if isinstance(source, dict) else None
