"""Why a payload was refused, as its sender wants to read it: the field's path, what is wrong, what to do.

The decoder stops at the first fault with a short message and a path. This module looks at the type that
stands at that path, and at what was sent, and adds the remedy. It runs on the error path only, takes time
linear in the payload, and quotes no more than a few characters of it: payloads are confidential.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.base import FieldError
from sidecar.models.typepath import TypePlace, locate

_QUOTE_CHARS = 40
_LIST_ITEMS = 24
_PATH_CHARS = 512
_WITH_PATH = re.compile(r"(?s)(?P<text>.*?)(?: - at `(?:key in `?)?(?P<path>\$[\w.\[\]]*)`+)?\Z")
_PLAIN_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
_KINDS = {
    "array": "a list",
    "object": "an object",
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "bytes": "a base64 string",
    "datetime": "an RFC 3339 time",
    "null": "null",
}


def explain(error: Exception, payload: bytes, kind: Any, *, prefix: str = "") -> InvalidRequest:
    """The refusal of `payload` as a message of type `kind`, in words. `prefix` is the path of the payload."""
    if isinstance(error, RecursionError):
        return InvalidRequest("the JSON is nested too deep: flatten it", path=prefix)
    text, fault = _parse(payload)
    if fault is not None:
        return InvalidRequest(fault, path=prefix)
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequest(_not_strict(payload, str(error)), path=prefix)
    return _explain_field(error, text, kind, prefix)


def _explain_field(error: msgspec.ValidationError, value: Any, kind: Any, prefix: str) -> InvalidRequest:
    match = _WITH_PATH.match(str(error))
    complaint, dotted = (match["text"], match["path"] or "$") if match else (str(error), "$")
    place = locate(kind, value, dotted)
    cause = error.__cause__
    if isinstance(cause, FieldError):
        return InvalidRequest(cause.message, path=_join(prefix, place.path, cause.path))
    for pattern, words in _RULES:
        found = pattern.match(complaint)
        if found is not None:
            message, field = words(place, found)
            return InvalidRequest(message, path=_join(prefix, place.path, field))
    return InvalidRequest(_cut(complaint, 400), path=_join(prefix, place.path))


def _parse(payload: bytes) -> tuple[Any, str | None]:
    """The payload as plain values, or why it is no JSON text at all."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as e:
        return None, f"the payload is not UTF-8: byte {e.start} (0x{payload[e.start]:02x}); encode it as UTF-8"
    if text.startswith("\ufeff"):
        return None, "the payload begins with a byte order mark: send UTF-8 without one"
    try:
        return json.loads(text, parse_int=_integer), None
    except json.JSONDecodeError as e:
        if not text.strip():
            return None, "the payload is empty: send a JSON object"
        offset = len(text[: e.pos].encode())
        where = f"line {e.lineno}, column {e.colno} (byte {offset})"
        return None, f"the payload is not JSON: {e.msg} at {where}; send one JSON object"
    except RecursionError:
        return None, "the JSON is nested too deep: flatten it"


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 40 else float("inf")


def _not_strict(payload: bytes, complaint: str) -> str:
    """JSON that a lenient parser takes: NaN, Infinity, or an escape of half a surrogate pair."""
    if any(word in complaint for word in ("surrogate", "truncated", "escape")):
        return "a string holds half a surrogate pair (\\ud800 to \\udfff alone): send whole characters"
    at = re.search(r"\(byte (\d+)\)", complaint)
    offset = int(at[1]) if at else 0
    line = payload.count(b"\n", 0, offset) + 1
    column = offset - payload.rfind(b"\n", 0, offset)
    word = re.search(rb"NaN|Infinity", payload[max(0, offset - 3) : offset + 9])
    what = "NaN and Infinity are not JSON: send a number or null" if word else "send strict JSON (RFC 8259)"
    return f"the payload is not JSON at line {line}, column {column} (byte {offset}): {what}"


def _unknown(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    field, known = found[1], place.fields()
    near = difflib.get_close_matches(field[:64], known, n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]!r}?" if near else f"known here: {_listed(known)}"
    step = field if _PLAIN_NAME.fullmatch(field) else f"[{json.dumps(field[:_QUOTE_CHARS])}]"
    return f"unknown field {_cut(field)!r}: {remedy}", step


def _missing(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    field = found[1]
    allowed = place.tags(field)
    remedy = f"give one of {_listed(allowed)}" if allowed else "add it"
    return f"field {field!r} is missing: {remedy}", field


def _enum(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    return f"{place.name} does not take {_cut(found[1])}: use one of {_listed(place.choices())}", ""


def _tag(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    return f"{place.name} {_cut(found[1])} is not known: use one of {_listed(place.choices())}", ""


def _wrong_type(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    return f"{place.name} must be {_kinds(found[1])}, not {_kinds(found[2])}", ""


def _type_alone(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    return f"{place.name} must be {_kinds(found[1])}", ""


def _length(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    unit = {"str": "characters", "array": "entries", "object": "entries"}.get(found[1], "bytes")
    bound = {">=": "at least", "<=": "at most"}[found[2]]
    return f"{place.name} must have {bound} {found[3]} {unit}, not {place.length}", ""


def _bound(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    return f"{place.name} must be {found[2]} {found[3]}, not {_cut(repr(place.value))}", ""


def _pattern(place: TypePlace, found: re.Match[str]) -> tuple[str, str]:
    return f"{place.name} must be {place.description or 'a match of ' + found[2]}", ""


def _says(words: str) -> Callable[[TypePlace, re.Match[str]], tuple[str, str]]:
    return lambda place, _: (f"{place.name} {words}", "")


_RULES: tuple[tuple[re.Pattern[str], Callable[[TypePlace, re.Match[str]], tuple[str, str]]], ...] = (
    (re.compile(r"(?s)Object contains unknown field `(.*)`\Z"), _unknown),
    (re.compile(r"Object missing required field `(.*)`\Z"), _missing),
    (re.compile(r"(?s)Invalid enum value (.*)\Z"), _enum),
    (re.compile(r"(?s)Invalid value (.*)\Z"), _tag),
    (re.compile(r"Expected `([^`]*)`, got `([^`]*)`"), _wrong_type),
    (re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)"), _length),
    (re.compile(r"Expected `(\w+)` (>=|<=|>|<) (\S+)"), _bound),
    (re.compile(r"(?s)Expected `(\w+)` matching regex (.*)\Z"), _pattern),
    (re.compile(r"Expected `datetime` with a timezone"), _says("has no time zone: end it with Z or an offset")),
    (re.compile(r"Expected `([^`]*)`\Z"), _type_alone),
    (re.compile(r"Invalid base64"), _says("is not base64: use the standard alphabet with padding (RFC 4648)")),
    (re.compile(r"Invalid RFC3339"), _says("is not a time: write it like 2026-12-01T10:00:00.000Z")),
    (re.compile(r"(Integer value|Number) out of range"), _says("is out of range: send a smaller number")),
)


def _kinds(names: str) -> str:
    words = [_KINDS.get(name.strip(), name.strip()) for name in names.split("|")]
    words.sort(key=lambda word: word == "null")
    return " or ".join(words)


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    more = f" and {len(words) - _LIST_ITEMS} more" if len(words) > _LIST_ITEMS else ""
    return ", ".join(words[:_LIST_ITEMS]) + more


def _cut(text: str, limit: int = _QUOTE_CHARS) -> str:
    """Short, and on one line: messages travel in headers, too."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "·" for c in cut)


def _join(*parts: str) -> str:
    path = ""
    for part in parts:
        path += f".{part}" if path and part and not part.startswith("[") else part
    return path[:_PATH_CHARS]
