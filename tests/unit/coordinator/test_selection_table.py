"""Which model of the shipped catalogue a task gets first, in us-east-1, and why somebody who knows them agrees."""

from typing import Any

import pytest

from sidecar.config.settings import ModelPolicy, TenantPolicy
from sidecar.coordinator.health import Success
from sidecar.coordinator.prefixes import LEAST_TOKENS, MOST_PREFIXES, prompt_prefixes
from sidecar.models.content import Message
from sidecar.models.profile import Price
from sidecar.models.request import JobBudget, JobRequest, OutputSpec, Params, Quality, Reasoning, Task, TaskKind
from tests.support.coordination import NOW, aliases, coordinator, request, row, select

CATALOGUE = coordinator()
SCHEMA = OutputSpec(schema={"type": "object"})

# Kind, quality, what else the request says, how long the prompt is; the model; the reason.
JUDGEMENTS: tuple[tuple[TaskKind, Quality, dict[str, Any], int, str, str], ...] = (
    ("chat", "fast", {}, 100, "nova-micro", "small talk: the cheapest that talks"),
    ("chat", "balanced", {}, 100, "nova-2-lite", "good talk at a seventh of Sonnet's price"),
    ("chat", "best", {}, 100, "claude-opus-5-5", "the newest Opus, and the cheapest of them"),
    ("chat", "fast", {"needs": ("images",)}, 100, "nova-lite", "micro is blind, lite is not"),
    ("chat", "fast", {"needs": ("documents",)}, 100, "nova-lite", "micro reads no documents"),
    ("chat", "balanced", {"needs": ("images",)}, 100, "nova-2-lite", "it sees"),
    ("chat", "best", {"needs": ("images",)}, 100, "claude-opus-5-5", "it sees"),
    ("chat", "fast", {"tools": ("search",)}, 100, "nova-micro", "one plain tool is within it"),
    ("chat", "balanced", {"tools": ("search",)}, 100, "nova-2-lite", "made for tools"),
    (
        "chat",
        "fast",
        {"needs": ("reasoning",)},
        100,
        "claude-haiku-5-5",
        "novas of the first edition do not think",
    ),
    ("code", "fast", {}, 100, "claude-haiku-5-5", "the small one that is good at code; micro and lite are not"),
    ("code", "balanced", {}, 100, "claude-sonnet-5-5", "code is what Sonnet is taken for"),
    (
        "code",
        "best",
        {},
        100,
        "claude-opus-5-5",
        "Fable costs over twice as much: it is named",
    ),
    ("code", "balanced", {"tools": ("run",)}, 100, "claude-sonnet-5-5", "an agent that writes code"),
    ("code", "balanced", {"needs": ("images",)}, 100, "claude-sonnet-5-5", "a screenshot of the fault"),
    ("code", "balanced", {}, 400_000, "claude-sonnet-5-5", "a whole repository: a window of a million"),
    ("code", "fast", {}, 400_000, "claude-haiku-5-5", "a whole repository, and it is small all the same"),
    ("code", "balanced", {"max_tokens": 20_000}, 100, "claude-sonnet-5-5", "a long file: novas end before"),
    ("code", "best", {"tools": ("run",)}, 100, "claude-opus-5-5", "an agent that may cost"),
    ("extract", "fast", {}, 100, "nova-micro", "fields of a short text"),
    ("extract", "fast", {"output": SCHEMA}, 100, "nova-micro", "a forced tool makes the form certain"),
    ("extract", "balanced", {"output": SCHEMA}, 100, "nova-2-lite", "reads better than micro, is cheap"),
    ("extract", "best", {"output": SCHEMA}, 100, "claude-sonnet-5-5", "Opus reads fields no better than Sonnet"),
    ("extract", "fast", {"needs": ("documents",)}, 100, "nova-lite", "a file to read"),
    ("extract", "balanced", {"needs": ("documents", "images")}, 100, "nova-2-lite", "a scanned form"),
    ("extract", "fast", {}, 200_000, "nova-lite", "beyond the window of micro, within that of lite"),
    ("summarize", "fast", {}, 5_000, "nova-micro", "a mail thread"),
    ("summarize", "balanced", {}, 20_000, "nova-2-lite", "a report"),
    ("summarize", "best", {}, 20_000, "claude-opus-5-5", "the board reads it"),
    ("summarize", "fast", {}, 200_000, "nova-lite", "long and cheap"),
    ("summarize", "balanced", {}, 500_000, "nova-2-lite", "a book within a million tokens"),
    ("classify", "fast", {}, 100, "nova-micro", "one word of answer"),
    ("classify", "balanced", {}, 100, "nova-2-lite", "fine classes"),
    ("classify", "best", {}, 100, "claude-sonnet-5-5", "Opus sorts no better than Sonnet"),
    ("classify", "fast", {"needs": ("images",)}, 100, "nova-lite", "sorting pictures"),
    ("classify", "fast", {"output": SCHEMA}, 100, "nova-micro", "an enum by a forced tool"),
    ("reason", "fast", {}, 100, "nova-2-lite", "the cheapest that thinks; micro cannot"),
    ("reason", "balanced", {}, 100, "claude-sonnet-5-5", "proofs and plans are beyond the small ones"),
    ("reason", "best", {}, 100, "claude-opus-5-5", "the hard ones"),
    (
        "reason",
        "balanced",
        {"reasoning": Reasoning(effort="high")},
        100,
        "claude-sonnet-5-5",
        "thinks as asked",
    ),
)


@pytest.mark.parametrize(("kind", "quality", "also", "tokens", "model", "why"), JUDGEMENTS)
def test_a_task_gets_the_model_that_an_expert_would_sign(
    kind: TaskKind, quality: Quality, also: dict[str, Any], tokens: int, model: str, why: str
) -> None:
    fields = dict(also)
    task = Task(kind=kind, quality=quality, needs=fields.pop("needs", ()))
    params = Params(max_tokens=fields.pop("max_tokens", None))

    found = select(CATALOGUE, request(task=task, params=params, **fields), input_tokens=tokens)

    assert found.candidates[0].profile.alias == model, why


def test_forty_judgements_are_held() -> None:
    assert len(JUDGEMENTS) == 40


def test_no_model_is_chosen_unasked_for_a_kind_it_is_not_declared_for_unless_nobody_else_is_left() -> None:
    subject = coordinator(row("talker"), row("coder", kinds=("code",)), row("both", kinds=("chat", "code")))
    code = request(task=Task(kind="code"))

    found = select(subject, code)
    assert set(aliases(found)) == {"coder", "both"}
    assert [r.reason for r in found.rejected] == ["not declared for kind code"]
    assert aliases(select(subject, request(model="talker", task=Task(kind="code"))))[0] == "talker", "named"
    alone = select(subject, code, tenant=TenantPolicy(models=("talker",)))
    assert aliases(alone) == ["talker"], "another kind's answer is better than none"
    assert "none that can serve is declared for this kind" in alone.reason
    poor = request(task=Task(kind="reason"), budget=JobBudget(max_cost_usd=0.001))
    assert "declared" in select(subject, poor).reason


def test_quality_is_that_of_the_kind() -> None:
    rows = (
        row("a", kinds=("chat", "code"), quality="balanced", quality_by_kind={"code": "fast"}),
        row("b", kinds=("chat", "code"), quality="fast", quality_by_kind={"code": "balanced"}),
    )
    assert aliases(select(coordinator(*rows), request(task=Task(kind="chat")))) == ["a", "b"]
    assert aliases(select(coordinator(*rows), request(task=Task(kind="code")))) == ["b", "a"]
    told = {"a": ModelPolicy(quality="balanced")}
    after = aliases(select(coordinator(*rows, models=told), request(task=Task(kind="code"))))
    assert after == ["a", "b"], "what the user says of the model holds for all kinds"


def says(*texts: str, **fields: Any) -> JobRequest:
    turns = (Message(role="user" if n % 2 == 0 else "assistant", content=t) for n, t in enumerate(texts))
    return JobRequest(messages=tuple(turns), **fields)


def test_warmth_is_of_the_conversation_that_was_cached() -> None:
    long = "x" * 5_000
    first = prompt_prefixes("acme", says(long), tokens=2_000)
    later = prompt_prefixes("acme", says(long, "yes", "and then?"), tokens=2_000)
    assert first[0] in later, "the next turn begins with the one before"
    assert not set(first) & set(prompt_prefixes("other", says(long), tokens=2_000)), "of another tenant"
    assert not set(first) & set(prompt_prefixes("acme", says("y" * 5_000), tokens=2_000)), "another conversation"
    shared = [set(prompt_prefixes("acme", says(t, system=long), tokens=2_000)) for t in ("one", "two")]
    assert len(shared[0] & shared[1]) == 1, "a long system prompt is cached for all that share it"
    many = prompt_prefixes("acme", says(*(["hi"] * 99), system=long), tokens=2_000)
    assert len(many) == MOST_PREFIXES + 1
    assert prompt_prefixes("acme", says("hi"), tokens=LEAST_TOKENS - 1) == (), "too short for any cache"
    assert prompt_prefixes("acme", says(long, cache="none"), tokens=2_000) == ()
    assert prompt_prefixes("acme", says(long, model="nova-lite"), tokens=2_000) == (), "nothing is chosen"


def test_a_warm_cache_never_more_than_doubles_the_price() -> None:
    subject = coordinator(row("a"), row("b", prices=(Price(input=4.0, output=20.0),)))
    other = next(c for c in select(subject, request(model=("b",))).candidates)
    subject.observe(other, Success(), now=NOW, cached=(b"talk",))

    assert aliases(select(subject, request(), prefixes=(b"talk",)))[0] == "a"


def test_an_id_with_a_base_is_called_by_that_id() -> None:
    own = {"own": ModelPolicy(id="acme.new-v1:0", base="a"), "known": ModelPolicy(id="acme.b-v1:0", base="a")}
    subject = coordinator(row("a"), row("b"), models=own)

    for alias, called in (("own", "acme.new-v1:0"), ("known", "acme.b-v1:0")):
        found = select(subject, request(model=alias)).candidates[0]
        assert (found.profile.alias, found.route.invoke_id) == (alias, called)
        assert found.profile.prices, "the base lends its price"
