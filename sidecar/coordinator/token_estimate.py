"""How many input tokens a request will be, before any model has counted them. Pure, and deliberately cheap.

Text goes by characters: about 3.9 of plain text to a token, 3.0 of JSON, one for each of a script without
spaces. Images go by their pixels (Claude: width × height / 750), documents by their text or their pages, tools
by their schemas and what each family's tool prompt adds. The constants were fitted to recorded exchanges;
docs/fairness.md says how far off they are. Estimates only steer reservation and charge: the settlement corrects
both.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.models.call import ToolSpec
from sidecar.models.content import (
    Block,
    DocumentBlock,
    ImageBlock,
    JsonBlock,
    Message,
    ReasoningBlock,
    ResultContent,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.profile import Family
from sidecar.models.request import InlineTool, JobRequest

CHARS_PER_TOKEN = 3.9
JSON_CHARS_PER_TOKEN = 3.0
TOKENS_PER_MESSAGE = 3
TOKENS_PER_TOOL = 25
IMAGE_TOKENS = 1_600
BYTES_PER_PAGE = 40_000
OBJECT_TOKENS = 5_000
BLOCK_TOKENS = 12

_DENSE = re.compile(
    r"[\u0e00-\u0e7f\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0002ffff\U0001f000-\U0001faff]+"
)
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")
_TEXT_FORMATS = frozenset({"txt", "md", "csv", "html"})


class FamilyRule(NamedTuple):
    """What a family adds: `base` to each call, `tool_prompt` for tools, `schema` for structured output.

    `page` is a page of a document. An image is its pixels by `pixels_per_token`; None: the same whatever its size.
    """

    base: int
    tool_prompt: int
    schema: int
    page: int
    pixels_per_token: float | None
    counts_reasoning: bool


RULES: dict[Family, FamilyRule] = {
    "claude": FamilyRule(4, 480, schema=150, page=1_700, pixels_per_token=750.0, counts_reasoning=True),
    "nova": FamilyRule(0, 650, schema=150, page=2_500, pixels_per_token=None, counts_reasoning=True),
    "other": FamilyRule(8, 80, schema=0, page=600, pixels_per_token=750.0, counts_reasoning=False),
}


def text_tokens(text: str) -> int:
    """Tokens of plain text."""
    if text.isascii():
        return int(len(text) / CHARS_PER_TOKEN) + 1
    # Counted by what is left without them: in C, since a text may be as long as a message.
    dense = len(text) - len(_DENSE.sub("", text))
    wide = len(text) - len(text.encode("ascii", "ignore")) - dense
    return int(dense + wide * 0.6 + (len(text) - dense - wide) / CHARS_PER_TOKEN) + 1


def json_tokens(value: Any) -> int:
    """Tokens of a value that is sent as JSON."""
    return int(len(msgspec.json.encode(value)) / JSON_CHARS_PER_TOKEN) + 1


def request_tokens(request: JobRequest, *, family: Family = "claude", tools: Sequence[ToolSpec] = ()) -> int:
    """Input tokens of a request's first call. `tools` are its registered tools, once they are known."""
    specs = list(tools) + [
        ToolSpec(name=tool.name, description=tool.description, input_schema=tool.input_schema)
        for tool in request.tools
        if isinstance(tool, InlineTool)
    ]
    tokens = call_tokens(request.messages or (), system=request.system, tools=specs, family=family)
    if request.prompt is not None:
        tokens += json_tokens(request.prompt.variables)
    if request.output is not None and RULES[family].schema:
        tokens += RULES[family].schema + json_tokens(request.output.schema)
    return tokens


def call_tokens(
    messages: Iterable[Message], *, system: str | None, tools: Sequence[ToolSpec], family: Family
) -> int:
    """Input tokens of one call."""
    rule = RULES[family]
    tokens = rule.base
    if system:
        tokens += text_tokens(system) + TOKENS_PER_MESSAGE
    if tools:
        tokens += rule.tool_prompt
        for tool in tools:
            tokens += TOKENS_PER_TOOL + text_tokens(tool.description) + json_tokens(tool.input_schema)
    for message in messages:
        tokens += TOKENS_PER_MESSAGE + _content_tokens(message.content, rule)
    return tokens


def next_call_tokens(
    counted: int, *, output_tokens: int, results: Iterable[ToolResultBlock], family: Family
) -> int:
    """Input tokens of a tool loop's next call: what the model counted, its answer, and the tools' results.

    `counted` is the last call's whole input, cache reads and writes included.
    """
    rule = RULES[family]
    said = sum([_block_tokens(result, rule) for result in results])
    return counted + output_tokens + TOKENS_PER_MESSAGE + said


def _content_tokens(content: str | Iterable[Block], rule: FamilyRule) -> int:
    if isinstance(content, str):
        return text_tokens(content)
    return sum(_block_tokens(block, rule) for block in content)


def _block_tokens(block: Block | ResultContent, rule: FamilyRule) -> int:
    if isinstance(block, TextBlock):
        return text_tokens(block.text)
    if isinstance(block, ImageBlock):
        return image_tokens(block.source, rule)
    if isinstance(block, DocumentBlock):
        return BLOCK_TOKENS + document_tokens(block, rule)
    if isinstance(block, ToolUseBlock):
        return BLOCK_TOKENS + json_tokens(block.input)
    if isinstance(block, JsonBlock):
        return json_tokens(block.value)
    if isinstance(block, ToolResultBlock):
        if isinstance(block.content, str):
            return BLOCK_TOKENS + text_tokens(block.content)
        return BLOCK_TOKENS + sum([_block_tokens(part, rule) for part in block.content])
    if isinstance(block, ReasoningBlock) and block.text and rule.counts_reasoning:
        return text_tokens(block.text)
    return 0


def image_tokens(source: Source, rule: FamilyRule) -> int:
    """Tokens of an image by its size; the largest that is usual where the size is not to be seen."""
    size = image_size(source.data) if source.data else None
    if size is None or rule.pixels_per_token is None:
        return IMAGE_TOKENS
    width, height = size
    return max(50, min(IMAGE_TOKENS, int(width * height / rule.pixels_per_token)))


def document_tokens(block: DocumentBlock, rule: FamilyRule) -> int:
    """Tokens of a document: its text, or its pages as far as they can be counted from outside."""
    data = block.source.data
    if data is None:
        return OBJECT_TOKENS
    if block.format in _TEXT_FORMATS:
        return int(len(data) / CHARS_PER_TOKEN) + 1
    pages = len(_PAGE.findall(data)) if block.format == "pdf" else 0
    return (pages or 1 + len(data) // BYTES_PER_PAGE) * rule.page


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from the head of a PNG, GIF, WebP or JPEG; None where it can't be read."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data[:4] == b"GIF8" and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
        return width, height
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_size(data)
    return _jpeg_size(data) if data[:2] == b"\xff\xd8" else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
