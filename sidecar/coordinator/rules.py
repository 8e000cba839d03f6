"""The table of errors: what each class of failure allows. `docs/models.md` shows it, held against it by a test."""

from typing import Literal, NamedTuple

from sidecar.errors import (
    AccessDenied,
    AccountRefused,
    CallTimeout,
    ContextOverflow,
    DailyQuotaExhausted,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    Permanent,
    SidecarError,
    StreamInterrupted,
    Temporary,
    Throttled,
)

Scope = Literal["none", "pool", "model", "window"]


class FallbackRule(NamedTuple):
    """One row of the table.

    `delays_s`: the same candidate is tried again after each of them. `moves`: whether another candidate may
    help; a rule that does not is final. `excludes`: what the failure rules out for the rest of this job. `waits`:
    whether to wait and begin anew once all candidates were tried.
    """

    name: str
    delays_s: tuple[float, ...] = ()
    moves: bool = False
    excludes: Scope = "none"
    waits: bool = False
    why: str = ""


# Order matters: the first class that fits holds, so special ones come first.
_BY_CLASS: tuple[tuple[type[SidecarError], FallbackRule], ...] = (
    (
        DailyQuotaExhausted,
        FallbackRule(
            "DailyQuotaExhausted", moves=True, waits=True, why="the pool stays closed until the next UTC midnight"
        ),
    ),
    (Throttled, FallbackRule("Throttled", moves=True, waits=True, why="only this pool's quota is used up")),
    (
        ModelUnavailable,
        FallbackRule(
            "ModelUnavailable",
            delays_s=(0.2,),
            moves=True,
            waits=True,
            why="a lost connection is often the only one",
        ),
    ),
    (
        ModelFailed,
        FallbackRule(
            "ModelFailed",
            delays_s=(0.2,),
            moves=True,
            waits=True,
            why="broke on this answer, maybe not on the next",
        ),
    ),
    (
        StreamInterrupted,
        FallbackRule("StreamInterrupted", moves=True, waits=True, why="the pool is suspect, and tokens are spent"),
    ),
    (
        CallTimeout,
        FallbackRule("CallTimeout", moves=True, waits=True, why="the same wait on the same pool seldom helps"),
    ),
    (
        ContextOverflow,
        FallbackRule("ContextOverflow", moves=True, excludes="window", why="only a larger window helps"),
    ),
    (
        AccountRefused,
        FallbackRule("AccountRefused", moves=True, waits=True, why="no model can be called: the job is held"),
    ),
    (
        AccessDenied,
        FallbackRule("AccessDenied", moves=True, excludes="pool", why="another model or region may be allowed"),
    ),
    (InvalidRequest, FallbackRule("InvalidRequest", why="every model would refuse the same")),
    (
        Temporary,
        FallbackRule("other temporary errors", moves=True, waits=True, why="unknown trouble is taken as passing"),
    ),
    (SidecarError, FallbackRule("other permanent errors", why="would fail the same way elsewhere")),
)
OVERALL_TIMEOUT = FallbackRule("CallTimeout, total", why="the job's own time is over")
UNKNOWN_MODEL = FallbackRule(
    "unknown_model", moves=True, excludes="pool", why="this model is not in this region; the next one may be"
)
MODEL_SPECIFIC = FallbackRule(
    "InvalidRequest, model-specific", moves=True, excludes="model", why="this model alone refuses"
)
OVER_BUDGET = FallbackRule(
    "budget_exceeded", moves=True, excludes="model", why="what is left of the budget may pay for a cheaper model"
)
TABLE: tuple[FallbackRule, ...] = (
    *(rule for _, rule in _BY_CLASS),
    OVERALL_TIMEOUT,
    UNKNOWN_MODEL,
    MODEL_SPECIFIC,
    OVER_BUDGET,
)

# Words of Bedrock's ValidationException that blame the model or the way it was called, not the request.
_MODEL_WORDS = (
    "model identifier is invalid",
    "on-demand throughput",
    "doesn't support",
    "does not support",
    "not supported",
    "end of its life",
    "not available for this model",
)


def rule_of(error: SidecarError) -> FallbackRule:
    """The row that holds for `error`."""
    if isinstance(error, InvalidRequest) and is_model_specific(error):
        return MODEL_SPECIFIC
    if isinstance(error, CallTimeout) and error.limit == "total":
        return OVERALL_TIMEOUT
    if isinstance(error, Permanent) and error.code == "unknown_model":
        return UNKNOWN_MODEL
    if isinstance(error, Permanent) and error.code == "budget_exceeded":
        return OVER_BUDGET
    return next(rule for kind, rule in _BY_CLASS if isinstance(error, kind))


def is_model_specific(error: SidecarError) -> bool:
    """Whether another model may accept what this one refused: said by the adapter, or by Bedrock's own words."""
    said = error.details.get("model_specific")
    if said is not None:
        return bool(said)
    message = error.message.lower()
    return any(words in message for words in _MODEL_WORDS)
