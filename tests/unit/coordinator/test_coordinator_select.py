from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.settings import ModelPolicy, TenantPolicy
from sidecar.coordinator.entry import CAPABILITY_BITS, mask
from sidecar.coordinator.health import Success
from sidecar.coordinator.select import MIN_ANSWER_TOKENS, needs_of, service_tier
from sidecar.coordinator.service import Selection
from sidecar.errors import AccessDenied, ModelUnavailable, Permanent
from sidecar.models.content import (
    DocumentBlock,
    ImageBlock,
    Message,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.profile import ModelProfile, Price, Traits
from sidecar.models.request import (
    InlineTool,
    JobBudget,
    JobRequest,
    OutputSpec,
    Params,
    Reasoning,
    Task,
)
from tests.support.coordination import NOW, aliases, coordinator, request, row, select

PICTURE = ImageBlock(source=Source(data=b"x"), format="png")
PAPER = DocumentBlock(source=Source(data=b"x"), format="pdf")


def says(content: tuple[Any, ...]) -> JobRequest:
    return JobRequest(messages=(Message(role="user", content=content),))


def called(outcome: Any) -> JobRequest:
    return JobRequest(
        messages=(
            Message(role="user", content="hello"),
            Message(role="assistant", content=(ToolUseBlock(id="1", name="t"),)),
            Message(role="user", content=(ToolResultBlock(tool_use_id="1", content=outcome),)),
        )
    )


@pytest.mark.parametrize(
    ("job", "needs"),
    [
        (request(), ()),
        (request(tools=("search",)), ("tools",)),
        (request(tools=(InlineTool(name="t", input_schema={"type": "object"}),)), ("tools",)),
        (request(output=OutputSpec(schema={"type": "object"})), ("structured_output",)),
        (request(reasoning=Reasoning(effort="low")), ("reasoning",)),
        (request(reasoning=Reasoning(effort="none")), ()),
        (request(task=Task(needs=("long_context", "images"))), ("long_context", "images")),
        (says((TextBlock(text="x"), PICTURE)), ("images",)),
        (says((TextBlock(text="x"), PAPER)), ("documents",)),
        (called("sunny"), ("tools",)),
        (called((PICTURE,)), ("tools", "images")),
    ],
)
def test_needs_come_from_what_the_request_holds(job: JobRequest, needs: tuple[str, ...]) -> None:
    assert needs_of(job) == mask(needs)


def test_quality_kind_and_price_make_the_order() -> None:
    subject = coordinator(
        row("weak", quality="fast", kinds=("chat", "classify")),
        row("fair", quality="balanced", prices=(Price(input=0.6, output=3.0),)),
        row("dear", quality="balanced", prices=(Price(input=1.2, output=6.0),)),
        row("good", quality="best", kinds=("chat", "reason")),
    )

    assert aliases(select(subject, request())) == ["fair", "dear", "good", "weak"]
    assert aliases(select(subject, request(task=Task(quality="best", kind="reason"))))[0] == "good"
    assert aliases(select(subject, request(task=Task(quality="fast", kind="classify"))))[0] == "weak"


def test_equals_are_ordered_by_alias_then_region() -> None:
    subject = coordinator(row("b"), row("a"), regions=("us-west-2", "us-east-1"))
    selection = select(subject, request())

    assert [(c.profile.alias, c.route.region) for c in selection.candidates] == [
        ("a", "us-west-2"),
        ("a", "us-east-1"),
        ("b", "us-west-2"),
        ("b", "us-east-1"),
    ]


def test_each_filter_gives_its_reason() -> None:
    subject = coordinator(
        row("ok"),
        row("blind", capabilities=("streaming",)),
        row("old", lifecycle="legacy"),
        row("short", context_tokens=400),
        row("terse", max_output_tokens=100),
        row("costly", prices=(Price(input=900.0, output=900.0),)),
        row("unpriced", prices=()),
    )
    job = request(tools=("t",), params=Params(max_tokens=500), budget=JobBudget(max_cost_usd=0.01))
    selection = select(subject, job)

    assert aliases(selection) == ["ok"]
    reasons = {r.model: r.reason for r in selection.rejected}
    assert reasons.keys() == {"blind", "old", "short", "terse", "costly", "unpriced"}
    assert reasons["blind"] == "cannot do tools"
    assert "only when named" in reasons["old"]
    assert "400 tokens" in reasons["short"]
    assert "100 tokens" in reasons["terse"]
    assert "max_cost_usd" in reasons["costly"]
    assert "no price" in reasons["unpriced"]


@pytest.mark.parametrize(
    ("job", "fields", "code"),
    [
        (request(model="nothing"), {}, "unknown_model"),
        (request(model="old"), {"tenant": TenantPolicy(models=("ok",))}, "tenant_denied"),
        (request(model="gone"), {}, "unknown_model"),
        (request(model="elsewhere"), {}, "unknown_model"),
        (request(task=Task(needs=("images",))), {}, "invalid_request"),
        (request(model=("nothing", "ok")), {"input_tokens": 1_000_000}, "context_overflow"),
        (request(model="ok", budget=JobBudget(max_cost_usd=1e-9)), {}, "budget_exceeded"),
    ],
)
def test_what_nothing_can_serve_is_refused_for_good_with_every_reason(
    job: JobRequest, fields: dict[str, Any], code: str
) -> None:
    subject = coordinator(
        row("ok"),
        row("old", lifecycle="legacy"),
        row("gone", lifecycle="end_of_life"),
        row("elsewhere", inference=()),
    )

    with pytest.raises(Permanent) as caught:
        select(subject, job, **fields)

    assert caught.value.code == code
    assert caught.value.details["rejected"]
    assert all(name in caught.value.message for name in job.models)


def test_a_misspelt_alias_is_told_what_is_near() -> None:
    with pytest.raises(Permanent, match="claude-sonnet"):
        select(coordinator(), request(model="claude-sonet"))


def test_the_requests_own_list_is_kept_as_it_is() -> None:
    subject = coordinator(row("a"), row("b"), row("c"), regions=("us-west-2", "us-east-1"))
    selection = select(subject, request(model=("c", "acme.a-v1:0", "nothing")))

    assert [c.route.pool for c in selection.candidates] == [
        "acme.c-v1:0@us-west-2",
        "acme.c-v1:0@us-east-1",
        "acme.a-v1:0@us-west-2",
        "acme.a-v1:0@us-east-1",
    ]
    assert [r.model for r in selection.rejected] == ["nothing"]


def test_a_named_legacy_model_is_used() -> None:
    assert aliases(select(coordinator(row("old", lifecycle="legacy")), request(model=("old",)))) == ["old"]


def test_an_alias_falls_back_to_its_own_list_then_to_its_like_never_to_much_dearer_ones() -> None:
    rows = (row("a"), row("b"), row("dear", prices=(Price(input=2.1, output=10.6),)), row("unpriced", prices=()))

    def chain(fallback: tuple[str, ...] | None) -> list[str]:
        return aliases(
            select(coordinator(*rows, models={"a": ModelPolicy(fallback=fallback)}), request(model="a"))
        )

    assert chain(("dear",)) == ["a", "dear"]
    assert chain(()) == ["a"]
    assert chain(None) == ["a", "b"]


def test_without_a_chain_nothing_that_costs_more_than_twice_the_first_choice_stands_in() -> None:
    """Whichever way the candidates are found: a model was named, or none; and by either price of a token."""
    rows = (
        row("first", quality="best"),
        row("twice", prices=(Price(input=2.0, output=10.0),)),
        row("reads-dear", prices=(Price(input=2.1, output=5.0),)),
        row("writes-dear", prices=(Price(input=1.0, output=10.1),)),
        row("unpriced", prices=()),
    )
    subject = coordinator(*rows, models={"own": ModelPolicy(id="acme.own")})

    best = select(subject, request(task=Task(quality="best")))
    assert aliases(best) == ["first", "twice"]
    assert {r.model for r in best.rejected} == {"reads-dear", "writes-dear", "unpriced"}
    assert aliases(select(subject, request(model="first"))) == ["first", "twice"]
    assert aliases(select(subject, request(model="own"))) == ["own"], "no price, so nothing to compare with"
    listed = ("first", "writes-dear", "unpriced")
    assert aliases(select(subject, request(model=listed))) == list(listed)


def test_a_bedrock_id_is_exact_unless_configuration_says_more() -> None:
    rows = (row("a"), row("b"))

    assert aliases(select(coordinator(*rows), request(model="acme.a-v1:0"))) == ["a"]
    told = coordinator(*rows, models={"a": ModelPolicy(fallback=("b",))})
    assert aliases(select(told, request(model="acme.a-v1:0"))) == ["a", "b"]


def test_a_tenants_list_holds_for_every_way_to_name_a_model() -> None:
    subject = coordinator(row("a", also=("first",)), row("b"))

    assert aliases(select(subject, request(), tenant=TenantPolicy(models=("first",)))) == ["a"]
    assert aliases(select(subject, request(), tenant=TenantPolicy(models=("acme.b-v1:0",)))) == ["b"]
    with pytest.raises(Permanent) as caught:
        select(subject, request(model="acme.b-v1:0"), tenant=TenantPolicy(models=("a",)))
    assert caught.value.code == "tenant_denied"


def test_measured_speed_moves_what_is_otherwise_equal() -> None:
    subject = coordinator(row("a"), row("b"))
    slow, fast = select(subject, request()).candidates
    for _ in range(5):
        subject.observe(slow, Success(first_token_s=9.0, tokens_per_s=5.0), now=NOW)
        subject.observe(fast, Success(first_token_s=0.2, tokens_per_s=200.0), now=NOW)

    assert aliases(select(subject, request())) == ["b", "a"]


def test_headroom_moves_work_to_where_quota_is_left() -> None:
    subject = coordinator(row("a"), row("b"))

    assert aliases(select(subject, request(), headroom={"acme.a-v1:0@us-east-1": 0.05})) == ["b", "a"]


def test_a_warm_cache_holds_a_conversation_for_five_minutes() -> None:
    subject = coordinator(row("a"), row("b"))
    other = select(subject, request()).candidates[1]
    subject.observe(other, Success(), now=NOW, cached=(b"talk-1",))

    warm = select(subject, request(), prefixes=(b"talk-1",), now=NOW + 299)
    assert aliases(warm) == ["b", "a"]
    assert "warm" in warm.reason
    assert aliases(select(subject, request(), prefixes=(b"talk-2",))) == ["a", "b"]
    assert aliases(select(subject, request(), prefixes=(b"talk-1",), now=NOW + 301)) == ["a", "b"]


def test_an_open_pool_is_held_in_reserve_and_waited_for_when_it_is_the_last() -> None:
    subject = coordinator(row("a"), row("b"))
    first, second = select(subject, request()).candidates
    for _ in range(3):
        subject.observe(first, ModelUnavailable("down"), now=NOW)

    selection = select(subject, request(model=("a", "b")))
    assert (aliases(selection), selection.reserve, selection.wait_s) == (["b"], (first,), 0.0)
    assert "unhealthy: model_unavailable" in {r.reason for r in selection.rejected}

    alone = select(subject, request(model=("a",)))
    assert (aliases(alone), alone.wait_s) == (["a"], 5.0)
    assert not subject.begin(first, now=NOW + 4.9)
    assert subject.begin(first, now=NOW + 5.0)
    assert not subject.begin(first, now=NOW + 5.0)
    subject.observe(first, Success(), now=NOW + 6.0)
    assert subject.health(NOW + 6.0)[first.route.pool] == "closed"
    assert subject.begin(second, now=NOW)


def test_a_denied_pool_comes_last_but_is_not_waited_for() -> None:
    subject = coordinator(row("a"), row("b"))
    first, second = select(subject, request()).candidates
    subject.observe(first, AccessDenied("no"), now=NOW)
    assert select(subject, request()).candidates == (second,)

    subject.observe(second, AccessDenied("no"), now=NOW)
    assert select(subject, request()).wait_s == 0.0


@pytest.mark.parametrize(
    ("asked", "job_class", "left_s", "tier"),
    [
        ("auto", "batch", None, "flex"),
        ("auto", "batch", 30.0, "default"),
        ("auto", "standard", None, "default"),
        ("auto", "interactive", 60.0, "default"),
        ("auto", "interactive", 5.0, "priority"),
        ("priority", "batch", None, "priority"),
        ("reserved", "standard", None, "reserved"),
    ],
)
def test_the_tier_goes_by_class_and_time_left(asked: str, job_class: str, left_s: float | None, tier: str) -> None:
    tiers = ("default", "flex", "priority")
    profile = ModelProfile(alias="m", model_id="acme.m", family="other", name="m", service_tiers=tiers)
    deadline = None if left_s is None else NOW + left_s

    assert service_tier(profile, asked=asked, job_class=job_class, deadline=deadline, now=NOW) == tier


def test_a_model_without_tiers_is_asked_for_none() -> None:
    plain = ModelProfile(alias="m", model_id="acme.m", family="other", name="m")

    assert service_tier(plain, asked="auto", job_class="batch", deadline=None, now=NOW) == "default"


QUALITIES = st.sampled_from(["fast", "balanced", "best"])
ROWS = st.lists(
    st.builds(
        lambda name, **fields: row(f"m{name}", **fields),
        st.integers(0, 30),
        quality=QUALITIES,
        lifecycle=st.sampled_from(["active", "legacy", "end_of_life"]),
        capabilities=st.sets(st.sampled_from([*CAPABILITY_BITS, "streaming"])).map(tuple),
        context_tokens=st.sampled_from([1_000, 50_000, 1_000_000]),
        prices=st.sampled_from([(), (Price(input=0.1, output=0.4),), (Price(input=15.0, output=75.0),)]),
        kinds=st.sampled_from([(), ("chat",), ("chat", "code")]),
        traits=st.just(Traits()),
    ),
    unique_by=lambda r: r.alias,
    min_size=1,
    max_size=12,
)
JOBS = st.builds(
    lambda model, needs, quality, max_tokens, budget: request(
        model=model,
        task=Task(needs=tuple(needs), quality=quality),
        params=Params(max_tokens=max_tokens),
        budget=JobBudget(max_cost_usd=budget),
    ),
    st.one_of(st.none(), st.lists(st.integers(0, 30).map(lambda n: f"m{n}"), min_size=1, max_size=5).map(tuple)),
    st.sets(st.sampled_from(sorted(CAPABILITY_BITS))),
    QUALITIES,
    st.one_of(st.none(), st.integers(1, 9_000)),
    st.one_of(st.none(), st.sampled_from([1e-6, 0.01, 1.0])),
)


REFUSALS = {"unknown_model", "tenant_denied", "invalid_request", "context_overflow", "budget_exceeded"}


def selection_or_code(rows: list[Any], job: JobRequest, fields: dict[str, Any]) -> Selection | str:
    try:
        return select(coordinator(*rows, regions=("us-east-1", "us-west-2")), job, **fields)
    except Permanent as e:
        return e.code


@given(
    rows=ROWS, job=JOBS, allowed=st.one_of(st.none(), st.sets(st.integers(0, 30))), tokens=st.integers(0, 90_000)
)
def test_filters_are_never_passed_and_the_outcome_is_always_the_same(
    rows: list[Any], job: JobRequest, allowed: set[int] | None, tokens: int
) -> None:
    tenant = TenantPolicy(models=None if allowed is None else tuple(f"m{n}" for n in allowed))
    fields = {"tenant": tenant, "input_tokens": tokens}
    selection = selection_or_code(rows, job, fields)
    if isinstance(selection, str):
        assert selection in REFUSALS
        return

    assert selection == select(coordinator(*reversed(rows), regions=("us-east-1", "us-west-2")), job, **fields)
    for found in selection.candidates:
        profile = found.profile
        assert tenant.models is None or profile.alias in tenant.models
        assert profile.lifecycle == "active" or (job.models and profile.lifecycle == "legacy")
        assert needs_of(job) & ~mask(profile.capabilities) == 0
        assert tokens + (job.params.max_tokens or 0) <= profile.context_tokens
        if job.budget.max_cost_usd is not None:
            output = min(job.params.max_tokens or 4096, profile.max_output_tokens, MIN_ANSWER_TOKENS)
            cheapest = profile.prices[0].input * tokens + profile.prices[0].output * output
            assert cheapest / 1e6 <= job.budget.max_cost_usd + 1e-9
    if job.models:
        order = [job.models.index(alias) for alias in aliases(selection)]
        assert order == sorted(order)
    pools = [found.route.pool for found in selection.candidates]
    assert len(pools) == len(set(pools))
    assert {r.model for r in selection.rejected}.isdisjoint(aliases(selection))
