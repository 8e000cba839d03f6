from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.behaviour import Circumstances
from sidecar.emulator.grammar import parse_directives
from sidecar.emulator.scenario import Script, load_scenario, make_scenario

NOVA = Circumstances(model="us.amazon.nova-lite-v1:0", region="us-east-1", tenant="acme", operation="converse")
TOML = """
seed = 7
default = "tps=60"
[[rule]]
model = "*nova*"
prompt = "(?i)weather"
behave = "fault=throttling retry_after=2"
[[quota]]
model = "amazon.nova-lite-v1:0"
tokens_per_minute = 200000
[profiles]
team-a = "amazon.nova-lite-v1:0"
"""


def faults(script: Script, prompt: str = "hello", now: Circumstances = NOVA) -> list[str]:
    steps, plain = parse_directives(prompt)
    return [fault.kind for fault in script.decide(now, directives=steps, prompt=plain).faults]


def make_script(*rules: dict[str, Any], **scenario: Any) -> Script:
    return Script(make_scenario({"rule": list(rules), **scenario}))


@pytest.mark.parametrize("name", ["s.toml", "s.json"])
def test_a_file_is_read_as_toml_or_json(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = '{"default": "tps=60", "rule": [{"behave": "echo"}]}' if name.endswith("json") else TOML
    path.write_text(text)
    assert load_scenario(path).default == "tps=60"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rule": [{"behave": "fault=nonsense"}]}, "unknown fault 'nonsense'"),
        ({"rule": [{"behave": "echo", "modle": "x"}]}, "modle"),
        ({"rule": [{"behave": "echo", "prompt": "("}]}, "no regular expression"),
        ({"default": "bogus=1"}, "not a directive"),
        ({"default": "tps=1 bogus=1"}, "unknown key 'bogus'"),
        ({"quota": [{"tokens_per_minute": "many"}]}, "tokens_per_minute"),
    ],
)
def test_a_mistake_in_a_scenario_is_named_at_once(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_scenario(data)


def test_the_first_matching_rule_is_the_last_unless_it_goes_on() -> None:
    first = {"behave": "fault=internal", "model": "*nova*"}
    second = {"behave": "fault=unavailable"}
    assert faults(make_script(first, second)) == ["internal"]
    assert faults(make_script({**first, "go_on": True}, second)) == ["internal", "unavailable"]


@pytest.mark.parametrize(
    ("rule", "is_match"),
    [
        ({"region": "us-*"}, True),
        ({"region": "eu-*"}, False),
        ({"tenant": "acme"}, True),
        ({"tenant": "other"}, False),
        ({"operation": "converse-stream"}, False),
        ({"prompt": "hel+o"}, True),
        ({"prompt": "^ello"}, False),
    ],
)
def test_rules_match_what_they_name(rule: dict[str, Any], is_match: bool) -> None:
    assert faults(make_script({"behave": "fault=internal", **rule})) == ["internal"] * is_match


def test_nth_and_every_count_matching_calls() -> None:
    nth = make_script({"behave": "fault=internal", "nth": [1, 3]})
    assert [bool(faults(nth)) for _ in range(4)] == [True, False, True, False]
    every = make_script({"behave": "fault=internal", "every": 3})
    assert [bool(faults(every)) for _ in range(6)] == [False, False, True, False, False, True]


def test_chance_is_the_same_for_the_same_seed() -> None:
    def draw(seed: int) -> list[bool]:
        script = make_script({"behave": "fault=internal", "probability": 0.5}, seed=seed)
        return [bool(faults(script)) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert 10 < sum(draw(1)) < 40


def test_the_prompt_overrides_rules_and_rules_override_the_default() -> None:
    script = make_script({"behave": "tps=2 latency_ms=5"}, default="tps=1 ttft_ms=9")
    steps, plain = parse_directives("[[tps=3]]")
    found = script.decide(NOVA, directives=steps, prompt=plain)
    assert (found.tps, found.latency_ms, found.ttft_ms) == (3, 5, 9)


def test_times_counts_each_prompt_apart() -> None:
    script = make_script()
    text = "[[fault=throttling times=2]] {}"
    assert [bool(faults(script, text.format("a"))) for _ in range(3)] == [True, True, False]
    assert [bool(faults(script, text.format("b"))) for _ in range(3)] == [True, True, False]


def test_times_counts_only_calls_that_the_bracket_is_about() -> None:
    script = make_script()
    text = "[[fault=throttling times=1 model=claude]]"
    assert faults(script, text) == []
    claude = Circumstances(model="anthropic.claude")
    assert faults(script, text, claude) == ["throttling"]
    assert faults(script, text, claude) == []
