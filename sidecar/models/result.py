"""How a job ended: the data of its `result` event, also kept in its state document."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from sidecar.errors import ErrorCode
from sidecar.models.base import Open

TerminalState = Literal["succeeded", "failed", "cancelled", "expired", "rejected"]
StopReason = Literal[
    "end_turn",
    "tool_use",
    "max_tokens",
    "stop_sequence",
    "guardrail",
    "content_filtered",
    "context_overflow",
    "malformed_output",
    "budget",
    "other",
]
UsageBasis = Literal["observed", "estimated"]
Purpose = Literal["retry", "fallback", "probe", "repair"]
"""Why a call was made that is no turn's first: the same model again, another one, the one call that finds out
whether a model is well again, or a second answer because the first did not fit its schema."""


class Usage(Open, frozen=True, kw_only=True):
    """Tokens, as the provider counts them. `input_tokens` is without cache reads and writes."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )


class ErrorInfo(Open, frozen=True, kw_only=True):
    code: ErrorCode
    message: str
    retryable: bool = False
    details: dict[str, Any] = {}


class Attempt(Open, frozen=True, kw_only=True):
    """One call of one model, whether it worked or not, and what it took.

    `may_be_billed`: whether the provider may charge for it; then `usage` and `cost_usd` are its part of the
    result's, as observed or as estimated. `turn` numbers the model's turns, `counted` the calls of the turn that
    count toward `jobs.max_calls`, up to this one. `purpose` is absent for the first call of a turn.

    A `crashed` one was under way when the replica that made it fell silent: `attempt` is the job's.
    """

    model_id: str
    region: str
    outcome: Literal["ok", "error", "cancelled", "crashed"]
    error: ErrorInfo | None = None
    elapsed_ms: int = 0
    attempt: int | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    cost_usd: float | UnsetType | None = UNSET
    usage_basis: UsageBasis | UnsetType = UNSET
    may_be_billed: bool | UnsetType = UNSET
    turn: int | UnsetType = UNSET
    counted: int | UnsetType = UNSET
    purpose: Purpose | UnsetType = UNSET


FREE_KEPT_FIRST = 16
FREE_KEPT_LAST = 48


def worth_listing(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Calls as documents keep them: all that may be billed, of those that cost nothing the first and last ones.

    A job that is held through a long outage makes thousands of them.
    """
    if len(attempts) <= FREE_KEPT_FIRST + FREE_KEPT_LAST:
        return tuple(attempts)
    free = [at for at, call in enumerate(attempts) if call.may_be_billed is False]
    left_out = frozenset(free[FREE_KEPT_FIRST : max(FREE_KEPT_FIRST, len(free) - FREE_KEPT_LAST)])
    return tuple([call for at, call in enumerate(attempts) if at not in left_out])


class Child(Open, frozen=True, kw_only=True):
    """A job that this job started through the tool `llm.job`."""

    job: str
    state: TerminalState
    model: str | None = None
    usage: Usage = Usage()
    cost_usd: float | None = None


class Timings(Open, frozen=True, kw_only=True):
    """Milliseconds since the request was stored: until a worker had it, its first token, its result."""

    queued_ms: int = 0
    first_token_ms: int | None = None
    total_ms: int = 0


class ObjectRef(Open, frozen=True, kw_only=True):
    """An object in the Object Store: `size` in bytes, `sha256` of its content in hexadecimal."""

    bucket: str
    name: str
    size: int
    sha256: str


class Output(Open, frozen=True, kw_only=True):
    """`content` holds the answer's blocks in the request's own form, so that it can be sent back as it is.

    `messages` is there where the client has to go on after the sidecar ran tools itself: all messages that the job
    added to the request's, `content` included; the client adds the results that are its own.

    An output larger than the bus allows lies in `object`, as JSON of this same form; the other fields are then
    empty, and nothing is cut.
    """

    text: str = ""
    content: tuple[dict[str, Any], ...] = ()
    structured: Any = None
    messages: tuple[dict[str, Any], ...] = ()
    object: ObjectRef | None = None


class FilterReport(Open, frozen=True, kw_only=True):
    name: str
    action: Literal["redact", "block", "flag", "remove", "mark"]
    count: int
    kinds: dict[str, int] = {}
    on: Literal["output", "input"] = "output"


class Result(Open, frozen=True, kw_only=True):
    """Exactly one per job. `cost_usd` is None where no price is known (`warnings` says so)."""

    state: TerminalState
    output: Output = Output()
    stop_reason: StopReason | None = None
    model: str | None = None
    model_id: str | None = None
    usage: Usage = Usage()
    usage_basis: UsageBasis = "observed"
    cost_usd: float | None = None
    partial: bool = False
    error: ErrorInfo | None = None
    attempts: tuple[Attempt, ...] = ()
    children: tuple[Child, ...] = ()
    filters: tuple[FilterReport, ...] = ()
    warnings: tuple[str, ...] = ()
    timings: Timings = Timings()
    text_sha256: str | None = None
