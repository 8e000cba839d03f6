import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.coordinator import fallback, rules
from sidecar.coordinator.fallback import Decision, Failure, Final, Next, Retry, Wait
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
    Temporary,
    Throttled,
)
from sidecar.models.profile import Candidate
from tests.support.coordination import NOW, candidate

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"
A, B, C = candidate("a"), candidate("b"), candidate("c")
TEMPORARY: list[SidecarError] = [
    Throttled("429"),
    ModelUnavailable("503"),
    CallTimeout("late", limit="idle"),
    Temporary("odd"),
]


def decide(
    *failures: tuple[Candidate, SidecarError], among: tuple[Candidate, ...] = (A, B), **fields: Any
) -> Decision:
    plain: dict[str, Any] = {
        "now": NOW,
        "deadline": NOW + 600,
        "text_streamed": False,
        "on_interrupt": "restart",
        "retry_at": lambda pool: 0.0,
        "jitter": 0.0,
    }
    return fallback.decide([Failure(c, e) for c, e in failures], among, **{**plain, **fields})


@pytest.mark.parametrize("error", [ModelUnavailable("503"), ModelFailed("424")])
def test_one_quick_retry_in_place_then_the_next(error: SidecarError) -> None:
    assert decide((A, error)) == Retry(A, 0.2)
    assert decide((A, error), (A, error)) == Next(B)


@pytest.mark.parametrize(
    "error",
    [Throttled("429"), StreamInterrupted("cut"), CallTimeout("late", limit="first_token"), Temporary("odd")],
)
def test_the_next_candidate_at_once(error: SidecarError) -> None:
    assert decide((A, error)) == Next(B)


@pytest.mark.parametrize("error", TEMPORARY, ids=lambda e: type(e).__name__)
def test_when_all_failed_in_passing_ways_it_waits_with_growing_delays(error: SidecarError) -> None:
    first = decide((A, error), (A, error), (B, error), (B, error))
    later = decide(*[(c, error) for c in (A, B)] * 5)
    late = decide(*[(c, error) for c in (A, B)] * 50)

    assert isinstance(first, Wait)
    assert isinstance(later, Wait)
    assert isinstance(late, Wait)
    assert 0 < first.delay_s < later.delay_s < late.delay_s <= fallback.MAX_WAIT_S


@pytest.mark.parametrize("error", [ModelFailed("424"), StreamInterrupted("cut")], ids=["424", "cut"])
def test_the_same_failure_twice_more_at_one_candidate_is_the_requests_and_ends_the_job(
    error: SidecarError,
) -> None:
    other = type(error)("it broke", details={"provider_code": "another"})

    assert not isinstance(decide(*[(A, error)] * 2, among=(A,)), Final)
    final = decide(*[(A, error)] * 3, among=(A, B))
    assert isinstance(final, Final)
    assert (final.error.code, final.error.details["limit"]) == (error.code, "same_failure")
    assert error.details == {}
    for story in (
        [(A, error), (B, error)] * 2,
        [(A, error), (A, other)] * 2,
        [(A, error), (A, Throttled("429"))] * 2,
    ):
        assert not isinstance(decide(*story, among=(A, B)), Final)
    places = [Failure(A, error, place=place) for place in (10, 20, 30)]
    assert not isinstance(
        fallback.decide(
            places,
            (A,),
            now=NOW,
            deadline=None,
            text_streamed=True,
            on_interrupt="restart",
            retry_at=lambda _: 0.0,
        ),
        Final,
    )


def test_a_throttled_pool_is_left_alone_as_long_as_it_asked() -> None:
    decision = decide((A, Throttled("429", retry_after=7.0)), among=(A,))

    assert isinstance(decision, Wait)
    assert (decision.candidate, decision.delay_s) == (A, 7.0)


def test_of_two_throttled_pools_the_one_that_recovers_first_is_waited_for() -> None:
    decision = decide((A, Throttled("429", retry_after=20.0)), (B, Throttled("429", retry_after=3.0)))

    assert isinstance(decision, Wait)
    assert (decision.candidate, decision.delay_s) == (B, 3.0)


def test_open_breakers_are_passed_over_and_then_waited_for() -> None:
    opens = {B.route.pool: NOW + 12}
    decision = decide((A, Throttled("429")), among=(A, B, C), retry_at=lambda pool: opens.get(pool, 0.0))
    waiting = decide((A, AccessDenied("no")), among=(A, B), retry_at=lambda pool: opens.get(pool, 0.0))

    assert decision == Next(C)
    assert isinstance(waiting, Wait)
    assert (waiting.candidate, waiting.delay_s) == (B, 12.0)


def test_denied_moves_on_and_is_final_when_all_are() -> None:
    error = AccessDenied("no")

    assert decide((A, error)) == Next(B)
    assert decide((A, error), (B, error)) == Final(error)


def test_a_model_unknown_in_its_region_moves_on() -> None:
    assert decide((A, Permanent("gone", code="unknown_model"))) == Next(B)


def test_denied_last_does_not_hide_that_the_first_may_recover() -> None:
    decision = decide((A, Throttled("429")), (B, AccessDenied("no")))

    assert isinstance(decision, Wait)
    assert decision.candidate == A


def test_an_overflow_goes_to_a_larger_window_only() -> None:
    small, same, large = candidate("s", context_tokens=10), candidate("e", context_tokens=10), candidate("l")
    error = ContextOverflow("too long")

    assert decide((small, error), among=(small, same, large)) == Next(large)
    assert decide((large, error), among=(small, same, large)) == Final(error)
    assert decide((small, error), (large, AccessDenied("no")), among=(small, large)) == Final(error)


def test_a_bad_request_is_final_unless_the_model_alone_is_to_blame() -> None:
    other = candidate("o", model="other")
    bad = InvalidRequest("messages must alternate")
    picky = InvalidRequest("This model doesn't support tool use.")
    said = InvalidRequest("refused")
    said.details["model_specific"] = True

    assert decide((A, bad)) == Final(bad)
    assert decide((A, picky), among=(A, B, other)) == Next(other)
    assert decide((A, said), among=(A, B, other)) == Next(other)
    assert isinstance(decide((A, Permanent("no"))), Final)


def test_after_text_the_answer_starts_again_as_a_new_attempt() -> None:
    assert decide((A, StreamInterrupted("cut")), text_streamed=True) == Next(B, new_attempt=True)
    assert decide((A, ModelFailed("broke")), text_streamed=True) == Retry(A, 0.2, new_attempt=True)
    waiting = decide((A, Throttled("429")), among=(A,), text_streamed=True)
    assert isinstance(waiting, Wait)
    assert waiting.new_attempt


@pytest.mark.parametrize("error", TEMPORARY, ids=lambda e: type(e).__name__)
def test_after_text_a_request_that_forbids_it_fails_as_interrupted(error: SidecarError) -> None:
    decision = decide((A, error), text_streamed=True, on_interrupt="fail")

    assert isinstance(decision, Final)
    assert decision.error.code == "stream_interrupted"
    assert decide((A, error), text_streamed=False, on_interrupt="fail") != decision


def test_the_jobs_own_time_being_over_is_final() -> None:
    error = CallTimeout("over", limit="total")

    assert decide((A, error)) == Final(error)


def test_a_used_up_day_is_final_only_when_the_job_cannot_outlive_it() -> None:
    error = DailyQuotaExhausted("per day")
    midnight: dict[str, Any] = {"among": (A,), "retry_at": lambda pool: NOW + 5_000}

    assert decide((A, error), **midnight) == Final(error)
    assert decide((A, error), deadline=None, **midnight) == Wait(
        A, 5_000, "every candidate failed, the last with throttled"
    )
    assert isinstance(decide((A, error), **{**midnight, "deadline": NOW + 6_000}), Wait)


def test_waits_get_shorter_towards_the_deadline_and_never_pass_it() -> None:
    now, deadline, calls = NOW, NOW + 10, 0
    failures = [(A, Throttled("429"))]
    while isinstance(decision := decide(*failures, among=(A,), now=now, deadline=deadline, jitter=1.0), Wait):
        now += decision.delay_s
        calls += 1
        assert now < deadline
        failures.append((A, Throttled("429")))

    assert deadline - now < 1.0
    assert calls < 20


@given(
    story=st.lists(st.tuples(st.sampled_from([A, B, C]), st.sampled_from(TEMPORARY)), min_size=1, max_size=30),
    opens=st.dictionaries(st.sampled_from(["a@us-east-1", "b@us-east-1", "c@us-east-1"]), st.floats(0, 300)),
    left_s=st.floats(1.0, 5_000),
    jitter=st.floats(0, 1),
)
def test_nothing_passing_is_final_while_time_is_left(
    story: list[tuple[Candidate, SidecarError]], opens: dict[str, float], left_s: float, jitter: float
) -> None:
    decision = decide(
        *story,
        among=(A, B, C),
        deadline=NOW + left_s,
        retry_at=lambda pool: NOW + opens.get(pool, 0.0),
        jitter=jitter,
    )

    assert not isinstance(decision, Final)
    delay_s = 0.0 if isinstance(decision, Next) else decision.delay_s
    assert 0 <= delay_s < left_s


def instead(*failures: tuple[Candidate, SidecarError], **fields: Any) -> Decision:
    plain: dict[str, Any] = {"now": NOW, "deadline": NOW + 600, "retry_at": lambda pool: 0.0, "jitter": 0.0}
    return fallback.instead((A, B), [Failure(c, e) for c, e in failures], **{**plain, **fields})


def test_instead_of_an_open_breaker_another_candidate_is_called_or_the_first_to_recover() -> None:
    def is_open(**until: float) -> Any:
        return lambda pool: NOW + until.get(pool.partition("@")[0], 0.0)

    assert instead(retry_at=is_open(a=5)) == Next(B)
    assert instead((A, ModelUnavailable("503")), retry_at=is_open(a=5)) == Next(B)
    assert instead(retry_at=is_open(a=9, b=5)) == Wait(B, 5.0, "every candidate has failed lately")
    waits = instead((A, AccessDenied("no")), retry_at=is_open(b=5))
    assert isinstance(waits, Wait)
    assert waits.candidate == B
    late = instead(retry_at=is_open(a=5, b=5), deadline=NOW + 0.1)
    assert isinstance(late, Final)
    assert isinstance(late.error, ModelUnavailable)


def test_a_spent_budget_rules_out_the_model_and_is_final_when_it_was_the_last() -> None:
    spent = Permanent("no money", code="budget_exceeded")
    other = candidate("c", model="cheap")
    assert decide((A, spent), among=(A, other)) == Next(other)
    assert decide((A, spent), among=(A, B)) == Final(spent)


def test_the_document_shows_the_table() -> None:
    shown = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?([^|`]+?)`? \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", shown, re.M)
    documented = [tuple(cell.strip() for cell in found) for found in rows if found[0] != "error"]

    assert [r for r in documented if not r[0].startswith("---")] == [as_documented(rule) for rule in rules.TABLE]


def as_documented(rule: rules.FallbackRule) -> tuple[str, str, str, str, str, str]:
    retried = "no" if not rule.delays_s else ", ".join(f"after {d} s" for d in rule.delays_s)
    left = "wait, try again" if rule.waits else "final"
    end = left if rule.moves else "final at once"
    excludes = {"none": "nothing", "pool": "this pool", "model": "this model", "window": "windows not larger"}
    return (rule.name, retried, "yes" if rule.moves else "no", excludes[rule.excludes], end, rule.why)
