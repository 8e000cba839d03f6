import pytest

from sidecar.config.settings import BedrockSettings, ModelPolicy, Policy, TenantPolicy
from sidecar.coordinator import cost
from sidecar.coordinator.fallback import Failure, Final, Next, Retry
from sidecar.coordinator.health import Speed, Success
from sidecar.coordinator.pools import MAX_POOLS, Pools
from sidecar.coordinator.service import Coordinator
from sidecar.errors import InvalidRequest, ModelUnavailable, StartupError
from sidecar.models.profile import Price
from sidecar.models.result import Usage
from sidecar.scheduler.quota import Pool
from tests.support.coordination import EVERYBODY, NOW, aliases, coordinator, request, row, select


def test_the_shipped_catalogue_serves_a_plain_request() -> None:
    subject = Coordinator(policy=Policy(), bedrock=BedrockSettings(regions=("us-east-1", "us-west-2")))
    selection = select(subject, request())

    assert len(selection.candidates) > 4
    assert {c.profile.family for c in selection.candidates} == {"claude", "nova"}
    assert subject.profile("claude-sonnet") is not None
    assert subject.profile("nothing") is None


def test_a_job_is_led_from_failure_to_failure() -> None:
    subject = coordinator(row("a"), row("b"))
    job = request()
    selection = select(subject, job)
    first, second = selection.candidates
    tried: list[Failure] = []

    def fail(candidate_index: int, error: Exception) -> object:
        failed = selection.candidates[candidate_index]
        assert isinstance(error, ModelUnavailable | InvalidRequest)
        subject.observe(failed, error, now=NOW)
        decision = subject.decide(
            error,
            candidate=failed,
            tried=tried,
            selection=selection,
            text_streamed=False,
            request=job,
            now=NOW,
            deadline=NOW + 60,
            jitter=0.0,
        )
        tried.append(Failure(failed, error))
        return decision

    bad = InvalidRequest("no")
    assert fail(0, ModelUnavailable("503")) == Retry(first, 0.2)
    assert fail(0, ModelUnavailable("503")) == Next(second)
    assert fail(1, bad) == Final(bad)


def test_a_new_policy_takes_hold_and_a_bad_one_leaves_the_old() -> None:
    subject = coordinator(row("a"), row("b"))
    subject.apply(Policy(models={"a": ModelPolicy(quality="fast"), "c": ModelPolicy(id="acme.b-v1:0")}))
    assert subject.profile("c") is not None

    with pytest.raises(StartupError):
        subject.apply(Policy(models={"wrong": ModelPolicy()}))
    assert subject.profile("c") is not None
    assert aliases(select(subject, request(model=("c",)))) == ["c"]


def test_what_was_learnt_survives_a_reload() -> None:
    subject = coordinator(row("a"), row("b"))
    first = select(subject, request()).candidates[0]
    for _ in range(3):
        subject.observe(first, ModelUnavailable("down"), now=NOW)
    subject.apply(Policy())

    assert subject.health(NOW) == {first.route.pool: "open"}
    assert aliases(select(subject, request())) == ["b"]


def test_the_listing_says_price_health_and_why_not() -> None:
    subject = coordinator(
        row("a"), row("b"), row("far", inference=()), row("gone", lifecycle="end_of_life"), row("free", prices=())
    )
    first = select(subject, request()).candidates[0]
    for _ in range(3):
        subject.observe(first, ModelUnavailable("down"), now=NOW)
    listed = {m.alias: m for m in subject.models(TenantPolicy(models=("a", "far", "gone", "free")), now=NOW)}

    assert list(listed) == ["a", "b", "far", "free", "gone"]
    assert (listed["a"].health, listed["a"].unusable, listed["a"].regions) == ("open", None, ("us-east-1",))
    assert (listed["a"].price_input_usd_per_mtok, listed["free"].price_output_usd_per_mtok) == (1.0, None)
    assert "tenant" in (listed["b"].unusable or "")
    assert "regions" in (listed["far"].unusable or "")
    assert "end of life" in (listed["gone"].unusable or "")
    assert listed["far"].health == "unknown"


def test_prices_and_bounds_go_by_the_candidate() -> None:
    subject = coordinator(row("a", prices=(Price(input=2.0, output=10.0),)))
    candidate = select(subject, request()).candidates[0]
    pool = candidate.route.pool

    assert subject.price_on(pool, Usage(input_tokens=1_000, output_tokens=100)) == pytest.approx(0.003)
    assert subject.most_usd(pool, 1_000, 100) == pytest.approx(0.003)
    assert cost.affordable_output_tokens(candidate, input_tokens=1_000, left_usd=0.003) == 100


def test_unknown_models_of_the_configuration_are_told_at_start() -> None:
    subject = coordinator(row("a"), models={"novel": ModelPolicy(id="acme.novel")})

    assert "models.novel" in subject.warnings[0]
    assert "context_tokens 32000; max_output_tokens 4096; burndown 5; no tokens_per_minute" in subject.warnings[0]
    assert aliases(select(subject, request(model="novel"), tenant=EVERYBODY))[0] == "novel"
    said = ModelPolicy(id="acme.novel", context_tokens=8_000, tokens_per_minute=5, price_input=1, price_output=1)
    (warning,) = coordinator(row("a"), models={"novel": said}).warnings
    assert not [words for words in ("context_tokens", "tokens_per_minute", "no prices") if words in warning]


def test_the_quota_of_a_model_that_the_catalogue_does_not_know_is_learned_like_any_others() -> None:
    known, unknown = coordinator(row("a")), coordinator(row("a"), models={"novel": ModelPolicy(id="acme.novel")})
    (first,), (novel,) = (
        select(known, request(model="a")).candidates,
        select(unknown, request(model="novel")).candidates,
    )
    pools = [Pool("a", first.route.limits, now=0.0), Pool("novel", novel.route.limits, now=0.0)]

    assert pools[0].tokens_per_minute == pools[1].tokens_per_minute
    assert [pool.requests for pool in pools] == [None, None]
    assert all(pool.is_learning for pool in pools)


def test_memory_is_bounded_whatever_is_called() -> None:
    pools = Pools()
    for n in range(12_000):
        pools.observe(f"pool-{n}", Success(first_token_s=1.0), now=NOW)
        pools.warm((b"talk-%d" % n,), f"pool-{n}", now=NOW)

    assert len(pools.phases(NOW)) == MAX_POOLS
    assert pools.speed("pool-0") == Speed()
    assert pools.warm_pool((b"talk-0",), now=NOW) is None
    assert pools.warm_pool((b"talk-11999",), now=NOW) == "pool-11999"
