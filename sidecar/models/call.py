"""One call of one model, in neutral form: what the pipeline says to a `ModelClient`, and what comes back."""

from typing import Any, Literal

from sidecar.models.base import Open
from sidecar.models.content import AnswerBlock, Message
from sidecar.models.profile import Candidate
from sidecar.models.request import Guardrail, Params, Reasoning, ServiceTier, ToolChoice
from sidecar.models.result import StopReason, Usage, UsageBasis


class ToolSpec(Open, frozen=True, kw_only=True):
    """A tool as a model sees it."""

    name: str
    description: str
    input_schema: dict[str, Any]


class CallLimits(Open, frozen=True, kw_only=True):
    """Seconds. `first_token_s` runs until the first content, `idle_s` between two pieces of a stream."""

    connect_s: float = 5.0
    first_token_s: float = 120.0
    idle_s: float = 120.0
    total_s: float = 600.0


class ModelCall(Open, frozen=True, kw_only=True):
    candidate: Candidate
    messages: tuple[Message, ...]
    system: str | None = None
    params: Params = Params()
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "any", "none"] | ToolChoice = "auto"
    output_schema: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    cache: Literal["auto", "none"] = "auto"
    service_tier: ServiceTier = "auto"
    guardrail: Guardrail | None = None
    request_metadata: dict[str, str] = {}
    limits: CallLimits = CallLimits()


class UnreadableCall(Open, frozen=True, kw_only=True):
    """A tool call that no tool can be called with. `call`: its number among the answer's calls, from 0; `raw`:
    the block as it came.
    """

    call: int
    problem: str
    raw: Any


class ModelReply(Open, frozen=True, kw_only=True):
    """A whole answer. `raw_stop_reason` is the model's own word; `warnings` names what was not sent or changed.

    `unreadable` calls stand in the content with an input of `{}`, for the model to be told of: nobody may make
    them, and no client may see them.
    """

    content: tuple[AnswerBlock, ...]
    stop_reason: StopReason
    raw_stop_reason: str
    usage: Usage
    usage_basis: UsageBasis = "observed"
    warnings: tuple[str, ...] = ()
    unreadable: tuple[UnreadableCall, ...] = ()
    guardrail_trace: Any = None
    first_token_ms: int | None = None


class ModelDelta(Open, frozen=True, kw_only=True):
    """A piece of a streamed answer, of the content block `index`: text or reasoning, never both.

    Tool arguments are not streamed outward: a piece of them comes with neither, as a sign of life.
    """

    index: int
    text: str | None = None
    reasoning: str | None = None
