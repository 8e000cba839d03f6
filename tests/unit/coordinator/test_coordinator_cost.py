import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.coordinator import cost
from sidecar.models.profile import Candidate, ModelProfile, Price, Route
from sidecar.models.result import Usage

TIERED = (
    Price(input=1.0, output=4.0, cache_read=0.1, cache_write=1.25),
    Price(input=2.0, output=8.0, cache_read=0.2, cache_write=2.5, above_tokens=200_000),
)


def priced(*prices: Price, factor: float = 1.0) -> Candidate:
    profile = ModelProfile(
        alias="m", model_id="acme.m", family="other", name="m", prices=prices, max_output_tokens=8_000
    )
    return Candidate(profile=profile, route=Route(region="us-east-1", invoke_id="acme.m", price_factor=factor))


def test_each_kind_of_token_has_its_own_price() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=100, cache_read_tokens=10_000, cache_write_tokens=2_000)

    dollars = cost.cost_usd(priced(*TIERED), usage)

    assert dollars == pytest.approx((1_000 * 1.0 + 100 * 4.0 + 10_000 * 0.1 + 2_000 * 1.25) / 1e6)


def test_the_tier_goes_by_the_whole_prompt_with_what_was_cached() -> None:
    usage = Usage(input_tokens=1_000, cache_read_tokens=199_000, output_tokens=10)

    assert cost.cost_usd(priced(*TIERED), usage) == pytest.approx((1_000 * 2.0 + 199_000 * 0.2 + 10 * 8.0) / 1e6)


def test_regions_tiers_and_long_caches_cost_more() -> None:
    usage = Usage(cache_write_tokens=1_000_000)
    plain = Price(input=1.0, output=1.0, cache_write=1.25)

    assert cost.cost_usd(priced(plain, factor=1.1), usage) == pytest.approx(1.375)
    assert cost.cost_usd(priced(plain), usage, service_tier="priority") == pytest.approx(1.25 * 1.75)
    assert cost.cost_usd(priced(plain), usage, service_tier="flex") == pytest.approx(0.625)
    assert cost.cost_usd(priced(plain), usage, cache_ttl="1h") == pytest.approx(2.0)


def test_cache_tokens_without_a_price_cost_as_input() -> None:
    usage = Usage(cache_read_tokens=500_000, cache_write_tokens=500_000)

    assert cost.cost_usd(priced(Price(input=3.0, output=1.0)), usage) == pytest.approx(3.0)


def test_no_price_is_none_and_never_nothing() -> None:
    unknown = priced()

    assert cost.cost_usd(unknown, Usage(input_tokens=1)) is None
    assert cost.upper_bound_usd(unknown, input_tokens=1, max_tokens=1) is None
    assert cost.affordable_output_tokens(unknown, input_tokens=1, left_usd=1.0) is None


@given(
    prompt=st.integers(0, 300_000),
    cached=st.floats(0, 1),
    output=st.integers(0, 8_000),
    factor=st.sampled_from([1.0, 1.1]),
)
def test_no_call_costs_more_than_its_upper_bound(prompt: int, cached: float, output: int, factor: float) -> None:
    subject = priced(*TIERED, factor=factor)
    written = int(prompt * cached)
    usage = Usage(input_tokens=prompt - written, cache_write_tokens=written, output_tokens=output)

    bound = cost.upper_bound_usd(subject, input_tokens=prompt, max_tokens=output)
    real = cost.cost_usd(subject, usage)

    assert bound is not None
    assert real is not None
    assert real <= bound + 1e-12


@given(prompt=st.integers(0, 300_000), left_usd=st.floats(0, 2.0))
def test_an_answer_of_affordable_length_keeps_the_budget(prompt: int, left_usd: float) -> None:
    subject = priced(*TIERED)

    tokens = cost.affordable_output_tokens(subject, input_tokens=prompt, left_usd=left_usd)

    assert tokens is not None
    bound = cost.upper_bound_usd(subject, input_tokens=prompt, max_tokens=tokens)
    assert tokens == 0 or (bound is not None and bound <= left_usd + 1e-9)
