"""What filters are told and what they answer. Also for filters of one's own: see docs/filters.md."""

from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from sidecar.models.base import Open

Direction = Literal["input", "output", "tools"]


class FilterContext(Open, frozen=True, kw_only=True):
    """Whose text it is, and which: `channel` is what it belongs to."""

    tenant: str
    job: str
    job_class: str
    direction: Direction = "output"
    channel: Literal["text", "reasoning", "system", "message", "value"] = "text"


class Filtered(Open, frozen=True, kw_only=True):
    """A filter's answer: the text as it may be shown, and how often what was found. Nothing found: no kinds."""

    text: str
    kinds: dict[str, int] = {}


@runtime_checkable
class Filter(Protocol):
    """Judges texts as wholes. `segment_chars` may say how much text it takes at a time: streams are then held
    back by so much at most, else until their end."""

    async def apply(self, text: str, context: FilterContext) -> Filtered: ...


class GuardrailVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What Bedrock's ApplyGuardrail said of a text. `text` is its masked form, or the message of a block."""

    intervened: bool
    is_blocked: bool
    text: str
    kinds: dict[str, int] = {}
    assessments: Any = None
