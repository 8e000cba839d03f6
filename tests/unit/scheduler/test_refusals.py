"""What a refusal teaches: the resource that it names, in proportion to how many of the calls were refused."""

import pytest

from benchmarks.accounts import CASES, Case, simulate
from sidecar.models.profile import QuotaLimits
from sidecar.scheduler.quota import Pool
from sidecar.scheduler.refusals import Limit

WIDE = QuotaLimits(tokens_per_minute=10**9)


def busy(limits: QuotaLimits = WIDE, *, calls: int = 200, seconds: int = 10, pool: Pool | None = None) -> Pool:
    """A pool that has answered `calls` a second for a while; each takes a tenth of a second."""
    pool = pool or Pool("m@r", limits, now=0.0)
    for n in range(seconds * calls):
        now = n / calls
        pool.reserve(1_000, now)
        pool.settle(1_000, 800, now)
        pool.answered(100, 0.1, granted_at=now)
    return pool


@pytest.mark.parametrize("limit", [None, "tokens", "requests", "concurrency"])
@pytest.mark.parametrize("tokens_per_minute", [10**9, None])
def test_two_refusals_a_second_of_two_hundred_close_nothing_and_lower_nothing(
    limit: Limit | None, tokens_per_minute: int | None
) -> None:
    pool = Pool("m@r", WIDE, now=0.0)
    pool.learned = 10.0**9
    pool.set_limits(QuotaLimits(tokens_per_minute=tokens_per_minute), now=0.0)
    busy(pool=pool, seconds=2)
    before = pool.tokens_per_minute * pool.factor
    for n in range(2_000):
        now = 2 + n / 200
        assert pool.fits(1_000, now)
        pool.reserve(1_000, now)
        if n % 100 == 0:
            pool.throttled("quota", now=now, retry_after=None, limit=limit)
            pool.undo(1_000, now=now)
        else:
            pool.settle(1_000, 800, now)
    assert pool.tokens_per_minute * pool.factor == before
    assert pool.requests is None


def test_refusals_that_name_requests_lower_requests_and_leave_tokens_alone() -> None:
    pool = busy(QuotaLimits(), calls=20)
    learned = pool.tokens_per_minute
    for n in range(160):
        now = 10 + n / 40
        pool.reserve(1_000, now)
        if n % 2:
            pool.throttled("quota", now=now, retry_after=None, limit="requests")
            pool.undo(1_000, now=now)
        else:
            pool.settle(1_000, 800, now)
    assert pool.tokens_per_minute == learned
    assert pool.requests is not None
    assert 0.5 * 20 * 60 < pool.requests_per_minute < 1.05 * 20 * 60


def test_refusals_that_name_concurrency_lower_concurrency_until_it_is_long_past() -> None:
    pool = Pool("m@r", QuotaLimits(), now=0.0)
    for _ in range(21):
        pool.reserve(1_000, 0.0)
    pool.throttled("quota", now=0.0, retry_after=None, limit="concurrency")
    pool.undo(1_000, now=0.0)
    learned = pool.tokens_per_minute
    assert pool.concurrency == 19
    assert not pool.fits(1_000, 1.0)
    for _ in range(2):
        pool.settle(1_000, 800, 1.0)
    assert pool.fits(1_000, 1.0)
    assert pool.tokens_per_minute == learned
    for now in range(2, 700):
        pool.refill(float(now))
    assert pool.concurrency == float("inf")


def test_what_was_learned_of_each_resource_is_left_to_a_successor() -> None:
    old = busy(QuotaLimits(requests_per_minute=6_000), calls=50)
    old.throttled("quota", now=10.0, retry_after=None, limit="concurrency")
    for _ in range(20):
        old.throttled("quota", now=11.0, retry_after=None, limit="requests")
    state = old.checkpoint(now=12.0)
    new = Pool("m@r", QuotaLimits(requests_per_minute=6_000), now=500.0)
    new.restore(state, now=500.0, age_s=0.0)
    assert new.requests_per_minute == pytest.approx(old.requests_per_minute)
    assert new.concurrency == old.concurrency
    older = {key: value for key, value in state.items() if not key.startswith("bound_")}
    Pool("m@r", WIDE, now=500.0).restore(older, now=500.0, age_s=0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_others_leave_of_an_account_is_used_and_next_to_nothing_refused(case: Case) -> None:
    found = simulate(case)
    # A quota that nobody configured, counted by a minute that slides, is found a little more slowly.
    assert found.used >= (0.93 if case.counting == "sliding" and not case.is_known else 0.95)
    assert found.refused < 0.01
    assert found.gap_s <= (16 if not case.is_known else 5)
