"""Every error the product raises, by what can be done about it.

`Temporary` may go away by itself, `Permanent` will not, `JobCancelled` is an outcome that somebody asked
for. Adapters translate foreign exceptions into these, with `from e`; nothing foreign travels further in.
`asyncio.CancelledError` is never caught for good: it is how the process stops, not how a job ends.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

ErrorCode = Literal[
    "invalid_request",
    "unknown_model",
    "unknown_tool",
    "tenant_denied",
    "payload_too_large",
    "queue_full",
    "quota_exceeded",
    "budget_exceeded",
    "deadline_exceeded",
    "timeout",
    "throttled",
    "model_unavailable",
    "model_error",
    "stream_interrupted",
    "context_overflow",
    "access_denied",
    "guardrail_blocked",
    "output_invalid",
    "tool_failed",
    "too_many_turns",
    "crash_loop",
    "not_found",
    "rate_limited",
    "not_ready",
    "internal",
]

STATUS_CODES: Mapping[str, int] = {
    "invalid_request": 400,
    "budget_exceeded": 402,
    "tenant_denied": 403,
    "access_denied": 403,
    "unknown_model": 404,
    "unknown_tool": 404,
    "not_found": 404,
    "conflict": 409,
    "payload_too_large": 413,
    "context_overflow": 422,
    "guardrail_blocked": 422,
    "too_many_turns": 422,
    "queue_full": 429,
    "quota_exceeded": 429,
    "throttled": 429,
    "rate_limited": 429,
    "crash_loop": 500,
    "internal": 500,
    "model_error": 502,
    "stream_interrupted": 502,
    "output_invalid": 502,
    "tool_failed": 502,
    "model_unavailable": 503,
    "not_ready": 503,
    "deadline_exceeded": 504,
    "timeout": 504,
}
"""The number of each code in the header `Nats-Service-Error-Code`, after HTTP. `not_found`, `conflict`,
`rate_limited` and `not_ready` occur in error replies only, never in a result."""


class TokenCounts(NamedTuple):
    """Tokens of a call, as its provider counted them. `input_tokens` is without cache reads and writes."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


Reached = Literal["nowhere", "sent", "answered"]
"""How far a model call had come: refused or never sent, sent without a word back, or an answer had begun."""

HoldCause = Literal[
    "no_credentials",
    "credentials_expired",
    "credentials_invalid",
    "signature_refused",
    "clock_skewed",
    "unreachable",
    "model_unavailable",
]
"""Why calls are held that are no job's fault: the account's (all up to `clock_skewed`), an endpoint's
(`unreachable`), or a quota pool's (`model_unavailable`: its breaker is open)."""
ACCOUNT_CAUSES: frozenset[HoldCause] = frozenset(
    {"no_credentials", "credentials_expired", "credentials_invalid", "signature_refused", "clock_skewed"}
)


class SidecarError(Exception):
    """Root of all errors raised here.

    `code` is a code of the bus protocol, `details` are JSON-able facts for the caller. `inside` is a fuller
    message, for the operator alone. `hold` is the cause where the trouble is the operator's or the provider's and
    concerns more than this one call.

    Of a model call that failed, `reached` says how far it had come, `counted` what its provider said it took, and
    `heard_chars` how much of its answer came, of any kind; they decide what it is taken to have cost.
    """

    default_code: ClassVar[ErrorCode] = "internal"
    is_retryable: ClassVar[bool] = False
    hold: HoldCause | None = None

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code or self.default_code
        self.details: dict[str, Any] = dict(details or {})
        self.inside = ""
        self.reached: Reached = "nowhere"
        self.counted: TokenCounts | None = None
        self.heard_chars = 0

    @property
    def for_operator(self) -> str:
        """The message for a log or a terminal of whoever runs the process; `message` may go to tenants."""
        return self.inside or self.message


class Temporary(SidecarError):
    """May succeed later. `retry_after` is the other side's wish in seconds, where it gave one."""

    default_code: ClassVar[ErrorCode] = "model_unavailable"
    is_retryable = True

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retry_after = retry_after


class Permanent(SidecarError):
    """Will fail the same way however often it is tried."""


class GivenUp(SidecarError):
    """The job could not be brought to its end, through no fault of its request: sending it again may help."""

    is_retryable = True


class JobCancelled(SidecarError):
    """Somebody cancelled the job: an outcome, not a failure."""


class InvalidRequest(Permanent):
    """What was sent is not what the protocol asks for; `path` names the field, the message the remedy."""

    default_code: ClassVar[ErrorCode] = "invalid_request"

    def __init__(self, message: str, *, path: str = "", code: ErrorCode | None = None) -> None:
        super().__init__(message, code=code, details={"path": path} if path else None)
        self.path = path


class RateLimited(Temporary):
    """An endpoint has too many requests of this tenant before it; nothing was done. `retry_after`: seconds."""

    default_code: ClassVar[ErrorCode] = "rate_limited"

    def __init__(
        self, message: str, *, details: Mapping[str, Any] | None = None, retry_after: float | None = None
    ) -> None:
        known = {"retry_after_s": retry_after} if retry_after is not None else {}
        super().__init__(message, details={**known, **(details or {})}, retry_after=retry_after)


class NotReady(Temporary):
    """What is asked for cannot be told yet: ask again after `retry_after` seconds."""

    default_code: ClassVar[ErrorCode] = "not_ready"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, details={"retry_after_s": retry_after}, retry_after=retry_after)


class Throttled(Temporary):
    """The model's quota refused the call (HTTP 429)."""

    default_code: ClassVar[ErrorCode] = "throttled"


class DailyQuotaExhausted(Throttled):
    """The tokens-per-day limit is used up: backing off for seconds is of no use."""


class ModelUnavailable(Temporary):
    """The model's region refused or could not be reached: 5xx, connection trouble, not ready."""


class Unreachable(ModelUnavailable):
    """There was no connection to the endpoint: its name, its address or its TLS did not answer."""

    hold = "unreachable"


class AccountRefused(Temporary):
    """No model can be called with the sidecar's account as things are: no credentials, or AWS refuses them, the
    signature or its time. It is no job's fault, whatever the HTTP status, and ends when the operator mends it.
    """

    def __init__(self, message: str, *, cause: HoldCause, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.hold = cause


class JobHeld(SidecarError):
    """Nothing that the job may use can be called: it leaves its worker, and is begun again when something can.

    `since`: when its first call failed that way, seconds since 1970. Not a job's end.
    """

    default_code: ClassVar[ErrorCode] = "model_unavailable"
    is_retryable = True

    def __init__(self, cause: str, *, since: float, retry_after: float | None = None) -> None:
        super().__init__(f"held: {cause}", details={"held": cause, "since": since})
        self.cause = cause
        self.since = since
        self.retry_after = retry_after


class HeldTooLong(ModelUnavailable):
    """No model could be called for as long as the job's class may be held."""


class ModelFailed(Temporary):
    """The model broke while answering (HTTP 424, in-stream model error, an answer that is none)."""

    default_code: ClassVar[ErrorCode] = "model_error"


class StreamInterrupted(Temporary):
    """An answer broke off after it had begun: cut frame, missing messageStop, reset, stall."""

    default_code: ClassVar[ErrorCode] = "stream_interrupted"


class CallTimeout(Temporary):
    """A call exceeded one of its limits; `limit` is `connect`, `first_token`, `idle` or `total`."""

    default_code: ClassVar[ErrorCode] = "timeout"

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message, details={"limit": limit})
        self.limit = limit
        if limit == "connect":
            self.hold = "unreachable"


class ContextOverflow(Permanent):
    """The input does not fit the model's context window."""

    default_code: ClassVar[ErrorCode] = "context_overflow"


class AccessDenied(Permanent):
    """Credentials, model access or region do not allow the call."""

    default_code: ClassVar[ErrorCode] = "access_denied"


class TooCostly(Permanent):
    """What somebody sent costs more than it may: the worker that looked at it was ended, or would have been.

    Whoever asked for the work says of which field, and with which code. `kind` is `time`, `memory`, `depth`, or
    `died` where the worker's process ended without a word.
    """

    default_code: ClassVar[ErrorCode] = "invalid_request"

    def __init__(self, kind: Literal["time", "memory", "depth", "died"], *, limit_s: float = 0.0) -> None:
        said = {
            "time": f"took longer than {limit_s:g} s of processor time",
            "memory": "took more memory than it may",
            "depth": "is nested too deeply",
            "died": "ended the process that did it: too large or too deep",
        }
        super().__init__(said[kind])
        self.kind = kind


class Conflict(SidecarError):
    """A compare-and-set lost: somebody else wrote first. Also what an event of a fenced-out owner meets."""


class BusUnavailable(Temporary):
    """NATS did not answer in time or is away."""

    default_code: ClassVar[ErrorCode] = "internal"


class ProtocolViolation(BusUnavailable):
    """NATS sent what its protocol does not allow: the connection was ended, and another one is made."""


class BusRefused(Permanent):
    """NATS answered with an error that repeating does not mend (permissions, limits, missing stream)."""


class StartupError(Permanent):
    """The process cannot start as configured; the message says what to change."""
