import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.coordinator import health
from sidecar.coordinator.health import CLOSED, Breaker, Caller, Speed
from sidecar.coordinator.pools import Pools
from sidecar.errors import (
    AccessDenied,
    CallTimeout,
    ContextOverflow,
    DailyQuotaExhausted,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    Permanent,
    SidecarError,
    StreamInterrupted,
    Throttled,
)
from tests.support.coordination import NOW

DOWN = ModelUnavailable("down")


def after(*errors: SidecarError, breaker: Breaker = CLOSED, now: float = NOW) -> Breaker:
    for error in errors:
        breaker = health.failed(breaker, error, now)
    return breaker


def test_three_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    assert health.phase(after(DOWN, DOWN), NOW) == "closed"
    assert health.phase(after(DOWN, DOWN, DOWN), NOW) == "open"

    mended = health.succeeded(after(DOWN, DOWN), NOW)
    assert health.phase(after(DOWN, DOWN, breaker=mended), NOW) == "closed"


CUT = ModelFailed("424")


def told(*failures: tuple[str, str, SidecarError], breaker: Breaker = CLOSED) -> str:
    """The phase after failures of (tenant, job)."""
    seen: set[tuple[str, str]] = set()
    for tenant, job, error in failures:
        breaker = health.failed(breaker, error, NOW, Caller(tenant, job, is_clean=(tenant, job) not in seen))
        seen.add((tenant, job))
    return health.phase(breaker, NOW)


def test_a_breaker_opens_on_failures_of_several_jobs_only() -> None:
    assert told(*[("acme", "j1", DOWN)] * 9) == "closed"
    assert told(("acme", "j1", DOWN), ("acme", "j1", DOWN), ("acme", "j2", DOWN)) == "open"


@pytest.mark.parametrize("error", [DOWN, CUT])
def test_one_tenants_failures_do_not_open_it_while_others_succeed(error: SidecarError) -> None:
    one = [("acme", f"j{n}", error) for n in range(20)]
    well = health.succeeded(CLOSED, NOW - 30, "other")

    assert told(*one, breaker=well) == "closed"
    assert told(*one[:2], ("third", "j1", error), breaker=well) == "open"
    # What may follow the request has to come from several tenants, whoever succeeds.
    assert told(*one) == ("open" if error is DOWN else "closed")


def test_what_repeats_for_the_same_job_is_no_evidence_at_all() -> None:
    poisoned = [("acme", "j1", CUT), ("other", "j2", CUT)] * 9
    assert told(*poisoned) == "closed"
    assert told(*poisoned, ("acme", "j3", CUT), ("other", "j4", CUT), ("acme", "j5", CUT)) == "open"


def test_a_probe_goes_to_a_job_with_a_clean_record_first() -> None:
    pools, clean = Pools(), Caller("acme", "clean")
    unclean = clean._replace(job="poisoned", is_clean=False)
    for n in range(3):
        pools.observe("p", DOWN, now=NOW, caller=Caller("acme", f"j{n}"))
    later = NOW + health.FIRST_OPEN_S

    assert pools.phase("p", later) == "half_open"
    assert pools.begin("p", now=later, caller=unclean) == ""
    assert pools.retry_at("p", later, unclean) == later + health.PROBE_LOOK_S
    assert pools.begin("p", now=later, caller=clean) == "probe"
    pools.observe("p", Throttled("429"), now=later, caller=clean)
    # Where nobody else comes, it may.
    assert pools.begin("p", now=later + health.UNCLEAN_WAIT_S, caller=unclean) == "probe"


def test_every_second_call_failing_opens_it_too() -> None:
    breaker = CLOSED
    phases = []
    for _ in range(20):
        breaker = health.failed(health.failed(health.succeeded(breaker, NOW), DOWN, NOW), DOWN, NOW)
        phases.append(health.phase(breaker, NOW))

    assert "open" in phases


@pytest.mark.parametrize(
    "error",
    [
        Throttled("429"),
        InvalidRequest("no"),
        ContextOverflow("long"),
        CallTimeout("late", limit="total"),
        Permanent("no"),
    ],
)
def test_what_is_not_the_pools_fault_leaves_it_closed(error: SidecarError) -> None:
    assert health.phase(after(*[error] * 50), NOW) == "closed"


@pytest.mark.parametrize(
    "error", [ModelFailed("broke"), StreamInterrupted("cut"), CallTimeout("late", limit="first_token")]
)
def test_what_is_the_pools_fault_opens_it(error: SidecarError) -> None:
    assert health.phase(after(error, error, error), NOW) == "open"


def test_pauses_double_with_each_failed_probe_up_to_a_bound() -> None:
    breaker, now, pauses = after(DOWN, DOWN, DOWN), NOW, []
    for _ in range(12):
        pauses.append(breaker.until - now)
        now = breaker.until
        assert health.phase(breaker, now) == "half_open"
        breaker = after(DOWN, breaker=health.probing(breaker, now), now=now)

    assert pauses[:4] == [5.0, 10.0, 20.0, 30.0]
    assert pauses[-1] == health.MAX_OPEN_S


def test_half_open_lets_one_probe_through_whose_success_closes_it() -> None:
    breaker = after(DOWN, DOWN, DOWN)
    later = breaker.until

    probing = health.probing(breaker, later)
    assert health.phase(probing, later) == "open"
    assert health.phase(health.succeeded(probing, later + 1), later + 1) == "closed"


def test_a_probe_that_is_never_told_of_expires() -> None:
    breaker = after(DOWN, DOWN, DOWN)
    probing = health.probing(breaker, breaker.until)

    assert health.phase(probing, breaker.until + health.PROBE_LEASE_S) == "half_open"


def test_others_look_again_soon_while_a_probe_is_under_way() -> None:
    breaker = after(DOWN, DOWN, DOWN)
    assert health.look_at(breaker, NOW) == breaker.until
    probing = health.probing(breaker, breaker.until)
    assert health.look_at(probing, breaker.until) == breaker.until + health.PROBE_LOOK_S


def test_a_probe_that_ends_without_a_verdict_frees_the_place() -> None:
    breaker = after(DOWN, DOWN, DOWN)
    probing = health.probing(breaker, breaker.until)

    assert health.phase(after(Throttled("429"), breaker=probing, now=breaker.until), breaker.until) == "half_open"


def test_a_daily_quota_closes_the_pool_until_midnight_whatever_older_calls_say() -> None:
    noon = health.next_utc_midnight(NOW) - 43_200
    breaker = health.succeeded(after(DailyQuotaExhausted("per day"), now=noon), noon + 5)

    assert health.phase(breaker, noon + 43_199) == "open"
    assert health.retry_at(breaker, noon + 10) == health.next_utc_midnight(NOW)
    assert health.phase(breaker, noon + 43_200) == "half_open"


@pytest.mark.parametrize("error", [AccessDenied("no"), Permanent("gone", code="unknown_model")])
def test_a_denied_pool_is_avoided_but_can_be_called_at_once(error: SidecarError) -> None:
    breaker = after(error)

    assert health.phase(breaker, NOW) == "denied"
    assert health.retry_at(breaker, NOW) == NOW
    assert health.phase(breaker, NOW + health.DENIED_S) == "closed"
    assert health.phase(health.succeeded(breaker, NOW), NOW) == "closed"


ERRORS = st.sampled_from(
    [
        DOWN,
        ModelFailed("x"),
        Throttled("x"),
        DailyQuotaExhausted("x"),
        AccessDenied("x"),
        InvalidRequest("x"),
        StreamInterrupted("x"),
        None,
        "probe",
    ]
)


@given(st.lists(st.tuples(ERRORS, st.floats(0, 4_000)), max_size=80))
def test_no_breaker_is_ever_stuck(story: list[tuple[SidecarError | str | None, float]]) -> None:
    breaker, now = CLOSED, NOW
    for event, elapsed in story:
        now += elapsed
        if event == "probe":
            breaker = health.probing(breaker, now)
        elif isinstance(event, SidecarError):
            breaker = health.failed(breaker, event, now)
        else:
            breaker = health.succeeded(breaker, now)
        at = health.retry_at(breaker, now)
        assert now <= at <= now + health.DAY_S + health.PROBE_LEASE_S
        assert health.phase(breaker, at) != "open"

    now = health.retry_at(breaker, now)
    assert health.phase(health.succeeded(health.probing(breaker, now), now), now) == "closed"


def test_speed_is_averaged_and_what_was_not_measured_stays() -> None:
    first = health.measured(Speed(), first_token_s=1.0, tokens_per_s=None)
    second = health.measured(first, first_token_s=2.0, tokens_per_s=50.0)

    assert first == Speed(first_token_s=1.0, tokens_per_s=None)
    assert second.first_token_s == pytest.approx(1.2)
    assert second.tokens_per_s == 50.0
