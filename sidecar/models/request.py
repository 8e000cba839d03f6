"""A job as a client asks for it: the payload of `llm.v1.request.<tenant>.<class>`."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from sidecar.models.base import FieldError, Name, Strict, matching
from sidecar.models.content import Message
from sidecar.models.rules import check_depth, check_messages, check_tools

MAX_TIMEOUT_S = 86_400.0
MAX_METADATA_BYTES = 8_192

Seconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
ToolRef = Annotated[
    str,
    matching(
        r"^([A-Za-z0-9_-]{1,64}|llm\.job)(@[^@\s]+)?$",
        "a tool's name, or name@range such as orders@^1.2",
        max_length=160,
    ),
]
ToolName = Annotated[
    str, matching(r"^([A-Za-z0-9_-]{1,64}|llm\.job)$", "a tool's name: 1 to 64 of A-Z a-z 0-9 _ -")
]
Need = Literal["tools", "images", "documents", "reasoning", "structured_output", "long_context"]
TaskKind = Literal["chat", "code", "extract", "summarize", "classify", "reason"]
Quality = Literal["fast", "balanced", "best"]
ServiceTier = Literal["auto", "default", "priority", "flex", "reserved"]


class Task(Strict, frozen=True, kw_only=True):
    """What the selector goes by when the request names no model."""

    kind: TaskKind = "chat"
    quality: Quality = "balanced"
    needs: tuple[Need, ...] = ()


class Params(Strict, frozen=True, kw_only=True):
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=500)] | None = None
    stop: Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(max_length=2500)] = ()


class InlineTool(Strict, frozen=True, kw_only=True):
    """A tool that the client runs itself: a call of it ends the job with stop reason `tool_use`."""

    name: Name
    input_schema: dict[str, Any]
    description: str = ""

    def __post_init__(self) -> None:
        if self.input_schema.get("type") != "object":
            raise FieldError('must say "type": "object": a tool\'s input is an object', path="input_schema")
        check_depth(self.input_schema, path="input_schema")


class ToolChoice(Strict, frozen=True, kw_only=True):
    name: ToolName


class OutputSpec(Strict, frozen=True, kw_only=True):
    """The JSON Schema (2020-12) that the answer must satisfy."""

    schema: dict[str, Any]

    def __post_init__(self) -> None:
        check_depth(self.schema, path="schema")


class JobBudget(Strict, frozen=True, kw_only=True):
    max_cost_usd: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_tool_calls: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    max_turns: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None


class Reasoning(Strict, frozen=True, kw_only=True):
    effort: Literal["none", "low", "medium", "high"] | None = None
    budget_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None

    def __post_init__(self) -> None:
        if (self.effort is None) == (self.budget_tokens is None):
            raise FieldError("give exactly one of 'effort' and 'budget_tokens'")


class Guardrail(Strict, frozen=True, kw_only=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=16)] = "DRAFT"


class PromptRef(Strict, frozen=True, kw_only=True):
    """A stored template and its variables, in place of `messages`."""

    name: Name
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    variables: dict[str, str | int | float | bool] = {}


class JobRequest(Strict, frozen=True, kw_only=True):
    """One LLM job. Durations are seconds; only `messages` (or `prompt`) is required.

    Raises FieldError (an `InvalidRequest` through `codec.decode_request`) where a rule over several fields is
    broken; see `rules`.
    """

    messages: Annotated[tuple[Message, ...], msgspec.Meta(min_length=1)] | None = None
    prompt: PromptRef | None = None
    system: str | None = None
    model: ModelName | Annotated[tuple[ModelName, ...], msgspec.Meta(min_length=1, max_length=16)] | None = None
    task: Task | None = None
    params: Params = Params()
    tools: Annotated[tuple[ToolRef | InlineTool, ...], msgspec.Meta(max_length=128)] = ()
    tool_choice: Literal["auto", "any", "none"] | ToolChoice = "auto"
    output: OutputSpec | None = None
    stream: bool = False
    timeout_s: Seconds | None = None
    first_token_timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    deadline: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    budget: JobBudget = JobBudget()
    reasoning: Reasoning | None = None
    cache: Literal["auto", "none"] = "auto"
    service_tier: ServiceTier = "auto"
    on_interrupt: Literal["restart", "fail"] = "restart"
    guardrail: Guardrail | None = None
    filters: Annotated[tuple[Name, ...], msgspec.Meta(max_length=32)] = ()
    metadata: dict[str, str | int | float | bool | None] = {}
    progress_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] | None = None

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise FieldError("give exactly one of 'messages' and 'prompt'")
        if self.metadata and len(msgspec.json.encode(self.metadata)) > MAX_METADATA_BYTES:
            raise FieldError(f"is larger than {MAX_METADATA_BYTES} bytes of JSON: shorten it", path="metadata")
        if self.messages is not None:
            check_messages(self.messages)
        if self.tools or self.tool_choice != "auto":
            chosen = self.tool_choice.name if isinstance(self.tool_choice, ToolChoice) else None
            check_tools(self.tool_names, self.tool_choice, chosen)

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names in `tools`, without their ranges."""
        return tuple([t.partition("@")[0] if isinstance(t, str) else t.name for t in self.tools])

    @property
    def models(self) -> tuple[str, ...]:
        """The fallback chain that the request names; empty when the selector decides."""
        if self.model is None:
            return ()
        return (self.model,) if isinstance(self.model, str) else self.model
