"""The user's `[models]` over the catalogue, routes by region, and names that cannot be used."""

import pytest

from sidecar.config.settings import ModelPolicy, Policy
from sidecar.coordinator.catalogue import Catalogue, InferenceRow
from sidecar.errors import StartupError
from sidecar.models.profile import Price
from tests.support.coordination import row

APPLICATION_PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f"

RINGED = row(
    "ringed",
    inference=(
        InferenceRow(profile="", regions=("eu-west-2",), price_factor=1.1),
        InferenceRow(profile="eu", regions=("eu-west-1", "eu-west-2"), price_factor=1.1),
        InferenceRow(profile="global", regions=("eu-west-1", "eu-west-2", "sa-east-1")),
        InferenceRow(profile="us", regions=("us-east-1",), price_factor=1.1),
    ),
    burndown=5.0,
)


def catalogue(*, regions: tuple[str, ...] = ("us-east-1",), **models: ModelPolicy) -> Catalogue:
    policy = Policy(models={alias.replace("_", "-"): model for alias, model in models.items()})
    return Catalogue(policy=policy, regions=regions, rows=(RINGED, row("plain", also=("simple",))))


def pools(subject: Catalogue, name: str) -> list[str]:
    found = subject.resolve(name)
    assert found is not None
    return [route.pool for route in found.profile.routes]


def test_a_region_is_served_on_demand_else_by_its_geography_else_globally() -> None:
    subject = catalogue(regions=("sa-east-1", "eu-west-1", "eu-west-2", "us-east-1", "me-south-1"))

    assert pools(subject, "ringed") == [
        "global.acme.ringed-v1:0@sa-east-1",
        "eu.acme.ringed-v1:0@eu-west-1",
        "acme.ringed-v1:0@eu-west-2",
        "us.acme.ringed-v1:0@us-east-1",
    ]


def test_a_named_profile_is_called_as_named_in_the_regions_that_have_it() -> None:
    subject = catalogue(regions=("us-east-1", "eu-west-1", "eu-west-2"))
    found = subject.resolve("global.acme.ringed-v1:0")

    assert found is not None
    assert [route.pool for route in found.profile.routes] == [
        "global.acme.ringed-v1:0@eu-west-1",
        "global.acme.ringed-v1:0@eu-west-2",
    ]
    assert {route.price_factor for route in found.profile.routes} == {1.0}
    assert {route.limits.burndown for route in found.profile.routes} == {5.0}
    assert found.warnings == ()


def test_an_unlisted_profile_is_tried_where_geography_allows_with_a_warning() -> None:
    found = catalogue(regions=("us-east-1", "eu-west-1")).resolve("us.acme.plain-v1:0")

    assert found is not None
    assert [route.pool for route in found.profile.routes] == ["us.acme.plain-v1:0@us-east-1"]
    assert "not listed" in found.warnings[0]


def test_an_arn_is_called_in_its_own_region_only() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.acme.ringed-v1:0"

    assert pools(catalogue(regions=("us-east-1", "eu-west-1")), arn) == [f"{arn}@eu-west-1"]
    assert pools(catalogue(regions=("us-east-1",)), arn) == []


def test_other_names_resolve_like_the_alias() -> None:
    subject = catalogue()

    assert subject.resolve("simple") == subject.resolve("plain")


def test_an_entry_of_a_known_alias_changes_what_it_names_and_nothing_else() -> None:
    subject = catalogue(
        plain=ModelPolicy(tokens_per_minute=1_000_000, quality="best", price_output=7.0, fallback=())
    )
    found = subject.resolve("acme.plain-v1:0")

    assert found is not None
    profile = found.profile
    assert (profile.alias, profile.quality, profile.fallback) == ("plain", "best", ())
    assert profile.routes[0].limits.tokens_per_minute == 1_000_000
    assert profile.prices == (Price(input=1.0, output=7.0),)
    assert profile.context_tokens == 100_000
    assert profile.sources["user"] == "models.plain"
    assert subject.warnings == ()


def test_a_second_alias_stands_beside_the_first() -> None:
    subject = catalogue(house=ModelPolicy(id="global.acme.ringed-v1:0", regions=("eu-west-1",), burndown=10))
    house, ringed = subject.resolve("house"), subject.resolve("ringed")

    assert house is not None
    assert ringed is not None
    assert house.profile.alias == "house"
    assert [r.pool for r in house.profile.routes] == ["global.acme.ringed-v1:0@eu-west-1"]
    assert house.profile.routes[0].limits.burndown == 10
    assert house.profile.model_id == ringed.profile.model_id
    assert [r.pool for r in ringed.profile.routes] == ["us.acme.ringed-v1:0@us-east-1"]


def test_an_application_profile_takes_price_and_capability_from_its_base() -> None:
    subject = catalogue(team=ModelPolicy(id=APPLICATION_PROFILE, base="plain"))

    for name in ("team", APPLICATION_PROFILE):
        found = subject.resolve(name)
        assert found is not None
        assert found.profile.prices == (Price(input=1.0, output=5.0),)
        assert found.profile.capabilities == ("tools", "streaming")
        assert [r.pool for r in found.profile.routes] == [f"{APPLICATION_PROFILE}@us-east-1"]


def test_an_unknown_id_is_usable_when_named_and_what_is_assumed_of_it_is_told() -> None:
    subject = catalogue(novel=ModelPolicy(id="us.anthropic.claude-novel-9"))
    found = subject.resolve("us.anthropic.claude-novel-9")

    assert found is not None
    profile = found.profile
    assert (profile.alias, profile.family, profile.prices) == ("novel", "claude", ())
    assert profile.traits.sampling == "none"
    assert profile.routes[0].limits.tokens_per_minute is None
    assert (profile.context_tokens, profile.max_output_tokens) == (32_000, 4_096)
    assert "family claude" in subject.warnings[0]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (ModelPolicy(quality="best"), "give its Bedrock 'id'"),
        (ModelPolicy(id="not a bedrock id"), "not a Bedrock model id"),
        (ModelPolicy(id=APPLICATION_PROFILE, base="nothing"), "not in the catalogue"),
    ],
)
def test_an_entry_that_cannot_be_called_is_refused_with_its_name(policy: ModelPolicy, says: str) -> None:
    with pytest.raises(StartupError, match=r"models\.wrong") as caught:
        catalogue(wrong=policy)

    assert says in caught.value.message


def test_unknown_names_are_none_and_do_not_pile_up() -> None:
    subject = catalogue()

    assert all(subject.resolve(f"nobody.knows-{n}") is None for n in range(5_000))
    assert len(subject._resolved) <= 4096
