"""What docstrings of tools say: the description, and the arguments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.client.tools.docstrings import parse

GOOGLE = """Search the handbook.

    Only what is published is found.

    Args:
        query: Words to look for,
            in any order.
        limit (int, optional): How many: at most.
        *rest: Ignored.

    Returns:
        The hits.

    Raises:
        ToolError: Never.
    """
NUMPY = """Search the handbook.

    Parameters
    ----------
    query : str
        Words to look for,
        in any order.
    limit, offset : int, optional
        How many.

    Returns
    -------
    list
        The hits.
    """
FIELDS = """Search the handbook.

    :param query: Words to look for,
        in any order.
    :param int limit: How many.
    :type query: str
    :returns: The hits.
    """


def test_google_style() -> None:
    found = parse(GOOGLE)
    assert found.text == "Search the handbook.\n\nOnly what is published is found."
    assert found.arguments == {
        "query": "Words to look for, in any order.",
        "limit": "How many: at most.",
        "rest": "Ignored.",
    }


def test_numpy_style() -> None:
    found = parse(NUMPY)
    assert found.text == "Search the handbook."
    assert found.arguments == {
        "query": "Words to look for, in any order.",
        "limit": "How many.",
        "offset": "How many.",
    }


def test_restructured_text_fields() -> None:
    found = parse(FIELDS)
    assert found.text == "Search the handbook."
    assert found.arguments == {"query": "Words to look for, in any order.", "limit": "How many."}


@pytest.mark.parametrize(
    "text",
    [
        "One line.",
        "Args: are words like any others.",
        "Orders of a customer.\n\nNote: they are listed newest first.",
        "Parameters\n\nare spoken of here without a line below.",
        "A ratio of 3:1, and `key: value` pairs.",
        ": :",
    ],
)
def test_prose_stays_prose(text: str) -> None:
    assert parse(text).text == text
    assert parse(text).arguments == {}


def test_nothing_says_nothing() -> None:
    assert parse(None).text == ""
    assert parse("   \n  ").text == ""


@given(st.text(alphabet="aA:-* \n\t()Args:Returns", max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    found = parse(text)
    assert found.text == found.text.strip()
