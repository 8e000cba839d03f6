"""Subjects, patterns with wildcards, and what is interested in which."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject fits a pattern with `*` for one token and `>` for the rest."""
    if "*" not in pattern:
        if not pattern.endswith(">"):
            return pattern == subject
        return subject.startswith(pattern[:-1]) and len(subject) >= len(pattern)
    wanted, found = pattern.split("."), subject.split(".")
    for i, want in enumerate(wanted):
        if want == ">":
            return len(found) > i
        if i >= len(found) or want not in ("*", found[i]):
            return False
    return len(wanted) == len(found)


def collide(one: str, other: str) -> bool:
    """Whether some subject fits both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def fixed_part(pattern: str) -> str:
    """The tokens before the first wildcard."""
    tokens = pattern.split(".")
    for i, token in enumerate(tokens):
        if token in ("*", ">"):
            return ".".join(tokens[:i])
    return pattern


def beginnings(subject: str) -> Iterator[str]:
    """The subject, and what is left of it as tokens are cut off its end; the last one is empty."""
    end = len(subject)
    while end > 0:
        yield subject[:end]
        end = subject.rfind(".", 0, end)
    yield ""


class Interest(Generic[T]):
    """What wants messages, found by subject. An entry lies under the fixed part of its pattern."""

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[str, T]]] = {}

    def add(self, pattern: str, what: T) -> None:
        self._entries.setdefault(fixed_part(pattern), []).append((pattern, what))

    def remove(self, pattern: str, what: T) -> None:
        fixed = fixed_part(pattern)
        left = [entry for entry in self._entries.get(fixed, ()) if entry != (pattern, what)]
        if left:
            self._entries[fixed] = left
        else:
            self._entries.pop(fixed, None)

    def of(self, subject: str) -> list[T]:
        """What is interested in a subject, the most exact first."""
        found: list[T] = []
        for fixed in beginnings(subject):
            for pattern, what in self._entries.get(fixed, ()):
                if pattern is subject or matches(pattern, subject):
                    found.append(what)
        return found


def mapping(source: str, destination: str) -> Callable[[str], str]:
    """How subjects that fit `source` are renamed, with `{{wildcard(n)}}` or `>` in `destination`."""
    wanted = source.split(".")
    places = [i for i, token in enumerate(wanted) if token == "*"]
    tokens = destination.split(".")

    def rename(subject: str) -> str:
        given = subject.split(".")
        made: list[str] = []
        for token in tokens:
            if token == ">":
                made += given[len(wanted) - 1 :]
            elif token.startswith("{{wildcard("):
                made.append(given[places[int(token[11:-3]) - 1]])
            else:
                made.append(token)
        return ".".join(made)

    return rename
