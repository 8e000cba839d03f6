"""A small instance of a JSON schema: what a forced tool call or a structured answer is filled with."""

from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 12
_LONGEST = 1_000
_NO_SENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
    "duration": "PT1S",
}


def make_instance(schema: Any, *, hint: str = "example") -> Any:
    """An instance of `schema`: required properties only, shortest arrays, smallest numbers.

    `hint` is what free strings say. Handles local `$ref`; of `pattern` and `not` it knows nothing. A schema that
    makes no sense gives null.
    """
    root = schema if isinstance(schema, Mapping) else {}
    try:
        return _make(root, root, hint, 0)
    except _NO_SENSE:
        return None


def _make(schema: Any, root: Mapping[str, Any], hint: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    schema = _resolve(schema, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _make(schema[key][0], root, hint, depth + 1)
    return _of_type(_type_of(schema), schema, root, hint, depth)


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], hint: str, depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {
                name: _make(properties.get(name, {"type": "string"}), root, name, depth + 1)
                for name in schema.get("required", ())
            }
        case "array":
            return [
                _make(schema.get("items", {}), root, hint, depth + 1)
                for _ in range(min(schema.get("minItems", 0), _LONGEST))
            ]
        case "integer" | "number":
            return _number(schema, is_integer=kind == "integer")
        case "boolean":
            return True
        case "string":
            return _string(schema, hint)
        case _:
            return None


def _resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        target: Any = root
        for part in reference[1:].strip("/").split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if part else target
        schema = target
    merged: dict[str, Any] = dict(schema)
    for part in schema.get("allOf", ()):
        resolved = _resolve(part, root)
        merged = {
            **merged,
            **resolved,
            "properties": {**merged.get("properties", {}), **resolved.get("properties", {})},
            "required": [*merged.get("required", ()), *resolved.get("required", ())],
        }
    return merged


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((str(k) for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind
    if schema.get("properties") or schema.get("required"):
        return "object"
    return "array" if "items" in schema else "string"


def _number(schema: Mapping[str, Any], *, is_integer: bool) -> int | float:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    value: float = 1
    if high is not None:
        value = min(value, high)
    if below is not None and value >= below:
        value = below - 1
    if low is not None:
        value = max(value, low)
    if above is not None and value <= above:
        value = above + 1
    step = schema.get("multipleOf")
    if step:
        value = -(-value // step) * step
    return int(value) if is_integer else float(value)


def _string(schema: Mapping[str, Any], hint: str) -> str:
    value = _FORMATS.get(schema.get("format", ""), hint)
    value = value.ljust(min(schema.get("minLength", 0), _LONGEST), "x")
    return value[: schema.get("maxLength", len(value))]
