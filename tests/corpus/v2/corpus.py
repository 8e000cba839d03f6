"""Reads the corpus: texts, and the stretches in them that must not be shown.

A line of a data file is `{"i": id, "k": kind, "t": [...]}`. `t` holds plain strings and values,
`[type, part, part]`; a value is written in two parts so that scanners for leaked keys let the file be. `k` says
where the text comes from: the file in `source/` and the line in it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
HALVES = ("open", "frozen")


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    type: str


@dataclass(frozen=True)
class Example:
    id: str
    kind: str
    text: str
    spans: tuple[Span, ...]


def parsed(line: str) -> Example:
    data = json.loads(line)
    text, spans = "", []
    for piece in data["t"]:
        if isinstance(piece, list):
            value = "".join(piece[1:])
            spans.append(Span(len(text), len(text) + len(value), piece[0]))
            text += value
        else:
            text += piece
    return Example(data["i"], data["k"], text, tuple(spans))


def load(half: str, name: str) -> Iterator[Example]:
    """The examples of a half: `open` or `frozen`; `name` is `positives` or `negatives`."""
    for line in (HERE / half / f"{name}.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            yield parsed(line)


def digest(half: str) -> str:
    """SHA-256 over the half's files: a half that is fixed keeps it."""
    files = sorted((HERE / half).glob("*.jsonl"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
