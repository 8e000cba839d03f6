"""Scripts that do not stand in the prompt: ordered rules, and the memory that `times`, `nth` and chance need.

A scenario file is TOML or JSON:

    seed = 7
    default = "latency_ms=120 tps=60"      # every call, before any rule

    [[rule]]
    model = "*nova*"                       # glob over the model id; likewise `region` and `tenant`
    operation = "converse*"                # or of the others, which a rule has to name: `inference-profiles`,
                                           # `foundation-models`, `count-tokens`, `apply` (of a guardrail)
    prompt = "(?i)weather"                 # regular expression, searched in the user's last text
    nth = [1, 2]                           # only these of the calls that match the lines above, counted from 1
    every = 10                             # or every tenth of them
    probability = 0.05                     # or by chance, from the seeded generator
    behave = "fault=throttling retry_after=2"
    go_on = true                           # look at the rules below as well; otherwise the first match is the last

    [[quota]]                              # see `quota.py`
    model = "amazon.nova-lite-v1:0"
    tokens_per_minute = 200000

    models = ["amazon.nova-lite-v1:0"]     # known models; all others are refused
    [profiles]                             # application inference profiles: id to model id
    team-a = "amazon.nova-lite-v1:0"

`behave` is the grammar of `grammar.py`; what the prompt says overrides it.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from sidecar.emulator.behaviour import Behaviour, Circumstances, Step, apply_steps, is_met
from sidecar.emulator.grammar import parse_behave
from sidecar.emulator.quota import QuotaRule


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule of a scenario; see the module's example."""

    behave: str
    model: str = "*"
    region: str = "*"
    tenant: str = "*"
    operation: str = "*"
    prompt: str = ""
    nth: list[int] = []
    every: int = 1
    probability: float = 1.0
    go_on: bool = False

    def is_match(self, now: Circumstances, prompt: str) -> bool:
        """Whether the call is of the kind this rule is about; counting and chance come after."""
        return (
            fnmatchcase(now.model, self.model)
            and fnmatchcase(now.region, self.region)
            and fnmatchcase(now.tenant, self.tenant)
            and fnmatchcase(now.operation, self.operation)
            and (not self.prompt or _compile(self.prompt).search(prompt) is not None)
        )


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole scenario file."""

    seed: int = 0
    default: str = ""
    rule: list[Rule] = []
    quota: list[QuotaRule] = []
    models: list[str] = []
    profiles: dict[str, str] = {}


@lru_cache(maxsize=256)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file, JSON if it is named so, else TOML. Raises ValueError naming the mistake."""
    raw = path.read_bytes()
    data: Any = msgspec.json.decode(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    return make_scenario(data)


def make_scenario(data: Any) -> Scenario:
    """A scenario from decoded TOML or JSON; all `behave` strings and patterns are checked. Raises ValueError."""
    scenario = msgspec.convert(data, Scenario)
    for rule in scenario.rule:
        parse_behave(rule.behave)
        try:
            _compile(rule.prompt)
        except re.error as e:
            raise ValueError(f"prompt {rule.prompt!r} is no regular expression: {e}") from e
    if scenario.default:
        parse_behave(scenario.default)
    return scenario


class Script:
    """Decides how each call behaves: default, then rules, then the prompt's own brackets."""

    def __init__(self, scenario: Scenario) -> None:
        self.load(scenario)

    def load(self, scenario: Scenario) -> None:
        """Start over with another scenario."""
        self.scenario = scenario
        self.random = random.Random(scenario.seed)  # noqa: S311 - chance for tests, not for secrets
        self._base = Behaviour()
        if scenario.default:
            self._base = apply_steps(self._base, parse_behave(scenario.default), Circumstances())
        self._matches: Counter[int] = Counter()
        self._seen: Counter[tuple[str, str]] = Counter()

    def decide(self, now: Circumstances, *, directives: Sequence[Step], prompt: str) -> Behaviour:
        """The behaviour of this call. Counts it: the next call with the same prompt may be answered otherwise."""
        behaviour = self._base
        for index, rule in enumerate(self.scenario.rule):
            if rule.is_match(now, prompt) and self._is_due(index, rule):
                behaviour = self._apply(behaviour, parse_behave(rule.behave), now, prompt)
                if not rule.go_on:
                    break
        return self._apply(behaviour, directives, now, prompt) if directives else behaviour

    def decide_plain(self, now: Circumstances) -> Behaviour:
        """The behaviour of an operation that is no model call: only rules that name operations count."""
        behaviour = Behaviour()
        for index, rule in enumerate(self.scenario.rule):
            if rule.operation != "*" and rule.is_match(now, "") and self._is_due(index, rule):
                behaviour = self._apply(behaviour, parse_behave(rule.behave), now, "")
                if not rule.go_on:
                    break
        return behaviour

    def _is_due(self, index: int, rule: Rule) -> bool:
        self._matches[index] += 1
        count = self._matches[index]
        if rule.nth and count not in rule.nth:
            return False
        if count % rule.every:
            return False
        return rule.probability >= 1.0 or self.random.random() < rule.probability

    def _apply(self, base: Behaviour, steps: Sequence[Step], now: Circumstances, prompt: str) -> Behaviour:
        for step in steps:
            moment = now
            if "times" in step.conditions or "after" in step.conditions:
                moment = self._moment(step, now, prompt)
            base = apply_steps(base, (step,), moment)
        return base

    def _moment(self, step: Step, now: Circumstances, prompt: str) -> Circumstances:
        """`now` with the number of times that this bracket of this prompt was asked for before."""
        uncounted = Step(
            step.source, {}, {k: v for k, v in step.conditions.items() if k not in ("times", "after")}
        )
        if not is_met(uncounted, now):
            return now
        key = (step.source, prompt)
        seen = self._seen[key]
        self._seen[key] += 1
        return replace(now, seen=seen)
