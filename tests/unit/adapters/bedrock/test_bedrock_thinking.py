"""Nova's inline reasoning, split off the text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.adapters.bedrock.thinking import ThinkingSplitter, split_thinking


def streamed(pieces: list[str]) -> tuple[str, str]:
    splitter = ThinkingSplitter()
    found = [piece for text in pieces for piece in splitter.feed(text)] + splitter.flush()
    thought = "".join(piece.text for piece in found if piece.is_reasoning)
    return thought, "".join(piece.text for piece in found if not piece.is_reasoning)


def whole(text: str) -> tuple[str, str]:
    found = split_thinking(text)
    assert [piece.is_reasoning for piece in found] in ([], [True], [False], [True, False])
    thought = "".join(piece.text for piece in found if piece.is_reasoning)
    return thought, "".join(piece.text for piece in found if not piece.is_reasoning)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ("", "plain")),
        ("<thinking> why </thinking>\n answer", ("why", "answer")),
        (" \n<thinking>why</thinking>answer <thinking>", ("why", "answer <thinking>")),
        ("about <thinking> tags", ("", "about <thinking> tags")),
        ("<thinking>never closed", ("never closed", "")),
        ("<thinking>only</thinking>", ("only", "")),
        ("<think", ("", "<think")),
        ("<thinking>a < b </ c</thinking>d", ("a < b </ c", "d")),
        (" leading space", ("", " leading space")),
        ("", ("", "")),
    ],
)
def test_parts(text: str, expected: tuple[str, str]) -> None:
    assert whole(text) == expected


@given(
    thought=st.none() | st.text(alphabet="ab <>/thinkg\n", max_size=30),
    answer=st.text(alphabet="ab <>/thinkg\n", max_size=30),
    cuts=st.lists(st.integers(0, 90), max_size=12),
)
def test_any_split_gives_the_same_two_parts(thought: str | None, answer: str, cuts: list[int]) -> None:
    text = answer if thought is None else f"<thinking>{thought}</thinking>{answer}"
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert streamed(pieces) == whole(text)
