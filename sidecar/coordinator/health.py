"""Circuit breakers and measured speed, one of each for a pool: pure, `now` comes in as an argument.

A breaker is closed, open until a time, or half-open: past that time one probe may go through. A probe is a lease,
so that one whose outcome is never told cannot hold the breaker for ever. What throttles is the quota's matter and
leaves breakers alone; a used-up daily quota opens one until the next UTC midnight.

A breaker opens on evidence: failures of several jobs, and not of one tenant's alone while others' calls succeed.
What may follow the request (424, an answer that cannot be read, a stream that breaks) has to come from several
tenants, and where it repeats for one job it is that job's, and no evidence at all.
"""

from typing import Literal, NamedTuple

from sidecar.errors import (
    AccessDenied,
    CallTimeout,
    DailyQuotaExhausted,
    ModelFailed,
    ModelUnavailable,
    SidecarError,
    StreamInterrupted,
)

CONSECUTIVE_FAILURES = 3
ERROR_RATE = 0.5
MIN_SAMPLES = 8
FIRST_OPEN_S = 5.0
# No longer than until the next probe of what is held: a recovery is noticed within it.
MAX_OPEN_S = 30.0
DENIED_S = 300.0
PROBE_LEASE_S = 60.0
PROBE_LOOK_S = 1.0
DAY_S = 86_400.0
# How many failing calls are remembered, and how long a success speaks for the pool.
MOST_EVIDENCE = 8
SPEAKS_S = 60.0
# A job that failed by what may follow its request leaves probes to others for so long.
UNCLEAN_WAIT_S = 10.0
_RATE_WEIGHT = 0.15
_SPEED_WEIGHT = 0.2

Phase = Literal["closed", "open", "half_open", "denied"]


class Caller(NamedTuple):
    """Whose call it is. `is_clean`: nothing that may follow its request has failed the job."""

    tenant: str
    job: str
    is_clean: bool = True


class Breaker(NamedTuple):
    """`until`: when an open breaker lets a probe through. `probe_until`: a probe is under way until then.

    `failures` counts those in a row, `evidence` are the last failing callers, `well` the last two tenants whose
    calls succeeded, with the time.
    """

    failures: int = 0
    samples: int = 0
    error_rate: float = 0.0
    times_opened: int = 0
    until: float = 0.0
    probe_until: float = 0.0
    is_denied: bool = False
    reason: str = ""
    evidence: tuple[Caller | None, ...] = ()
    well: tuple[tuple[str, float], ...] = ()


class Speed(NamedTuple):
    """Moving averages; None until measured."""

    first_token_s: float | None = None
    tokens_per_s: float | None = None


class Success(NamedTuple):
    """A call that worked, with what was measured of it."""

    first_token_s: float | None = None
    tokens_per_s: float | None = None


CLOSED = Breaker()


def is_failure(error: SidecarError) -> bool:
    """Whether the error speaks against the pool, rather than the request, the quota, the caller's clock, or what
    every pool of the account or the endpoint would meet.
    """
    if error.hold is not None:
        return False
    if isinstance(error, CallTimeout):
        return error.limit != "total"
    return isinstance(error, ModelUnavailable | ModelFailed | StreamInterrupted)


def may_follow_request(error: SidecarError) -> bool:
    """Whether the same request may fail the same way each time: 424, an answer that is none, a broken stream."""
    return isinstance(error, ModelFailed | StreamInterrupted)


def phase(breaker: Breaker, now: float) -> Phase:
    if breaker.until == 0.0:
        return "closed"
    if breaker.is_denied:
        return "denied" if now < breaker.until else "closed"
    return "open" if now < breaker.until or now < breaker.probe_until else "half_open"


def retry_at(breaker: Breaker, now: float) -> float:
    """When a call may be tried at the latest; `now` where it may at once."""
    if phase(breaker, now) != "open":
        return now
    return max(breaker.until, breaker.probe_until)


def look_at(breaker: Breaker, now: float) -> float:
    """When to look whether a call may be tried: as `retry_at`, but soon where only a probe is under way."""
    return retry_at(breaker, now) if now < breaker.until else min(retry_at(breaker, now), now + PROBE_LOOK_S)


def probing(breaker: Breaker, now: float) -> Breaker:
    """The breaker after a call was begun; takes the one probe of a half-open breaker."""
    if phase(breaker, now) != "half_open":
        return breaker
    return breaker._replace(probe_until=now + PROBE_LEASE_S)


def succeeded(breaker: Breaker, now: float, tenant: str | None = None) -> Breaker:
    """A success closes the breaker, except the one of a daily quota that another call found used up."""
    if breaker.until > now and not breaker.is_denied and breaker.probe_until == 0.0:
        return breaker
    well = breaker.well
    if tenant is not None:
        # The last of two tenants: enough to say whether anybody but one had a success.
        well = (*[seen for seen in well if seen[0] != tenant][-1:], (tenant, now))
    return Breaker(
        samples=min(breaker.samples + 1, MIN_SAMPLES),
        error_rate=_decayed(breaker, 0.0),
        evidence=breaker.evidence,
        well=well,
    )


def failed(breaker: Breaker, error: SidecarError, now: float, caller: Caller | None = None) -> Breaker:
    """The breaker after `error`. `caller` None: somebody of whom nothing is known, each time another."""
    if isinstance(error, DailyQuotaExhausted):
        return breaker._replace(until=next_utc_midnight(now), probe_until=0.0, reason="daily quota used up")
    if isinstance(error, AccessDenied) or error.code == "unknown_model":
        return breaker._replace(until=now + DENIED_S, probe_until=0.0, is_denied=True, reason=error.code)
    if not is_failure(error):
        return breaker._replace(probe_until=0.0)
    if caller is not None and may_follow_request(error) and _failed_before(caller, breaker):
        return _acquitted(breaker, caller)
    counted = breaker._replace(
        failures=breaker.failures + 1,
        evidence=(*breaker.evidence, caller)[-MOST_EVIDENCE:],
        samples=min(breaker.samples + 1, MIN_SAMPLES),
        error_rate=_decayed(breaker, 1.0),
        probe_until=0.0,
    )
    is_due = _is_due(breaker, counted, now, follows=may_follow_request(error))
    return _opened(counted, error, now) if is_due else counted


def _failed_before(caller: Caller, breaker: Breaker) -> bool:
    """Whether the job failed before, here or, by what may follow its request, at another candidate."""
    return not caller.is_clean or any(_is_same(caller, seen) for seen in breaker.evidence)


def _is_same(caller: Caller, other: Caller | None) -> bool:
    return other is not None and (caller.tenant, caller.job) == (other.tenant, other.job)


def _acquitted(breaker: Breaker, caller: Caller) -> Breaker:
    """What failed follows the caller's request: none of its failures speaks against the pool."""
    last = breaker.evidence[-breaker.failures :] if breaker.failures else ()
    own = sum(_is_same(caller, seen) for seen in last)
    kept = tuple([seen for seen in breaker.evidence if not _is_same(caller, seen)])
    return breaker._replace(failures=max(0, breaker.failures - own), evidence=kept, probe_until=0.0)


def _is_due(before: Breaker, counted: Breaker, now: float, *, follows: bool) -> bool:
    if before.until > now and not before.is_denied:
        return False
    if before.until > 0.0 and not before.is_denied:
        return True
    in_a_row = counted.failures >= CONSECUTIVE_FAILURES
    is_often = counted.samples >= MIN_SAMPLES and counted.error_rate > ERROR_RATE
    if not in_a_row and not is_often:
        return False
    return _is_enough(
        counted.evidence[-counted.failures :] if in_a_row else counted.evidence, counted, now, follows
    )


def _is_enough(evidence: tuple[Caller | None, ...], breaker: Breaker, now: float, follows: bool) -> bool:
    """Whether failures come from several jobs, and not from one tenant's alone while others succeed."""
    known = [caller for caller in evidence if caller is not None]
    if len(known) < len(evidence):
        return True
    tenants = {caller.tenant for caller in known}
    if len(tenants) > 1:
        return True
    is_one_job = len({caller.job for caller in known}) < 2
    others_are_well = any(tenant not in tenants and now - at < SPEAKS_S for tenant, at in breaker.well)
    return not (is_one_job or follows or others_are_well)


def _opened(breaker: Breaker, error: SidecarError, now: float) -> Breaker:
    open_s = min(MAX_OPEN_S, FIRST_OPEN_S * 2.0 ** min(breaker.times_opened, 10))
    return breaker._replace(
        failures=0,
        times_opened=breaker.times_opened + 1,
        until=now + open_s,
        is_denied=False,
        reason=error.code,
    )


def _decayed(breaker: Breaker, outcome: float) -> float:
    return breaker.error_rate + _RATE_WEIGHT * (outcome - breaker.error_rate)


def next_utc_midnight(now: float) -> float:
    return (now // DAY_S + 1) * DAY_S


def measured(speed: Speed, *, first_token_s: float | None, tokens_per_s: float | None) -> Speed:
    return Speed(
        first_token_s=_average(speed.first_token_s, first_token_s),
        tokens_per_s=_average(speed.tokens_per_s, tokens_per_s),
    )


def _average(before: float | None, sample: float | None) -> float | None:
    if sample is None:
        return before
    return sample if before is None else before + _SPEED_WEIGHT * (sample - before)
