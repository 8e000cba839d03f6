"""What kind of task a request is taken for. `tests/support/prompt_corpus` holds 300 prompts with the kind that
each should be taken for and why: 200 to write the rules with, 100 that were fixed before."""

import hashlib
from collections import Counter
from pathlib import Path
from timeit import repeat
from typing import Any

import pytest

from sidecar.config.settings import (
    BedrockSettings,
    Policy,
    SelectionPolicy,
    Settings,
    TenantPolicy,
    merge_policy,
)
from sidecar.coordinator import inference
from sidecar.coordinator.inference import infer
from sidecar.coordinator.service import Coordinator
from sidecar.models.content import ImageBlock, Message, Source, TextBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.request import JobRequest, OutputSpec, Reasoning, Task
from tests.support.coordination import row, select

ROOT = Path(__file__).parents[3]
PROMPTS = ROOT / "tests" / "support" / "prompt_corpus"
HELD_OUT_SHA256 = "b7a1af456149eca5e0d4291fec534733e69aa65dbd0653a99e55a98e651b6c82"
KINDS = ("chat", "code", "extract", "summarize", "classify", "reason")
ROWS = tuple(row(f"m-{kind}", kinds=(kind,)) for kind in KINDS)


def says(*texts: str, **fields: Any) -> JobRequest:
    turns = (Message(role="user" if n % 2 == 0 else "assistant", content=t) for n, t in enumerate(texts))
    return JobRequest(messages=tuple(turns), **fields)


def kind_of(*texts: str, **fields: Any) -> str:
    return infer(says(*texts, **fields)).task.kind


def corpus(name: str) -> list[tuple[str, str]]:
    lines = (PROMPTS / f"{name}.tsv").read_text("utf-8").splitlines()
    return [(kind, text.replace("\\n", "\n")) for kind, _, text in (line.split("\t") for line in lines)]


def confusion(name: str) -> Counter[tuple[str, str]]:
    return Counter((wished, kind_of(text)) for wished, text in corpus(name))


def test_the_held_out_prompts_are_as_they_were_fixed() -> None:
    assert hashlib.sha256((PROMPTS / "held_out.tsv").read_bytes()).hexdigest() == HELD_OUT_SHA256
    assert (len(corpus("held_out")), len(corpus("written_with"))) == (100, 200)


@pytest.mark.parametrize(("name", "least"), [("held_out", 85), ("written_with", 190)])
def test_most_prompts_are_taken_for_what_they_are(name: str, least: int) -> None:
    found = confusion(name)
    assert sum(n for (wished, got), n in found.items() if wished == got) >= least, found


def test_the_published_table_is_that_of_the_held_out_prompts() -> None:
    found = confusion("held_out")
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    for wished in KINDS:
        cells = " | ".join(str(found[wished, got]) for got in KINDS)
        assert f"| {wished} | {cells} |" in page, f"| {wished} | {cells} |"


def test_what_a_request_names_is_never_overridden_and_the_reason_tells_what_was_inferred() -> None:
    subject = Coordinator(policy=Policy(), bedrock=BedrockSettings(regions=("us-east-1",)), rows=ROWS)
    job = says("Prove that there is no largest prime.")

    chosen = select(subject, job)
    assert chosen.candidates[0].profile.alias == "m-reason"
    assert "kind reason, quality balanced" in chosen.reason
    assert "inferred from prove" in chosen.reason
    named = says("Prove that there is no largest prime.", task=Task())
    assert select(subject, named).candidates[0].profile.alias == "m-chat"
    assert "inferred" not in select(subject, named).reason
    assert "inferred" not in select(subject, says("Prove it.", model="m-chat")).reason
    only_chat = select(subject, job, tenant=TenantPolicy(models=("m-chat",)))
    assert only_chat.candidates[0].profile.alias == "m-chat", "a guess never leaves a job without a model"


def test_inference_is_turned_off_and_a_reload_holds_at_once() -> None:
    subject = Coordinator(policy=Policy(), bedrock=BedrockSettings(regions=("us-east-1",)), rows=ROWS)
    subject.apply(Policy(selection=SelectionPolicy(infer=False)))
    chosen = select(subject, says("Prove that there is no largest prime."))

    assert chosen.candidates[0].profile.alias == "m-chat"
    assert chosen.reason == "best score for kind chat, quality balanced"
    told = Settings(selection=SelectionPolicy(infer_up_to="best")).policy
    assert told.selection.infer_up_to == "best", "a file says it"
    assert merge_policy(told, b"[selection]\ninfer = false").selection == SelectionPolicy(
        infer=False, infer_up_to="best"
    ), "and the bucket goes over it, field by field"


def test_a_request_that_names_its_model_or_task_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("was asked")

    monkeypatch.setattr("sidecar.coordinator.service.infer", fail)
    subject = Coordinator(policy=Policy(), bedrock=BedrockSettings(regions=("us-east-1",)), rows=ROWS)
    select(subject, says("hi", model="m-chat"))
    select(subject, says("hi", task=Task(kind="code")))


def test_the_best_is_inferred_only_where_it_may_be() -> None:
    hard = says("Prove step by step, by induction, that the theorem holds.")
    assert infer(hard).task.quality == "balanced"
    assert infer(hard, up_to="best").task.quality == "best"
    assert infer(hard, up_to="fast").task.quality == "fast"
    everything = [text for name in ("held_out", "written_with") for _, text in corpus(name)]
    assert all(infer(says(text)).task.quality != "best" for text in everything)


def test_shape_tells_too() -> None:
    choice = OutputSpec(schema={"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}})
    fields = OutputSpec(schema={"type": "object", "properties": {"name": {}, "age": {}, "city": {}}})
    assert kind_of("Ann is well.", output=choice) == "classify"
    assert kind_of("Ann is 5.", output=fields) == "extract"
    assert kind_of("Well?", reasoning=Reasoning(effort="high")) == "reason"
    assert kind_of("My dog ran off.", system="You classify messages. Reply with one label.") == "classify"
    assert infer(says("Extract the names: Ann")).task.quality == "fast"
    assert infer(says("Extract the names: " + "x" * 9_000)).task.quality == "balanced"
    picture = (TextBlock(text="Extract the names"), ImageBlock(source=Source(data=b"x"), format="png"))
    seen = infer(JobRequest(messages=(Message(role="user", content=picture),))).task
    assert (seen.kind, seen.quality) == ("extract", "balanced")


def test_a_conversation_stays_what_it_began_as() -> None:
    assert kind_of("Write a Python function.", "def f(): ...", "And the second one?") == "code"
    assert kind_of("Hello!", "Hi.", "Prove that 2 is prime.") == "reason"
    called = JobRequest(
        messages=(
            Message(role="user", content="Debug this script"),
            Message(role="assistant", content=(ToolUseBlock(id="1", name="t"),)),
            Message(role="user", content=(ToolResultBlock(tool_use_id="1", content="sunny"),)),
        )
    )
    assert infer(called).task.kind == "code", "a tool's result is not what was asked"


def test_only_both_ends_of_a_long_prompt_are_looked_at() -> None:
    filler = "word " * (4 * inference.END_CHARS)
    assert kind_of("Summarize this. " + filler) == "summarize"
    assert kind_of(filler + " Summarize the above.") == "summarize"
    assert kind_of(filler + " Summarize the above. " + filler) == "chat"
    assert kind_of(filler + "```\npublic class A {\n```" + filler) == "chat"


@pytest.mark.parametrize("text", [".", "\0", "🙂" * 900, "\ud83d", "x" * 100_000, "你好" * 700])
def test_any_text_is_some_kind(text: str) -> None:
    assert kind_of(text) == "chat"


def test_two_kilobytes_cost_little() -> None:
    """0.012 ms on the machine it was measured on; the bound leaves room for a busy one."""
    job = says(("Summarize this report. " + "The fox jumps over 12 lazy dogs (twice). " * 60)[:2048])
    assert min(repeat(lambda: infer(job), number=50, repeat=8)) / 50 < 0.001
