"""Answers given as a tool's arguments or in an object around them: one text, however it was written and cut."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.adapters.bedrock.answer_text import AnswerText, answer_text

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


def escaped(text: str, every: int) -> str:
    """A JSON string with every n-th character as \\u escapes, as some models write them."""
    out = []
    for at, char in enumerate(text):
        if at % every:
            out.append(msgspec.json.encode(char).decode()[1:-1])
        else:
            units = char.encode("utf-16-be")
            out.extend(f"\\u{units[i]:02X}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    return f'"{"".join(out)}"'


def written(value: Any, every: int, space: str) -> str:
    """A value in another hand than ours."""
    if isinstance(value, dict):
        items = [f"{space}{escaped(k, every)}{space}:{space}{written(v, every, space)}" for k, v in value.items()]
        return "{" + ",".join(items) + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(space + written(v, every, space) for v in value) + space + "]"
    if isinstance(value, str):
        return escaped(value, every)
    return msgspec.json.encode(value).decode()


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(at)]


def streamed(parts: list[str], *, is_wrapped: bool) -> str:
    answer = AnswerText(is_wrapped=is_wrapped)
    return "".join([answer.feed(part) for part in parts]) + answer.flush()


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=4),
    st.integers(1, 4),
    st.sampled_from(["", " ", "\n\t ", "\r\n"]),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_an_object_reads_the_same_however_it_was_written_and_cut(
    value: dict[str, Any], every: int, space: str, cuts: list[int]
) -> None:
    hand = written(value, every, space)
    plain = msgspec.json.encode(value).decode()
    assert streamed(pieces(space + hand + space, cuts), is_wrapped=False) == plain
    assert answer_text(plain, is_wrapped=False) == plain


@settings(max_examples=80, deadline=None)
@given(JSON, st.integers(1, 4), st.sampled_from(["", "\n "]), st.lists(st.integers(0, 10_000), max_size=12))
def test_the_object_around_an_answer_is_taken_away(value: Any, every: int, space: str, cuts: list[int]) -> None:
    hand = written({"value": value}, every, space)
    plain = msgspec.json.encode(value).decode()
    assert streamed(pieces(hand, cuts), is_wrapped=True) == plain
    assert answer_text(msgspec.json.encode({"value": value}).decode(), is_wrapped=True) == plain


@settings(max_examples=120, deadline=None)
@given(
    st.text(st.sampled_from('{}[]":,\\ud8dc0e1. \n"value')) | st.text(),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_whatever_it_is_cutting_it_changes_nothing(text: str, is_wrapped: bool, cuts: list[int]) -> None:
    assert streamed(pieces(text, cuts), is_wrapped=is_wrapped) == answer_text(text, is_wrapped=is_wrapped)


@pytest.mark.parametrize(
    ("text", "is_wrapped", "said"),
    [
        ("I am sorry, I can not.", True, "I am sorry, I can not."),
        ("  as it is ", False, "  as it is "),
        ('{"other": 1}', True, '{"other":1}'),
        ('{"value": [1, 2', True, "[1,2"),
        ('{"value": "cut', True, '"cut'),
        ('{"a": "\\ud800"}', False, '{"a":"\\ud800"}'),
        ('{"a": 1.50, "b": 1E2}', False, '{"a":1.5,"b":100.0}'),
        ("{}", True, "{}"),
        ("", True, ""),
    ],
)
def test_what_is_no_whole_object_is_kept(text: str, is_wrapped: bool, said: str) -> None:
    assert answer_text(text, is_wrapped=is_wrapped) == said
