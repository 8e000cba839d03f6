"""`[filters]` as the configuration gives it: what is wrong is said with the field's name, before anything runs."""

from typing import Any

import pytest

from sidecar.config.settings import Policy, Settings, load, merge_policy
from sidecar.errors import StartupError


def problem(**overrides: Any) -> str:
    with pytest.raises(StartupError) as caught:
        load(overrides=overrides)
    return caught.value.message


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kind": "nope"}, "kind: no filter kind 'nope': there are sanitise, pii, secrets, blocklist"),
        ({"kind": "pii", "options": {"kinds": ["email", "shoes"]}}, "options.kinds[1]"),
        ({"kind": "pii", "options": {"region": ["US"]}}, "options.region: Extra inputs are not permitted"),
        ({"kind": "pii", "options": {"regions": ["usa"]}}, "options.regions[0]"),
        ({"kind": "pii", "options": {"on": ["sideways"]}}, "options.on[0]"),
        ({"kind": "pii", "options": {"placeholder": "{X}"}}, "options.placeholder: may hold {KIND}"),
        ({"kind": "blocklist"}, "give words, patterns or both"),
        ({"kind": "blocklist", "options": {"words": ["ok", "  "]}}, "options.words: [1] is only white space"),
        ({"kind": "blocklist", "options": {"patterns": ["a", "(?=b)"]}}, "options.patterns: [1]: is no regular"),
        ({"kind": "blocklist", "options": {"patterns": ["a*"]}}, "matches the empty text"),
        ({"kind": "blocklist", "options": {"patterns": ["^a"]}}, "is tied to the text's beginning or end"),
        ({"kind": "blocklist", "options": {"patterns": ["a$"]}}, "is tied to the text's beginning or end"),
        ({"kind": "bedrock_guardrail"}, "options.id: Field required"),
        ({"kind": "bedrock_guardrail", "options": {"id": "x", "version": "latest"}}, "options.version"),
        ({"kind": "sanitise", "action": "block"}, "action: a sanitiser has none"),
        ({"kind": "sanitise", "options": {"bidi": "drop"}}, "options.bidi"),
        ({"kind": "pii", "action": "delete"}, "filters.f.action"),
    ],
)
def test_what_a_filter_cannot_be_is_said_with_its_field(entry: dict[str, Any], said: str) -> None:
    message = problem(filters={"f": entry})
    assert "filters.f" in message
    assert said in message


def test_a_list_that_names_no_filter_is_refused() -> None:
    filters = {"pii": {"kind": "pii"}}
    message = problem(filters=filters, tenants={"acme": {"filters": ["pii", "pi"]}})
    assert "tenants.acme.filters[1]: no filter named 'pi' in [filters]: there are pii" in message
    message = problem(classes={"batch": {"weight": 1, "filters": ["x"]}})
    assert "classes.batch.filters[0]: no filter named 'x' in [filters]: there are none" in message


def test_a_reload_is_held_to_the_same() -> None:
    base = Settings(filters={"pii": {"kind": "pii"}}, tenants={"acme": {"filters": ["pii"]}}).policy
    with pytest.raises(StartupError, match="no filter named 'other'"):
        merge_policy(base, b'[tenants.acme]\nfilters = ["other"]')
    merged = merge_policy(base, b'[filters.other]\nkind = "secrets"\n[tenants.acme]\nfilters = ["other"]')
    assert merged.tenant("acme").filters == ("other",)
    assert isinstance(merged, Policy)


def test_patterns_in_classes_and_escapes_are_no_anchors() -> None:
    patterns = [r"[$^]+a", r"\$\d{2,4}", r"\^b", r"a\\b"]
    loaded = load(overrides={"filters": {"f": {"kind": "blocklist", "options": {"patterns": patterns}}}})
    assert loaded.filters["f"].options["patterns"] == patterns
