"""What the sidecar says about a job: `llm.v1.job.<tenant>.<job>.<type>`."""

import logging
from typing import Any, Literal

import msgspec

from sidecar.models.base import Open, Timestamp
from sidecar.models.plain import UNREADABLE
from sidecar.models.result import Attempt, ErrorInfo, Result, Usage, UsageBasis
from sidecar.models.shown import shown

log = logging.getLogger(__name__)

EventType = Literal["status", "delta", "tool", "result"]


class Rejected(Open, frozen=True, kw_only=True):
    """A candidate that was passed over, and why."""

    model: str
    reason: str


class Spent(Open, frozen=True, kw_only=True):
    """What a job has taken so far. `calls` counts calls of models; `cost_usd` is None where no price is known."""

    calls: int
    usage: Usage
    usage_basis: UsageBasis
    cost_usd: float | None


class Status(Open, frozen=True, kw_only=True, omit_defaults=True, rename={"waiting_for": "for"}):
    """A change of state. Which fields are there depends on `state`; see the protocol's table of events."""

    state: Literal["queued", "running", "waiting", "retrying"]
    model: str | None = None
    model_id: str | None = None
    region: str | None = None
    reason: str | None = None
    candidates: tuple[Rejected, ...] | None = None
    waiting_for: Literal["tool", "quota", "model", "slot", "tenant", "pause"] | None = None
    estimate_ms: int | None = None
    ahead: int | None = None
    error: ErrorInfo | None = None
    next: str | None = None
    call: Attempt | None = None
    spent: Spent | None = None


class Delta(Open, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of the answer: `text` or `reasoning`, of the content block `index`."""

    index: int
    text: str | None = None
    reasoning: str | None = None


class ToolActivity(Open, frozen=True, kw_only=True, omit_defaults=True):
    """`progress` is what a tool says while it works, in `output`."""

    phase: Literal["called", "progress", "returned", "failed"]
    tool: str
    version: str | None = None
    tool_use_id: str | None = None
    input: Any = None
    output: Any = None
    error: ErrorInfo | None = None
    elapsed_ms: int | None = None


EventData = Status | Delta | ToolActivity | Result
DATA_OF: dict[EventType, type[EventData]] = {
    "status": Status,
    "delta": Delta,
    "tool": ToolActivity,
    "result": Result,
}


class Event(Open, frozen=True, kw_only=True):
    """The envelope. `n` counts from 1 without gaps within an attempt, over all types."""

    job: str
    tenant: str
    type: EventType
    attempt: int
    n: int
    time: Timestamp
    metadata: dict[str, Any]
    data: EventData


class EventPosition(msgspec.Struct, frozen=True):
    attempt: int
    n: int


_decode = msgspec.json.Decoder(EventPosition).decode


def place_of(payload: bytes, *, subject: str) -> EventPosition | None:
    """The place of a stored event; None, with a warning, for what somebody else put at `subject`."""
    try:
        return _decode(payload)
    except UNREADABLE as e:
        log.warning("%s holds what is no event: %s", shown(subject), shown(e))
        return None
