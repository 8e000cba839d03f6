"""A job's result as applications get it, and the decoding of what the sidecar says."""

from typing import Any

import msgspec

from sidecar.client.errors import from_outcome
from sidecar.client.order import Place
from sidecar.errors import Permanent
from sidecar.models.base import Open
from sidecar.models.content import ToolUseBlock
from sidecar.models.event import Delta, Event, EventData, Status, ToolActivity
from sidecar.models.job import JobState
from sidecar.models.plain import UNREADABLE
from sidecar.models.result import Result


class JobResult(Result, frozen=True, kw_only=True):
    """How a job ended; `sidecar.models.result.Result` with conveniences. Never raises by itself."""

    @property
    def text(self) -> str:
        """The answer's text; empty where there is none. `partial` says whether it was cut short."""
        return self.output.text

    @property
    def is_success(self) -> bool:
        return self.state == "succeeded"

    @property
    def tool_calls(self) -> tuple[ToolUseBlock, ...]:
        """The calls of inline tools that the client is to run after the stop reason `tool_use`, in order.

        Without those that the sidecar has answered itself. `run_calls` runs them, `continue_with` makes the
        request that goes on.
        """
        answered: set[str] = set()
        for block in self.output.messages[-1]["content"] if self.output.messages else ():
            if isinstance(block, dict) and block.get("type") == "tool_result":
                answered.add(block["tool_use_id"])
        return tuple(
            msgspec.convert(block, ToolUseBlock)
            for block in self.output.content
            if block.get("type") == "tool_use" and block.get("id") not in answered
        )

    def raise_for_state(self) -> "JobResult":
        """Itself when the job succeeded. Raises JobCancelled, or JobFailed with this result, when not."""
        if self.state == "succeeded":
            return self
        raise from_outcome(self.state, self.error, job="", result=self)

    @classmethod
    def of(cls, result: Result) -> "JobResult":
        return cls(**{name: getattr(result, name) for name in result.__struct_fields__})


class _Envelope(Open, frozen=True, kw_only=True):
    job: str
    tenant: str
    type: str
    attempt: int
    n: int
    time: str
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    data: msgspec.Raw


_DATA: dict[str, msgspec.json.Decoder[Any]] = {
    "status": msgspec.json.Decoder(Status),
    "delta": msgspec.json.Decoder(Delta),
    "tool": msgspec.json.Decoder(ToolActivity),
    "result": msgspec.json.Decoder(JobResult),
}
_ENVELOPE = msgspec.json.Decoder(_Envelope)


def decode_event(payload: bytes) -> tuple[Place, Event | None]:
    """The event in a message and its place; no event for a type that this version does not know.

    Raises Permanent for a payload that is no event of this protocol version.
    """
    try:
        envelope = _ENVELOPE.decode(payload)
        place = Place(envelope.attempt, envelope.n)
        decoder = _DATA.get(envelope.type)
        if decoder is None:
            return place, None
        data: EventData = decoder.decode(envelope.data)
    except UNREADABLE as e:
        raise Permanent(
            f"an event cannot be read ({e}): the sidecar may be newer than this client, update it"
        ) from e
    return place, Event(
        job=envelope.job,
        tenant=envelope.tenant,
        type=envelope.type,  # type: ignore[arg-type]  # one of _DATA
        attempt=envelope.attempt,
        n=envelope.n,
        time=envelope.time,
        metadata=envelope.metadata,
        data=data,
    )


def final_event(state: JobState, *, after: Place) -> Event | None:
    """The result event that a finished job's state document stands for; None while it runs.

    Needed where events have expired (they live shorter than states) or a crash delayed the event itself.
    """
    if not state.is_terminal or state.result is None:
        return None
    return Event(
        job=state.job,
        tenant=state.tenant,
        type="result",
        attempt=max(state.attempt, after.attempt, 1),
        n=state.result_n or after.n + 1,
        time=state.updated,
        metadata={},
        data=JobResult.of(state.result),
    )
