"""Descriptions out of a docstring: the tool's own, and those of its arguments. Pure.

Understands the sections of Google's style, of NumPy's, and the fields of reStructuredText; whatever it does not
recognise belongs to the tool's description.
"""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_ARGUMENTS = frozenset({"args", "arguments", "parameters", "params", "keyword args", "keyword arguments"})
_OTHERS = frozenset(
    {"returns", "return", "yields", "raises", "examples", "example", "notes", "note", "see also", "references"}
)
_GOOGLE_ITEM = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:(?:\s+(?P<text>.*))?\Z")
_NUMPY_ITEM = re.compile(r"(?P<names>\w+(?:\s*,\s*\w+)*)\s*(?::.*)?\Z")
_FIELD = re.compile(r":(?P<kind>\w+)(?:\s+(?P<words>[^:]*))?:\s*(?P<text>.*)\Z")
_FIELD_ARGUMENTS = frozenset({"param", "parameter", "arg", "argument", "key", "keyword"})
_UNDERLINE = re.compile(r"-{3,}\Z")


@dataclass(slots=True)
class Description:
    """`text` is empty where the docstring says nothing; `arguments` maps names to what is said of them."""

    text: str = ""
    arguments: dict[str, str] = field(default_factory=dict)


class _Section(NamedTuple):
    title: str
    body: int
    is_numpy: bool


def parse(docstring: str | None) -> Description:
    """What a docstring says to the model. Sections about returns, errors and examples are left out."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    found = Description()
    text: list[str] = []
    i = 0
    while i < len(lines):
        section = _section(lines, i)
        match = _FIELD.match(lines[i])
        if section is not None:
            i = _body_end(lines, section)
            if section.title in _ARGUMENTS:
                read = _numpy_items if section.is_numpy else _google_items
                found.arguments.update(read(lines[section.body : i]))
        elif match is not None:
            i = _read_field(lines, i, match, found)
        else:
            text.append(lines[i])
            i += 1
    found.text = _paragraphs(text)
    return found


def _section(lines: Sequence[str], i: int) -> _Section | None:
    """The section that begins at line `i`, if one does."""
    line = lines[i].rstrip().lower()
    following = lines[i + 1] if i + 1 < len(lines) else ""
    known = _ARGUMENTS | _OTHERS
    if line in known and _UNDERLINE.match(following.rstrip()):
        return _Section(line, i + 2, is_numpy=True)
    if line.endswith(":") and line[:-1] in known and (not following.strip() or following[:1].isspace()):
        return _Section(line[:-1], i + 1, is_numpy=False)
    return None


def _body_end(lines: Sequence[str], section: _Section) -> int:
    for i in range(section.body, len(lines)):
        is_outside = bool(lines[i].strip()) and not lines[i][:1].isspace()
        if is_outside and (not section.is_numpy or _section(lines, i) or _FIELD.match(lines[i])):
            return i
    return len(lines)


def _google_items(body: Iterable[str]) -> dict[str, str]:
    lines = inspect.cleandoc("\n" + "\n".join(body)).splitlines()
    items: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        match = None if line[:1].isspace() else _GOOGLE_ITEM.match(line)
        if match is not None:
            current = items.setdefault(match["name"], [])
            line = match["text"] or ""
        current.append(line)
    return {name: _one_line(words) for name, words in items.items()}


def _numpy_items(body: Iterable[str]) -> dict[str, str]:
    items: dict[str, str] = {}
    names: list[str] = []
    words: list[str] = []
    for line in [*body, "end"]:
        if line.strip() and not line[:1].isspace():
            items.update(dict.fromkeys(names, _one_line(words)))
            match = _NUMPY_ITEM.match(line.strip().lstrip("*"))
            names, words = ([n.strip() for n in match["names"].split(",")] if match else []), []
        else:
            words.append(line)
    return items


def _read_field(lines: Sequence[str], i: int, match: re.Match[str], found: Description) -> int:
    """Take a reStructuredText field with the lines that belong to it; where the next thing begins."""
    words = [match["text"]]
    i += 1
    while i < len(lines) and lines[i][:1].isspace() and lines[i].strip():
        words.append(lines[i])
        i += 1
    if match["kind"] in _FIELD_ARGUMENTS and (match["words"] or "").strip():
        found.arguments[(match["words"] or "").split()[-1]] = _one_line(words)
    return i


def _one_line(words: Iterable[str]) -> str:
    return " ".join(" ".join(words).split())


def _paragraphs(lines: Sequence[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip()
