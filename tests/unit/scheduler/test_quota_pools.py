"""Quota pools: what is reserved, given back and learned."""

from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sidecar.models.profile import QuotaLimits
from sidecar.scheduler.buckets import Bucket
from sidecar.scheduler.quota import BURST_S, UTILISATION, Pool

TPM = 60_000
RATE = TPM * UTILISATION / 60


def pool(**limits: object) -> Pool:
    return Pool("model@region", QuotaLimits(**{"tokens_per_minute": TPM, **limits}), now=0.0)  # type: ignore[arg-type]


def test_a_pool_starts_with_a_burst_of_fifteen_seconds_at_98_percent() -> None:
    assert pool().tokens.level == pytest.approx(RATE * BURST_S)


def test_a_reservation_is_input_and_the_larger_of_max_tokens_and_the_predicted_burndown() -> None:
    tested = pool(burndown=5.0)
    assert tested.need(input_tokens=100, max_tokens=1_000, predicted_output=100) == 1_100
    assert tested.need(input_tokens=100, max_tokens=1_000, predicted_output=400) == 2_100


def test_settlement_gives_back_what_was_not_used() -> None:
    tested = pool()
    tested.reserve(5_000, 0.0)
    tested.settle(5_000, 1_200, 0.0)
    assert tested.tokens.level == pytest.approx(RATE * BURST_S - 1_200)
    assert tested.in_flight == 0


def test_a_call_that_used_more_than_reserved_leaves_a_debt_that_is_waited_for() -> None:
    tested = pool()
    level = tested.tokens.level
    tested.reserve(level, 0.0)
    tested.settle(level, level + 2 * RATE, 0.0)
    assert not tested.fits(1, 1.9)
    assert tested.fits(1, 2.1)


def test_undo_leaves_no_trace() -> None:
    tested = pool(requests_per_minute=60)
    before = (tested.tokens.level, tested.requests and tested.requests.level, tested.day_used)
    tested.reserve(700, 0.0)
    tested.undo(700, now=0.0)
    assert (tested.tokens.level, tested.requests and tested.requests.level, tested.day_used) == before


def test_a_big_call_waits_until_the_bucket_holds_it_beyond_the_usual_burst() -> None:
    tested = pool()
    need = 45_000
    assert not tested.fits(need, 0.0)
    wait = tested.wait_s(need, now=0.0)
    assert wait == pytest.approx((need - RATE * BURST_S) / RATE)
    assert not tested.fits(need, wait - 0.01)
    assert tested.fits(need, wait + 0.001)
    tested.reserve(need, wait + 0.001)
    tested.refill(wait + 1_000)
    assert tested.tokens.level == pytest.approx(RATE * BURST_S)


def test_requests_are_bounded_beside_tokens() -> None:
    tested = pool(requests_per_minute=60)
    granted = 0
    while tested.fits(1, 0.0):
        tested.reserve(1, 0.0)
        granted += 1
    assert granted == 14
    assert tested.wait_s(1, now=0.0) == pytest.approx((1 - 0.7) / 0.98)


def test_concurrency_is_bounded_and_only_the_end_of_a_call_helps() -> None:
    tested = pool(max_concurrency=2)
    tested.reserve(1, 0.0)
    tested.reserve(1, 0.0)
    assert not tested.fits(1, 100.0)
    assert tested.wait_s(1, now=100.0) == inf
    tested.settle(1, 1, 100.0)
    assert tested.fits(1, 100.0)


def test_tokens_a_day_close_the_pool_until_the_day_ends() -> None:
    tested = Pool("m@r", QuotaLimits(tokens_per_minute=TPM, tokens_per_day=10_000), now=0.0, epoch=86_400 - 600)
    tested.reserve(9_000, 0.0)
    tested.settle(9_000, 9_000, 0.0)
    assert not tested.fits(2_000, 60.0)
    assert tested.wait_s(2_000, now=60.0) == pytest.approx(540)
    assert tested.fits(2_000, 601.0)


def test_a_429_takes_a_tenth_at_most_once_a_second_and_it_grows_back() -> None:
    tested = pool()
    for _ in range(5):
        tested.throttled("quota", now=10.0, retry_after=None)
    assert tested.factor == pytest.approx(0.9)
    tested.throttled("quota", now=11.0, retry_after=None)
    assert tested.factor == pytest.approx(0.81, abs=0.01)
    tested.refill(11.0 + 60)
    assert tested.factor == pytest.approx(0.91, abs=0.01)
    tested.refill(11.0 + 180)
    assert tested.factor == 1.0


def test_after_a_429_the_pool_pauses_longer_each_time_in_a_row_and_starts_from_empty() -> None:
    tested = pool()
    pauses = []
    now = 0.0
    for _ in range(7):
        tested.reserve(500, now)
        tested.throttled("quota", now=now, retry_after=None)
        tested.undo(500, now=now)
        assert not tested.fits(2_000, now)
        pauses.append(tested.closed_until - now)
        now += 20.0
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    tested.answered(100, 1.0, granted_at=now - 21.0)
    tested.throttled("quota", now=now, retry_after=None)
    assert tested.closed_until == now + 8.0
    tested.answered(100, 1.0, granted_at=now + 9.0)
    tested.throttled("quota", now=now + 10, retry_after=None)
    assert tested.closed_until == now + 10.5


def test_one_503_teaches_nothing_but_three_in_ten_seconds_halve_the_rate_for_a_while() -> None:
    tested = pool()
    tested.throttled("region", now=1.0, retry_after=None)
    assert tested.factor == 1.0
    tested.succeeded(now=1.5)
    for at in (2.0, 3.0):
        tested.throttled("region", now=at, retry_after=None)
    assert tested.factor == 1.0
    tested.throttled("region", now=4.0, retry_after=None)
    assert tested.factor == 0.5
    tested.refill(18.0)
    assert tested.factor == 0.5
    tested.refill(80.0)
    assert 0.5 < tested.factor < 0.7


def test_retry_after_is_honoured() -> None:
    tested = pool()
    tested.throttled("quota", now=5.0, retry_after=7.0)
    assert not tested.fits(1, 11.9)
    assert tested.wait_s(1, now=6.0) == pytest.approx(6.0)
    assert tested.fits(1, 12.0)


def test_not_ready_says_nothing_about_the_rate_and_one_call_probes() -> None:
    tested = pool()
    tested.throttled("not_ready", now=0.0, retry_after=None)
    assert tested.factor == 1.0
    assert not tested.fits(1, 4.0)
    assert tested.fits(1, 6.0)
    tested.reserve(1, 6.0)
    assert not tested.fits(1, 6.0)
    tested.succeeded(now=6.5)
    assert tested.fits(1, 6.5)


def test_the_daily_limit_is_not_retried_but_probed_by_one_call_an_hour() -> None:
    tested = Pool("m@r", QuotaLimits(tokens_per_minute=TPM), now=0.0, epoch=3_600 * 10)
    tested.throttled("daily", now=0.0, retry_after=None)
    assert tested.factor == 1.0
    assert not tested.fits(1, 3_599.0)
    assert tested.fits(1, 3_600.0)
    tested.reserve(1, 3_600.0)
    assert not tested.fits(1, 3_600.0)


def flood(tested: Pool, begin: float, end: float, *, call: float = 500) -> float:
    """Make as many calls as the pool lets through. Returns the time at which that ends."""
    now = begin
    while now < end:
        now += 0.1
        for _ in range(10_000):
            if not tested.fits(call, now):
                break
            tested.reserve(call, now)
            tested.settle(call, call, now)
    return now


def test_an_unknown_quota_doubles_each_second_while_it_is_the_limit() -> None:
    tested = Pool("m@r", QuotaLimits(), now=0.0)
    assert tested.tokens_per_minute == 1_000_000
    now = flood(tested, 0.0, 3.0, call=5_000)
    assert 4_000_000 < tested.tokens_per_minute <= 8_300_000
    learned = tested.tokens_per_minute
    tested.refill(now + 600)
    assert tested.tokens_per_minute == pytest.approx(learned, rel=0.1)


def test_an_unknown_quota_that_nobody_exhausts_stays_where_it_is() -> None:
    tested = Pool("m@r", QuotaLimits(), now=0.0)
    for now in range(1, 100):
        assert tested.fits(1_000, float(now))
        tested.reserve(1_000, float(now))
        tested.settle(1_000, 1_000, float(now))
    assert tested.tokens_per_minute == 1_000_000


def test_a_refusal_takes_an_unknown_quota_to_nine_tenths_of_what_was_served() -> None:
    tested = Pool("m@r", QuotaLimits(), now=0.0)
    for second in range(1, 11):
        tested.reserve(14_000, float(second))
        tested.settle(14_000, 14_000, float(second))
    tested.throttled("quota", now=10.5, retry_after=None)
    assert tested.tokens_per_minute == pytest.approx(0.9 * 14_000 * 60)


def test_a_refusal_of_a_pool_that_served_next_to_nothing_halves_it_at_most() -> None:
    tested = Pool("m@r", QuotaLimits(), now=0.0)
    tested.throttled("quota", now=1.0, retry_after=None)
    assert tested.tokens_per_minute == pytest.approx(900_000)
    tested.reserve(10, 2.0)
    tested.settle(10, 10, 2.0)
    tested.throttled("quota", now=3.0, retry_after=None)
    assert tested.tokens_per_minute == pytest.approx(450_000)


def test_after_a_refusal_an_unknown_quota_grows_by_equal_steps() -> None:
    tested = Pool("m@r", QuotaLimits(), now=0.0)
    now = flood(tested, 0.0, 1.0, call=5_000)
    tested.throttled("quota", now=now, retry_after=None)
    first = tested.tokens_per_minute
    now = flood(tested, now, now + 9, call=5_000)
    second = tested.tokens_per_minute
    now = flood(tested, now, now + 9, call=5_000)
    third = tested.tokens_per_minute
    assert 1.01 * first < second < 1.03 * first
    assert third - second == pytest.approx(second - first, rel=0.3)
    flood(tested, now, now + 120, call=5_000)
    assert tested.tokens_per_minute > 2 * first, "a long time without a refusal: the steps have grown"


@pytest.mark.parametrize("quota", [50_000, 400_000, 5_000_000])
def test_an_unknown_quota_is_found_within_a_minute_and_mostly_used(quota: int) -> None:
    """Against a bucket that holds a minute's quota and refuses what it has not."""
    tested = Pool("m@r", QuotaLimits(), now=0.0)
    behind = Bucket(quota / 60, quota, now=0.0)
    calls: list[tuple[float, float]] = []
    now, used, refused, made = 0.0, 0.0, 0, 0
    while now < 360:
        now += 0.05
        behind.refill(now)
        while calls and calls[0][0] <= now:
            _, tokens = calls.pop(0)
            tested.settle(1_000, tokens, now)
            behind.add(1_000 - tokens)
            used += tokens if now > 180 else 0.0
        while len(calls) < 2_000 and tested.fits(1_000, now):
            tested.reserve(1_000, now)
            made += now > 180
            if behind.level < 1_000:
                tested.undo(1_000, now=now)
                tested.throttled("quota", now=now, retry_after=None)
                refused += now > 180
                break
            behind.add(-1_000)
            calls.append((now + 2.0, 600.0))
    assert used > 0.8 * quota * 3
    assert refused < 0.05 * made


def test_new_limits_hold_at_once_and_keep_what_is_reserved() -> None:
    tested = pool()
    tested.reserve(1_000, 0.0)
    tested.set_limits(QuotaLimits(tokens_per_minute=6_000, requests_per_minute=10), now=0.0)
    assert tested.in_flight == 1
    assert tested.largest == 6_000
    tested.refill(1_000.0)
    assert tested.tokens.level == pytest.approx(6_000 * UTILISATION / 4)


def test_a_checkpoint_carries_levels_and_what_was_learned_to_another_clock() -> None:
    old = pool(requests_per_minute=600)
    old.reserve(10_000, 0.0)
    old.throttled("quota", now=0.0, retry_after=5.0)
    saved = old.checkpoint(now=0.0)
    new = Pool("model@region", old.limits, now=5_000.0)
    new.restore(saved, now=5_000.0, age_s=2.0)
    assert new.factor == pytest.approx(0.9)
    new.refill(5_000.0)
    assert new.tokens.level == pytest.approx(old.tokens.level + 2.0 * old.tokens.rate, rel=0.01)
    assert not new.fits(1, 5_002.9)
    assert new.fits(1, 5_003.1)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3_000), st.floats(0, 6_000)), max_size=60))
def test_no_sequence_of_calls_passes_the_quota(calls: list[tuple[float, float, float]]) -> None:
    tested = pool()
    now = used = 0.0
    for pause, reserved, actual in calls:
        now += pause
        if tested.fits(reserved, now):
            tested.reserve(reserved, now)
            tested.settle(reserved, min(actual, reserved), now)
            used += min(actual, reserved)
        assert used <= RATE * (BURST_S + now) + 1e-3


@given(st.floats(0.1, 100), st.floats(1, 1_000), st.floats(0, 1_000))
def test_a_bucket_holds_what_it_promised_when_the_wait_is_over(rate: float, cap: float, taken: float) -> None:
    bucket = Bucket(rate, cap, now=0.0)
    bucket.add(-taken)
    wait = bucket.wait_s(cap)
    bucket.refill(wait)
    assert bucket.level == pytest.approx(cap)
