import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.quota import Pool, QuotaRule, Quotas


def make_pool(**limits: float) -> Pool:
    return Pool(QuotaRule(**limits), 0.0)  # type: ignore[arg-type]


def use(pool: Pool, *, reserved: float, input_tokens: int = 0, output_tokens: int = 0, now: float = 0.0) -> None:
    held = pool.reserve(reserved, tenant="t", now=now)
    pool.settle(held, input_tokens=input_tokens, cache_write_tokens=0, output_tokens=output_tokens, now=now)


def test_input_and_max_tokens_are_reserved_and_the_rest_is_given_back() -> None:
    pool = make_pool(tokens_per_minute=1_000)
    held = pool.reserve(900, tenant="t", now=0)
    with pytest.raises(Refusal, match="Too many tokens, please wait"):
        pool.reserve(200, tenant="t", now=0)
    pool.settle(held, input_tokens=100, cache_write_tokens=0, output_tokens=50, now=0)
    assert pool.snapshot(0)["available_tokens"] == 850


def test_output_is_burnt_down_at_the_end_and_not_at_the_start() -> None:
    pool = make_pool(tokens_per_minute=1_000, burndown=5)
    use(pool, reserved=200, input_tokens=100, output_tokens=100)
    assert pool.snapshot(0)["available_tokens"] == 400


def test_cache_writes_count_and_cache_reads_do_not() -> None:
    pool = make_pool(tokens_per_minute=1_000)
    held = pool.reserve(100, tenant="t", now=0)
    pool.settle(held, input_tokens=10, cache_write_tokens=300, output_tokens=0, now=0)
    assert pool.snapshot(0)["available_tokens"] == 690


def test_a_bucket_refills_evenly_up_to_its_burst() -> None:
    pool = make_pool(tokens_per_minute=600, burst_s=30)
    use(pool, reserved=300, input_tokens=300)
    with pytest.raises(Refusal):
        pool.reserve(100, tenant="t", now=9.9)
    pool.reserve(100, tenant="t", now=10.1)
    assert pool.snapshot(1_000)["available_tokens"] == 300


def test_requests_a_minute_and_calls_at_once_have_messages_of_their_own() -> None:
    pool = make_pool(requests_per_minute=1)
    use(pool, reserved=0)
    with pytest.raises(Refusal, match="Too many requests"):
        pool.reserve(0, tenant="t", now=0)
    busy = make_pool(max_concurrency=1)
    busy.reserve(0, tenant="t", now=0)
    with pytest.raises(Refusal, match="Too many connections"):
        busy.reserve(0, tenant="t", now=0)


def test_a_day_ends_after_a_day() -> None:
    pool = make_pool(tokens_per_day=100)
    use(pool, reserved=100, input_tokens=100)
    with pytest.raises(Refusal, match="Too many tokens per day") as refused:
        pool.reserve(1, tenant="t", now=60)
    assert refused.value.kind.status == 429
    pool.reserve(1, tenant="t", now=86_401)


def test_settling_twice_changes_nothing() -> None:
    pool = make_pool(tokens_per_minute=1_000)
    held = pool.reserve(100, tenant="acme", now=0)
    for _ in range(2):
        pool.settle(held, input_tokens=40, cache_write_tokens=0, output_tokens=0, now=0)
    told = pool.snapshot(0)
    assert (told["settled_tokens"], told["active"], told["by_tenant"]) == (40, 0, {"acme": 40})


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 800), st.floats(0, 5)), max_size=30))
def test_tokens_never_leak(calls: list[tuple[int, int, float]]) -> None:
    pool = make_pool(tokens_per_minute=6_000)
    now = 0.0
    for reserved, used, pause in calls:
        now += pause
        try:
            use(pool, reserved=reserved, input_tokens=used, now=now)
        except Refusal:
            continue
    assert pool.snapshot(now + 600)["available_tokens"] == 6_000
    assert pool.snapshot(now + 600)["active"] == 0


def test_each_model_and_region_has_a_pool_of_its_own() -> None:
    quotas = Quotas([QuotaRule(model="*nova*", max_concurrency=1)], clock=lambda: 0.0)
    assert quotas.reserve("amazon.nova-lite-v1:0", "us-east-1", tokens=1, tenant="") is not None
    assert quotas.reserve("amazon.nova-lite-v1:0", "us-west-2", tokens=1, tenant="") is not None
    assert quotas.reserve("other", "us-east-1", tokens=1, tenant="") is None
    with pytest.raises(Refusal):
        quotas.reserve("amazon.nova-lite-v1:0", "us-east-1", tokens=1, tenant="")
    assert set(quotas.snapshot()) == {"amazon.nova-lite-v1:0|us-east-1", "amazon.nova-lite-v1:0|us-west-2"}
