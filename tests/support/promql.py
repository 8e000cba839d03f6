"""As much of PromQL as is needed to say which metrics and labels an expression is about."""

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:\d+\.?\d*|\.\d+)(?:ms|[smhdwy])?(?![A-Za-z_]))
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<range>\[[^\]]*\])
    |(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    |(?P<operator>=~|!~|==|!=|>=|<=|[-+*/%^<>=(){},])
    )""",
    re.VERBOSE,
)
FUNCTIONS = frozenset(
    [
        "absent",
        "changes",
        "histogram_quantile",
        "increase",
        "max_over_time",
        "min_over_time",
        "rate",
        "label_values",
    ]
)
AGGREGATIONS = frozenset({"sum", "min", "max", "topk", "avg", "count"})
WORDS = frozenset({"and", "or", "unless", "offset", "bool"})
LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})


class Selector(NamedTuple):
    """A metric in an expression, and what its labels are held against: label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


class Expression(NamedTuple):
    selectors: tuple[Selector, ...]
    grouped: frozenset[str]


def tokens(text: str) -> list[tuple[str, str]]:
    """Kind and text of each. Raises ValueError for what is not understood."""
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not understood at {at}: {text[at : at + 20]!r}")
        found.append((str(match.lastgroup), match[str(match.lastgroup)]))
        at = match.end()
    return found


def parse(text: str) -> Expression:
    """Raises ValueError for an unknown function or word, or unbalanced brackets."""
    if text.count("(") != text.count(")") or text.count("{") != text.count("}"):
        raise ValueError(f"brackets do not match in {text}")
    stream = tokens(text)
    selectors: list[Selector] = []
    grouped: set[str] = set()
    at = 0
    while at < len(stream):
        kind, word = stream[at]
        at += 1
        if kind != "name" or word in WORDS:
            continue
        if word in LISTS:
            names, at = _list(stream, at)
            grouped |= names
        elif word in FUNCTIONS or word in AGGREGATIONS:
            if at >= len(stream) or (stream[at][1] != "(" and stream[at][1] not in LISTS):
                raise ValueError(f"{word} is no metric")
        else:
            matchers, at = _matchers(stream, at)
            selectors.append(Selector(word, matchers))
    return Expression(tuple(selectors), frozenset(grouped))


def _list(stream: list[tuple[str, str]], at: int) -> tuple[set[str], int]:
    if at >= len(stream) or stream[at][1] != "(":
        return set(), at
    end = next(i for i in range(at, len(stream)) if stream[i][1] == ")")
    return {word for kind, word in stream[at:end] if kind == "name"}, end + 1


def _matchers(stream: list[tuple[str, str]], at: int) -> tuple[tuple[tuple[str, str, str], ...], int]:
    if at >= len(stream) or stream[at][1] != "{":
        return (), at
    end = next(i for i in range(at, len(stream)) if stream[i][1] == "}")
    words = [word for _, word in stream[at + 1 : end] if word != ","]
    triples = zip(*[iter(words)] * 3, strict=True)
    return tuple((label, operator, value.strip('"')) for label, operator, value in triples), end + 1
