import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.emulator.behaviour import Behaviour, Circumstances, Fault, ToolCall, apply_steps
from sidecar.emulator.grammar import GrammarError, parse_behave, parse_directives


def behave(text: str, **now: object) -> Behaviour:
    steps, _ = parse_directives(text)
    return apply_steps(Behaviour(), steps, Circumstances(**now))  # type: ignore[arg-type]


def test_brackets_are_taken_out_of_the_text() -> None:
    steps, rest = parse_directives("Tell [[tokens=50 tps=200]] me a story")
    assert len(steps) == 1
    assert rest == "Tell  me a story"


def test_values_take_the_type_of_their_key() -> None:
    found = behave('[[tokens=50 tps=12.5 echo stop=end_turn reasoning=40 text="a ]] \\"b\\""]]')
    assert found == Behaviour(tokens=50, tps=12.5, echo=True, stop="end_turn", reasoning=40, text='a ]] "b"')


def test_nested_json_may_hold_the_closing_bracket() -> None:
    found = behave('[[tool=search input={"m": [[1], [2]]} id=tooluse_1]]')
    assert found.tools == (ToolCall("search", {"m": [[1], [2]]}, "tooluse_1"),)


def test_each_bracket_with_a_tool_is_one_call() -> None:
    found = behave('[[tool=a]] [[tool=b input={"x":1}]]')
    assert [call.name for call in found.tools] == ["a", "b"]


def test_a_tool_is_called_in_the_first_turn_unless_told_otherwise() -> None:
    text = "[[tool=a]] [[tool=b turn=2]] [[tool=c turn=0]]"
    assert [call.name for call in behave(text, turn=1).tools] == ["a", "c"]
    assert [call.name for call in behave(text, turn=2).tools] == ["b", "c"]


def test_a_fault_keeps_its_own_words() -> None:
    found = behave("[[fault=stall at=3 s=60]] [[fault=throttling retry_after=2]]")
    assert found.faults == (Fault("stall", at="3", s=60.0), Fault("throttling", retry_after=2.0))


@pytest.mark.parametrize("text", ["[[1, 2]]", "see [[Wiki page]]", "[[ ]]", "a [[ b", "[[Tokens=5]]"])
def test_other_brackets_are_ordinary_text(text: str) -> None:
    assert parse_directives(text) == ((), text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "[[tokens=many]]",
        "[[tokens=5 bogus=1]]",
        "[[fault=nonsense]]",
        "[[fault=stall at=somewhere]]",
        "[[tool=a input=[1]]]",
        '[[text="unfinished]]',
        "[[tokens=5",
        "[[s=5]]",
        "[[input={}]]",
    ],
)
def test_a_broken_directive_is_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        parse_directives(text)


def test_later_brackets_override_and_conditions_hold_for_their_bracket_alone() -> None:
    text = "[[tokens=5]] [[tokens=9 model=nova]] [[latency_ms=3]]"
    assert behave(text, model="amazon.nova-lite-v1:0").tokens == 9
    assert behave(text, model="anthropic.claude").tokens == 5
    assert behave(text, model="anthropic.claude").latency_ms == 3


def test_times_and_after_count_arrivals() -> None:
    text = "[[fault=throttling times=2]] [[fault=internal after=2]]"
    kinds = [[fault.kind for fault in behave(text, seen=seen).faults] for seen in range(4)]
    assert kinds == [["throttling"], ["throttling"], ["internal"], ["internal"]]


def test_a_behave_string_needs_no_brackets() -> None:
    assert parse_behave("tps=3") == parse_behave("[[tps=3]]")
    with pytest.raises(GrammarError):
        parse_behave("[[tps=3]] and more")


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        steps, rest = parse_directives(text)
    except GrammarError:
        assert "[[" in text
    else:
        assert steps or rest == text.strip()


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_answer_text_survives_quoting(answer: str) -> None:
    assert behave(f"[[text={json.dumps(answer)}]]").text == answer
