"""Content blocks: what messages, tool results and answers are made of."""

from typing import Annotated, Any, Literal

import msgspec

from sidecar.models.base import FieldError, Strict, matching

ToolUseId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
ObjectName = Annotated[
    str,
    matching(
        r"^[^\x00-\x1f\x7f]*$",
        "an object's name: 1 to 1024 characters, none of them a control character",
        min_length=1,
        max_length=1024,
    ),
]
ImageFormat = Literal["png", "jpeg", "gif", "webp"]
DocumentFormat = Literal["pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"]


class Source(Strict, frozen=True, kw_only=True, rename={"data": "bytes"}):
    """Where binary content is: inline, base64, or an object in the tenant's Object Store bucket."""

    data: bytes | None = None
    object: ObjectName | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.object is None):
            raise FieldError("give exactly one of 'bytes' (base64) and 'object' (a name in LLM_BLOB_<tenant>)")
        if self.data == b"":
            raise FieldError("is empty: send the content, base64", path="bytes")


class TextBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str


class ImageBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="image"):
    source: Source
    format: ImageFormat


class DocumentBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="document"):
    source: Source
    format: DocumentFormat
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "document"


class JsonBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="json"):
    """Structured output of a tool; only inside a `tool_result`."""

    value: Any


class ToolUseBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    id: ToolUseId
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    input: dict[str, Any] = {}


ResultContent = TextBlock | ImageBlock | DocumentBlock | JsonBlock


class ToolResultBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    tool_use_id: ToolUseId
    content: str | tuple[ResultContent, ...]
    is_error: bool = False


class ReasoningBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thought. `signature` and `redacted` belong to the provider and go back unchanged."""

    text: str | None = None
    signature: str | None = None
    redacted: bytes | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.redacted is None):
            raise FieldError("give exactly one of 'text' and 'redacted' (base64)")


class CachePointBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="cache_point"):
    ttl: Literal["5m", "1h"] = "5m"


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ReasoningBlock | CachePointBlock


class OtherBlock(Strict, frozen=True, kw_only=True, tag_field="type", tag="other"):
    """A block of the model's answer that this version does not know, as it came."""

    value: Any


AnswerBlock = TextBlock | ImageBlock | ToolUseBlock | ReasoningBlock | OtherBlock


class Message(Strict, frozen=True, kw_only=True):
    role: Literal["user", "assistant"]
    content: str | Annotated[tuple[Block, ...], msgspec.Meta(min_length=1)]
