"""What to do about a failed call: again here, on to the next candidate, wait, or give up.

The table is the documented one (`docs/models.md`, held against it by a test). Pure: time, chance and the health of
pools come in as arguments.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sidecar.coordinator.billing import bounded
from sidecar.coordinator.health import may_follow_request
from sidecar.coordinator.rules import FallbackRule, rule_of
from sidecar.errors import (
    ACCOUNT_CAUSES,
    CallTimeout,
    ContextOverflow,
    DailyQuotaExhausted,
    HoldCause,
    ModelUnavailable,
    SidecarError,
    StreamInterrupted,
    Temporary,
)
from sidecar.models.profile import Candidate

FIRST_WAIT_S = 1.0
MIN_WAIT_S = 0.25
MAX_WAIT_S = 30.0
# A candidate that failed a job so often by the provider's trouble is not waited for in the job's own time.
TRIES_BEFORE_HELD = 2
# One candidate, one way to fail: after so many times it is the request's.
MOST_ALIKE = 3
_ALL_DOWN = "every candidate has failed lately"


class Failure(NamedTuple):
    """A call that failed, `at` seconds since 1970; None: just now. `place`: characters of its answer that came."""

    candidate: Candidate
    error: SidecarError
    at: float | None = None
    place: int = 0


class Opening(NamedTuple):
    """A candidate that may be called from `at` (seconds since 1970) on."""

    candidate: Candidate
    at: float


class Retry(NamedTuple):
    """The same candidate again after `delay_s`. `new_attempt`: text was streamed, so output begins anew."""

    candidate: Candidate
    delay_s: float
    new_attempt: bool = False


class Next(NamedTuple):
    """Another candidate, now."""

    candidate: Candidate
    new_attempt: bool = False


class Wait(NamedTuple):
    """Nothing can be called at the moment: `candidate` after `delay_s`."""

    candidate: Candidate
    delay_s: float
    reason: str
    new_attempt: bool = False


class Final(NamedTuple):
    """The job fails with this error."""

    error: SidecarError


class Held(NamedTuple):
    """Nothing that the job may use can be called, through no fault of its own: it is held until something can.

    `shut` are pools whose breakers are open, each with the time until which (seconds since 1970).
    """

    cause: HoldCause
    shut: tuple[tuple[str, float], ...] = ()


Decision = Retry | Next | Wait | Held | Final


def decide(
    failures: Sequence[Failure],
    candidates: Sequence[Candidate],
    *,
    now: float,
    deadline: float | None,
    text_streamed: bool,
    on_interrupt: Literal["restart", "fail"],
    retry_at: Callable[[str], float],
    jitter: float = 0.5,
    can_hold: bool = False,
) -> Decision:
    """What follows the last of `failures` (all of this job, in order). `can_hold`: the job can be held.

    `retry_at(pool)`: when the pool's breaker lets a call through; now or earlier when it is closed. `deadline`:
    seconds since 1970 when the job's time is over. `jitter`: a random number from 0 to 1, spreads the delays.
    """
    last = failures[-1]
    rule = rule_of(last.error)
    if not rule.moves:
        return Final(last.error)
    if text_streamed and on_interrupt == "fail":
        return Final(_interrupted(last.error))
    if can_hold and last.error.hold in ACCOUNT_CAUSES:
        return Held(last.error.hold)
    if _follows_request(failures):
        return Final(bounded(last.error, "same_failure", times=MOST_ALIKE))
    retry = _retry(failures, rule, text_streamed=text_streamed, jitter=jitter)
    is_open = retry_at(last.candidate.route.pool) > now
    if retry is not None and not is_open and _has_time(retry.delay_s, now, deadline):
        return retry
    usable = [c for c in candidates if not _is_ruled_out(c, failures)]
    near = [c for c in usable if not _is_out_of_reach(c, failures)]
    fresh = _untried(near, failures, now=now, retry_at=retry_at)
    if fresh is not None:
        return Next(fresh, new_attempt=text_streamed)
    if can_hold and (held := _held(failures, usable, now=now, retry_at=retry_at)) is not None:
        return held
    return _wait(
        failures, usable, now=now, deadline=deadline, new_attempt=text_streamed, retry_at=retry_at, jitter=jitter
    )


def instead(
    candidates: Sequence[Candidate],
    failures: Sequence[Failure],
    *,
    now: float,
    deadline: float | None,
    retry_at: Callable[[str], float],
    jitter: float = 0.5,
    can_hold: bool = False,
) -> Next | Wait | Held | Final:
    """Whom to call where the breaker of the one that was meant is open: another, or the first to recover."""
    usable = [c for c in candidates if not _is_ruled_out(c, failures)]
    near = [c for c in usable if not _is_out_of_reach(c, failures)]
    fresh = _untried(near, failures, now=now, retry_at=retry_at)
    if fresh is not None:
        return Next(fresh)
    if can_hold and (held := _held(failures, usable, now=now, retry_at=retry_at)) is not None:
        return held
    return _wait(failures, usable, now=now, deadline=deadline, new_attempt=False, retry_at=retry_at, jitter=jitter)


def openings(
    candidates: Sequence[Candidate],
    failures: Sequence[Failure],
    *,
    first: Opening,
    stays: bool,
    now: float,
    retry_at: Callable[[str], float],
    jitter: float = 0.5,
) -> list[Opening]:
    """Everyone who may still answer the job, in the order of preference, each with the time from which on.

    `first` is whom the last decision named: nobody may be called before. `stays`: it is preferred to all others,
    for it is called again; else the order is that of `candidates`.
    """
    found: list[Opening] = []
    for candidate in candidates:
        pool = candidate.route.pool
        if pool == first.candidate.route.pool:
            found.append(first)
        elif not failures and retry_at(pool) <= now:
            found.append(Opening(candidate, max(first.at, now)))
        elif not _is_ruled_out(candidate, failures) and _may_recover(candidate, failures):
            due = _due(pool, failures, now=now, retry_at=retry_at)[0]
            found.append(Opening(candidate, max(first.at, now + _spread(due - now, jitter))))
    others = [opening for opening in found if opening is not first]
    return [first, *others] if stays or len(others) == len(found) else found


def _follows_request(failures: Sequence[Failure]) -> bool:
    """Whether a candidate failed the job in one way twice more, of the kinds that a request may cause."""
    last = failures[-1]
    if not may_follow_request(last.error):
        return False
    return sum(_is_alike(last, failure) for failure in failures) >= MOST_ALIKE


def _is_alike(one: Failure, other: Failure) -> bool:
    return (
        one.candidate.route.pool == other.candidate.route.pool
        and type(one.error) is type(other.error)
        and one.error.details.get("provider_code") == other.error.details.get("provider_code")
        and one.place == other.place
    )


def _retry(failures: Sequence[Failure], rule: FallbackRule, *, text_streamed: bool, jitter: float) -> Retry | None:
    pool = failures[-1].candidate.route.pool
    done = sum(1 for f in failures if f.candidate.route.pool == pool) - 1
    if done >= len(rule.delays_s):
        return None
    return Retry(failures[-1].candidate, _spread(rule.delays_s[done], jitter), new_attempt=text_streamed)


def _is_ruled_out(candidate: Candidate, failures: Sequence[Failure]) -> bool:
    return any(_rules_out(f, candidate) for f in failures)


def _rules_out(failure: Failure, candidate: Candidate) -> bool:
    scope = rule_of(failure.error).excludes
    if scope == "pool":
        return candidate.route.pool == failure.candidate.route.pool
    if scope == "model":
        return candidate.profile.model_id == failure.candidate.profile.model_id
    if scope == "window":
        return candidate.profile.context_tokens <= failure.candidate.profile.context_tokens
    return False


def _is_out_of_reach(candidate: Candidate, failures: Sequence[Failure]) -> bool:
    """Whether the job has found the candidate's endpoint to be unreachable: other models there are, too."""
    return any(
        f.error.hold == "unreachable" and f.candidate.route.region == candidate.route.region for f in failures
    )


def _held(
    failures: Sequence[Failure], usable: Sequence[Candidate], *, now: float, retry_at: Callable[[str], float]
) -> Held | None:
    """Whether the job is to be held: everyone left is out of reach, has an open breaker, or has failed this job
    twice and more by what is the provider's trouble.
    """
    hopeful = [c for c in usable if _may_recover(c, failures)]
    shut: list[tuple[str, float]] = []
    for candidate in hopeful:
        pool = candidate.route.pool
        mine = [f.error for f in failures if f.candidate.route.pool == pool]
        if _is_out_of_reach(candidate, failures):
            continue
        if mine and not is_providers_trouble(mine[-1]):
            # A quota comes again by itself; what may follow the request is the job's own, and its own time.
            return None
        if retry_at(pool) > now:
            shut.append((pool, retry_at(pool)))
        elif len([error for error in mine if is_providers_trouble(error)]) < TRIES_BEFORE_HELD:
            return None
    if not hopeful:
        return None
    is_endpoint = not shut and all(_is_out_of_reach(c, failures) for c in hopeful)
    return Held("unreachable" if is_endpoint else "model_unavailable", tuple(shut))


def is_providers_trouble(error: SidecarError) -> bool:
    """Whether a failure says nothing about the request and cost nothing: it never ends a job that has time."""
    if isinstance(error, CallTimeout):
        return error.limit in ("connect", "first_token")
    return isinstance(error, ModelUnavailable)


def _untried(
    usable: Sequence[Candidate], failures: Sequence[Failure], *, now: float, retry_at: Callable[[str], float]
) -> Candidate | None:
    """The first candidate that has not been called yet and can be now."""
    tried = {f.candidate.route.pool for f in failures}
    return next((c for c in usable if c.route.pool not in tried and retry_at(c.route.pool) <= now), None)


def _due(
    pool: str, failures: Sequence[Failure], *, now: float, retry_at: Callable[[str], float]
) -> tuple[float, int]:
    """When a pool may be called (again), and how often it failed: later with each failure, or as it asked."""
    mine = [f for f in failures if f.candidate.route.pool == pool]
    if not mine:
        return max(retry_at(pool), now), 0
    error, at = mine[-1].error, mine[-1].at
    asked_s = (error.retry_after or 0.0) if isinstance(error, Temporary) else 0.0
    return max(retry_at(pool), (now if at is None else at) + max(_backoff(len(mine)), asked_s), now), len(mine)


def _wait(
    failures: Sequence[Failure],
    usable: Sequence[Candidate],
    *,
    now: float,
    deadline: float | None,
    new_attempt: bool,
    retry_at: Callable[[str], float],
    jitter: float,
) -> Wait | Final:
    """Wait for the first pool that may recover, with delays that grow by each round over all of them."""
    hopeful = [c for c in usable if _may_recover(c, failures)]
    if not hopeful:
        return Final(_most_telling(failures))

    def due(candidate: Candidate) -> tuple[float, int]:
        return _due(candidate.route.pool, failures, now=now, retry_at=retry_at)

    chosen = min(hopeful, key=due)
    delay_s = _within(due(chosen)[0] - now, now=now, deadline=deadline)
    is_spent = deadline is not None and retry_at(chosen.route.pool) >= deadline and _is_daily(chosen, failures)
    if delay_s is None or is_spent:
        return Final(failures[-1].error if failures else ModelUnavailable(_ALL_DOWN))
    reason = f"every candidate failed, the last with {failures[-1].error.code}" if failures else _ALL_DOWN
    return Wait(chosen, _spread(delay_s, jitter), reason, new_attempt)


def _within(delay_s: float, *, now: float, deadline: float | None) -> float | None:
    """`delay_s`, or half of the time left where that is less; None when too little is left to try again."""
    if deadline is None or now + delay_s * 1.25 < deadline:
        return delay_s
    half_s = (deadline - now) / 2
    return half_s if half_s >= MIN_WAIT_S else None


def _is_daily(candidate: Candidate, failures: Sequence[Failure]) -> bool:
    """Whether the pool is closed until midnight: unlike a breaker's pause, nothing shortens that."""
    mine = [f.error for f in failures if f.candidate.route.pool == candidate.route.pool]
    return bool(mine) and isinstance(mine[-1], DailyQuotaExhausted)


def _most_telling(failures: Sequence[Failure]) -> SidecarError:
    """Of errors that are all for good: that the input is too long says more than that a stand-in was refused."""
    overflow = (f.error for f in failures if isinstance(f.error, ContextOverflow))
    return next(overflow, failures[-1].error)


def _may_recover(candidate: Candidate, failures: Sequence[Failure]) -> bool:
    mine = [f for f in failures if f.candidate.route.pool == candidate.route.pool]
    return not mine or rule_of(mine[-1].error).waits


def _backoff(count: int) -> float:
    return min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(max(count - 1, 0), 10))


def _spread(seconds: float, jitter: float) -> float:
    """`seconds` and up to a quarter more, so that jobs that failed together do not come back together."""
    return max(0.0, seconds) * (1.0 + 0.25 * jitter)


def _has_time(delay_s: float, now: float, deadline: float | None) -> bool:
    return deadline is None or now + delay_s < deadline


def _interrupted(cause: SidecarError) -> SidecarError:
    if isinstance(cause, StreamInterrupted):
        return cause
    return StreamInterrupted(
        f"the answer broke off after text had been streamed: {cause.message}", details={"cause": cause.code}
    )
