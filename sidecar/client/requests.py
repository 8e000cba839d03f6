"""What applications may write as a request, turned into a `JobRequest`. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.codec import decode_request, encode
from sidecar.models.content import Message
from sidecar.models.request import (
    Guardrail,
    InlineTool,
    JobBudget,
    JobRequest,
    OutputSpec,
    Params,
    PromptRef,
    Reasoning,
    Task,
    ToolChoice,
)

Messages = Sequence[Message | Mapping[str, Any]]
Request = str | Messages | JobRequest | Mapping[str, Any]


class RequestFields(TypedDict, total=False):
    """Fields of a request as keyword arguments; the protocol's page says what each means. Times in seconds."""

    system: str
    model: str | Sequence[str]
    task: Task | Mapping[str, Any]
    params: Params | Mapping[str, Any]
    tools: Sequence[str | InlineTool | Mapping[str, Any]]
    tool_choice: str | ToolChoice | Mapping[str, Any]
    output: OutputSpec | Mapping[str, Any]
    prompt: PromptRef | Mapping[str, Any]
    stream: bool
    timeout_s: float
    first_token_timeout_s: float
    idle_timeout_s: float
    deadline: datetime | str
    budget: JobBudget | Mapping[str, Any]
    reasoning: Reasoning | Mapping[str, Any]
    cache: str
    service_tier: str
    on_interrupt: str
    guardrail: Guardrail | Mapping[str, Any]
    filters: Sequence[str]
    metadata: Mapping[str, str | int | float | bool | None]


def build_request(request: Request | None, fields: Mapping[str, Any]) -> JobRequest:
    """The request that `request` (a prompt, messages, or a whole request) and `fields` over it describe.

    Raises InvalidRequest that names the field.
    """
    if isinstance(request, JobRequest) and not fields:
        return request
    try:
        payload = encode({**_base(request), **msgspec.to_builtins(dict(fields))})
    except TypeError as e:
        raise InvalidRequest(f"the request cannot be written as JSON: {e}") from e
    return decode_request(payload)


def _base(request: Request | None) -> dict[str, Any]:
    if request is None:
        return {}
    if isinstance(request, str):
        return {"messages": [{"role": "user", "content": request}]}
    if isinstance(request, JobRequest | Mapping):
        base: dict[str, Any] = msgspec.to_builtins(request)
        return base
    return {"messages": msgspec.to_builtins(list(request))}
