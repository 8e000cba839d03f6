"""JSON Schemas as Bedrock takes them: a subset with closed objects for native output, plain objects for tools.

What is left out is written into the description, so that the model still knows of it; that it holds is checked
when the answer is validated against the schema that was asked for. Nothing here changes what counts as valid.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec

VALUE = "value"
"""The one property of the object that stands around an answer whose schema is no plain object."""

_REFUSED = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "minProperties",
        "maxProperties",
        "contains",
        "minContains",
        "maxContains",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
        "unevaluatedItems",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "if",
        "then",
        "else",
        "not",
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "$vocabulary",
    }
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!", "\\b", "\\B", "\\1")
_OF_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_ONE_SCHEMA = frozenset(
    {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
)
_DEFINITIONS = ("$defs", "definitions")
_NOT_AT_A_TOOLS_ROOT = ("anyOf", "oneOf", "allOf", "not", "if", "$ref", "$dynamicRef", "$recursiveRef", "enum")
_SAYS_WHAT = ("type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "properties", "items")
_OTHER_REFERENCES = ("$dynamicRef", "$recursiveRef")
_MOST_TOLD = 300
_MOST_INLINED = 2_000
_DEEPEST_INLINED = 150


class SchemaForms:
    """The forms of one output schema, each made when it is first asked for, or all of them elsewhere.

    `sent` describes an object: where `is_wrapped`, one around what was asked for.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self.is_wrapped = not is_plain_object(asked)
        self._asked = asked

    @cached_property
    def sent(self) -> dict[str, Any]:
        return wrapped(self._asked) if self.is_wrapped else self._asked

    @cached_property
    def lost(self) -> str | None:
        return inexpressible(self.sent)

    @cached_property
    def strict(self) -> tuple[dict[str, Any], list[str]]:
        return strict_schema(self.sent)

    @cached_property
    def inlined(self) -> dict[str, Any]:
        return inlined(self.sent)


class MadeForms(msgspec.Struct, frozen=True, array_like=True):
    """All forms of a schema, as a worker process gives them."""

    sent: dict[str, Any]
    lost: str | None
    strict: tuple[dict[str, Any], list[str]]
    inlined: dict[str, Any]

    def of(self, asked: dict[str, Any]) -> SchemaForms:
        forms = SchemaForms(asked)
        forms.sent, forms.lost, forms.strict, forms.inlined = self.sent, self.lost, self.strict, self.inlined
        return forms


def make_forms(schema: bytes) -> MadeForms:
    """For a worker process: all forms of a schema (JSON)."""
    forms = SchemaForms(msgspec.json.decode(schema))
    return MadeForms(forms.sent, forms.lost, forms.strict, forms.inlined)


def strict_schema(schema: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The schema with what strict mode refuses left out, and the names of what was left out."""
    dropped: set[str] = set()
    return _object(schema, dropped), sorted(dropped)


def inexpressible(schema: dict[str, Any]) -> str | None:
    """What of a schema strict mode could not say at all, so that valid answers would be lost; None if nothing.

    Open objects (maps), parts of any type, schemas that contain themselves, and parts that must all hold at once.
    """
    for part in _parts(schema):
        if any(name in part for name in _OTHER_REFERENCES):
            return "dynamic references"
        if len(part.get("allOf") or ()) > 1 or ("allOf" in part and "properties" in part):
            return "allOf"
        if _is_open(part):
            return "objects with free names"
        if not any(name in part for name in _SAYS_WHAT):
            return "parts of any type"
    return "a definition that contains itself" if _is_recursive(schema) else None


def is_plain_object(schema: dict[str, Any]) -> bool:
    """Whether a tool's input may be described by this schema as it is."""
    return schema.get("type") == "object" and not any(name in schema for name in _NOT_AT_A_TOOLS_ROOT)


def wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """An object whose property `value` is what `schema` describes; its references still lead where they did."""
    inner = _rebased(schema)
    around: dict[str, Any] = {
        "type": "object",
        "properties": {VALUE: {k: v for k, v in inner.items() if k not in _DEFINITIONS and k != "$schema"}},
        "required": [VALUE],
        "additionalProperties": False,
    }
    return around | {name: inner[name] for name in _DEFINITIONS if name in inner}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions in place of references, for families that read no `$defs`.

    Unchanged where definitions contain themselves or would grow beyond measure.
    """
    if not any(name in schema for name in _DEFINITIONS) or _is_recursive(schema):
        return schema
    budget = [_MOST_INLINED]
    flat = _flat(schema, schema, budget, depth=0)
    if budget[0] < 0 or not isinstance(flat, dict):
        return schema
    return {key: value for key, value in flat.items() if key not in _DEFINITIONS}


def _object(schema: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    told: list[str] = []
    for key, value in schema.items():
        if _is_refused(key, value):
            if not key.startswith("$"):
                dropped.add(key)
                told.append(f"{key}={value}"[:_MOST_TOLD])
        elif key in _OF_SCHEMAS and isinstance(value, dict):
            out[key] = {name: _any(child, dropped) for name, child in value.items() if child is not False}
        elif key in _LISTS and isinstance(value, list):
            # Exactly one of several is checked afterwards; to be written, any of them will do.
            name = "anyOf" if key == "oneOf" and "anyOf" not in schema else key
            out[name] = [_any(child, dropped) for child in value]
        elif key == "items":
            out[key] = _any(value, dropped)
        else:
            out[key] = value
    if told:
        out["description"] = ". ".join(filter(None, [_text(out.get("description")), ", ".join(told)]))
    if out.get("type") == "object" or "properties" in out:
        if out.get("additionalProperties", False) is not False:
            dropped.add("additionalProperties")
        out["additionalProperties"] = False
    return out


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _any(schema: Any, dropped: set[str]) -> Any:
    if schema is True:
        return {}
    return _object(schema, dropped) if isinstance(schema, dict) else schema


def _is_refused(key: str, value: Any) -> bool:
    if key == "pattern":
        return isinstance(value, str) and any(mark in value for mark in _LOOKAROUND)
    if key == "minItems":
        return value not in (0, 1)
    if key == "format":
        return value not in _FORMATS
    if key == "enum":
        return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    return key in _REFUSED


def _is_open(part: dict[str, Any]) -> bool:
    """An object of which the names that matter are not listed: closed, it could say nothing of them."""
    properties = part.get("properties") or {}
    if part.get("patternProperties"):
        return True
    if isinstance(part.get("required"), list) and any(name not in properties for name in part["required"]):
        return True
    kind = part.get("type")
    is_object = kind == "object" or (isinstance(kind, list) and "object" in kind)
    has_free_names = part.get("additionalProperties", True) is not False
    return (is_object or "additionalProperties" in part) and has_free_names and not properties


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema within a schema."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(_below(part))
        elif part is True:
            yield {}


def _below(part: dict[str, Any]) -> Iterator[Any]:
    for key, value in part.items():
        if key in _OF_SCHEMAS and isinstance(value, dict):
            yield from value.values()
        elif key in _LISTS and isinstance(value, list):
            yield from value
        elif key in _ONE_SCHEMA and (key != "additionalProperties" or isinstance(value, dict)):
            yield value


def _is_recursive(schema: dict[str, Any]) -> bool:
    """Whether a local reference leads into what contains it. Each part is looked at once, whoever refers to it."""
    done: set[int] = set()
    above = {id(schema): None}
    waiting = [iter(_next_to(schema, schema))]
    while waiting:
        part = next(waiting[-1], None)
        if part is None:
            waiting.pop()
            done.add(above.popitem()[0])
        elif id(part) in above:
            return True
        elif id(part) not in done:
            above[id(part)] = None
            waiting.append(iter(_next_to(part, schema)))
    return False


def _next_to(part: dict[str, Any], root: Any) -> Iterator[dict[str, Any]]:
    """What a part contains and what it refers to."""
    for inner in _below(part):
        if isinstance(inner, dict):
            yield inner
    reference = part.get("$ref")
    target = at_pointer(root, reference) if isinstance(reference, str) and reference.startswith("#") else None
    if isinstance(target, dict):
        yield target


def at_pointer(root: Any, pointer: str) -> Any:
    """What a local pointer leads to; None for nothing."""
    found = root
    for token in filter(None, pointer.removeprefix("#").split("/")):
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def _rebased(value: Any) -> Any:
    """A schema whose local references hold after it was moved below `properties.value`, definitions apart."""
    if isinstance(value, list):
        return [_rebased(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _moved(item) if key == "$ref" else _rebased(item) for key, item in value.items()}


def _moved(reference: Any) -> Any:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return reference
    if reference.startswith(tuple(f"#/{name}/" for name in _DEFINITIONS)):
        return reference
    return f"#/properties/{VALUE}{reference.removeprefix('#')}"


def _flat(value: Any, root: dict[str, Any], budget: list[int], *, depth: int) -> Any:
    budget[0] -= 1 if depth < _DEEPEST_INLINED else budget[0] + 1
    if budget[0] < 0:
        return value
    if isinstance(value, list):
        return [_flat(item, root, budget, depth=depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target = at_pointer(root, reference)
        if isinstance(target, dict):
            beside = {key: item for key, item in value.items() if key != "$ref"}
            return _flat({**target, **beside}, root, budget, depth=depth + 1)
    return {key: _flat(item, root, budget, depth=depth + 1) for key, item in value.items()}
