"""The one grammar in which behaviour is scripted.

It stands in the last text of the user (`[[tokens=50 tps=200]] Tell me a story`), in the `behave` strings of a
scenario, and in the bodies of the control endpoint. A bracket holds words: `key=value`, or a bare `key` for true.
A value is a bare word, a JSON string, a JSON object or a JSON array. Brackets apply in order, later ones override.
A bracket that does not begin with a key of this table is ordinary text; one that does, and goes on with a word
that nobody knows, is refused with 400.

Answer
    text="..."            the answer
    echo                  answer with the user's text, without brackets
    tokens=50             length of the answer, in tokens of four characters
    reasoning="..." | 40  a reasoning block first, given or of so many tokens; `redacted` makes it unreadable
    tool=name input={}    a tool call; each bracket with `tool` is one more call of the same turn. `id=` sets its
                          id, `raw="{"` sends arguments that are no JSON; turn=2 calls in the second turn, turn=0
                          in every turn. Tools are called only where the request offers some
    stop=content_filtered the stop reason, whatever the answer
    guardrail=block|mask  the guardrail intervenes: with its own message, or by masking a word of the answer
    citations             the text comes as a citations block
    cache_read=, cache_write=   token counts in the usage

Pace
    latency_ms=30         before the status line
    ttft_ms=80            between the headers and the first event
    tps=200               tokens per second; 0 is as fast as possible. A plain answer is delayed by as much
    chunk_tokens=4        tokens in a delta
    jitter=0.3            every pause is longer or shorter by up to this share, from the seeded generator

Fault, one for each bracket with `fault`
    fault=kind            an exception or a broken transfer, see `WIRE_FAULTS` in `behaviour.py`
                          and `EXCEPTIONS` in `exceptions.py`
    at=3|mid|stop|end|headers   before the event with this number (from 0), in the middle, after messageStop, after
                          the last event, before the headers. Without `at`, exceptions come as an HTTP status
    s=60                  seconds of a stall (default 3600)
    bytes=65536           size of a huge frame, or of a slow drip's pieces
    retry_after=2         adds `Retry-After`
    message="..."         instead of the usual message

Conditions of a bracket
    model=nova-lite       only where the model id contains it
    region=us-west-2, tenant=acme, operation=converse-stream    only where equal
    turn=2                only in the turn with this number: 1 + answers with tool calls since the user's text
    times=2               only the first two times that this prompt arrives
    after=1               not the first time that this prompt arrives
"""

import json
import re
from functools import lru_cache
from typing import Any

from sidecar.emulator.behaviour import EXCEPTION_FAULTS, FAULT_KEYS, TOOL_KEYS, WIRE_FAULTS, Step

_BOOLEAN = frozenset({"echo", "redacted", "citations"})
_INTEGER = frozenset({"tokens", "chunk_tokens", "cache_read", "cache_write", "bytes", "turn", "times", "after"})
_NUMBER = frozenset({"latency_ms", "ttft_ms", "tps", "jitter", "s", "retry_after"})
_STRING = frozenset({"text", "tool", "id", "raw", "stop", "guardrail", "fault", "message"})
_NAME = frozenset({"model", "region", "tenant", "operation"})
_CONDITIONS = ("model", "region", "tenant", "operation", "turn", "times", "after")
KEYS = _BOOLEAN | _INTEGER | _NUMBER | _STRING | _NAME | {"reasoning", "input", "at"}

_PLACES = ("mid", "stop", "end", "headers")
_WORD = re.compile(r"\s*([a-z_]+)")
_BARE = re.compile(r"(?:(?!\]\])\S)+")
_raw_decode = json.JSONDecoder().raw_decode


class GrammarError(ValueError):
    """A bracket that begins like a directive but is none; the message names the word."""


@lru_cache(maxsize=4096)
def parse_directives(text: str) -> tuple[tuple[Step, ...], str]:
    """The brackets in `text`, and the text without them. Raises GrammarError."""
    steps: list[Step] = []
    rest: list[str] = []
    position = 0
    while (start := text.find("[[", position)) >= 0:
        word = _WORD.match(text, start + 2)
        if word is None or word[1] not in KEYS:
            rest.append(text[position : start + 2])
            position = start + 2
            continue
        values, end = _parse_words(text, start + 2)
        rest.append(text[position:start])
        steps.append(_make_step(text[start:end], values))
        position = end
    rest.append(text[position:])
    return tuple(steps), "".join(rest).strip()


@lru_cache(maxsize=256)
def parse_behave(text: str) -> tuple[Step, ...]:
    """Steps of a `behave` string: brackets, or the words of a single one. Raises GrammarError."""
    bracketed = text if text.lstrip().startswith("[[") else f"[[{text}]]"
    steps, rest = parse_directives(bracketed)
    if rest:
        raise GrammarError(f"not a directive: {rest!r}")
    return steps


def _parse_words(text: str, position: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    while True:
        while text[position : position + 1].isspace():
            position += 1
        if text.startswith("]]", position):
            return values, position + 2
        word = _WORD.match(text, position)
        if word is None:
            raise GrammarError(f"expected key=value at {text[position : position + 20]!r}")
        key = word[1]
        if key not in KEYS:
            raise GrammarError(f"unknown key {key!r}")
        position = word.end()
        value: Any = True
        if text.startswith("=", position):
            value, position = _parse_value(text, position + 1)
        values[key] = _convert(key, value)


def _parse_value(text: str, position: int) -> tuple[Any, int]:
    if text[position : position + 1] in ('"', "{", "["):
        try:
            return _raw_decode(text, position)
        except json.JSONDecodeError as e:
            raise GrammarError(f"bad JSON at {text[position : position + 20]!r}: {e.msg}") from e
    bare = _BARE.match(text, position)
    if bare is None:
        raise GrammarError("a key without a value after =")
    return bare[0], bare.end()


def _convert(key: str, value: Any) -> Any:
    if key in _BOOLEAN:
        return value is True or value == "true"
    if key in _INTEGER or key in _NUMBER:
        try:
            return int(value) if key in _INTEGER else float(value)
        except (TypeError, ValueError) as e:
            raise GrammarError(f"{key} wants a number, not {value!r}") from e
    if key == "input":
        if not isinstance(value, dict):
            raise GrammarError("input wants a JSON object")
        return value
    if not isinstance(value, str):
        raise GrammarError(f"{key} wants a text, not {value!r}")
    return _convert_text(key, value)


def _convert_text(key: str, value: str) -> str | int:
    if key == "reasoning" and value.isdecimal():
        return int(value)
    if key == "at" and value not in _PLACES and not value.isdecimal():
        raise GrammarError(f"at wants a number or one of {', '.join(_PLACES)}")
    if key == "fault" and value not in EXCEPTION_FAULTS and value not in WIRE_FAULTS:
        raise GrammarError(f"unknown fault {value!r}")
    return value


def _make_step(source: str, values: dict[str, Any]) -> Step:
    conditions = {key: values.pop(key) for key in _CONDITIONS if key in values}
    if "tool" in values:
        conditions.setdefault("turn", 1)
    for lead, keys in (("tool", TOOL_KEYS), ("fault", FAULT_KEYS)):
        stray = [key for key in keys if key in values and lead not in values]
        if stray:
            raise GrammarError(f"{stray[0]} without {lead}")
    return Step(source, values, conditions)
