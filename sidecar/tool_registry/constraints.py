"""What single keywords of a JSON Schema let through. Pure."""

from collections.abc import Hashable
from typing import Any

_ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


def types_of(schema: dict[str, Any]) -> frozenset[str]:
    """The JSON types that a schema lets through; a number may be an integer."""
    given = schema.get("type")
    if given is None:
        values = listed(schema)
        return _ALL_TYPES if values is None else frozenset(map(_type_of, values))
    types = frozenset((given,) if isinstance(given, str) else given)
    return types | {"integer"} if "number" in types else types


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "object")


def listed(schema: dict[str, Any]) -> list[Any] | None:
    """The values that `enum` or `const` allow."""
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def is_same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: `true` is not 1, and annotations do not count in schemas."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)


def keyed(value: Any) -> Hashable:
    """What two values have in common exactly if they are the same, as `is_same` has it."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return ("object", frozenset((name, keyed(inner)) for name, inner in value.items()))
    if isinstance(value, list):
        return ("array", *map(keyed, value))
    return ("number", value) if isinstance(value, int | float) else value


def is_tighter(narrow: dict[str, Any], name: str, bound: float, sign: int) -> bool:
    """Whether `narrow` keeps every value on the right side of the other's bound."""
    values = listed(narrow)
    if values is not None and name in ("minimum", "maximum"):
        return all(not isinstance(v, int | float) or sign * v >= sign * bound for v in values)
    own = [narrow[name]] if name in narrow else []
    strict = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}.get(name)
    if strict is not None and strict in narrow:
        own.append(narrow[strict])
    default = 0 if sign > 0 and name.startswith("min") and name != "minimum" else None
    if not own and default is not None:
        own.append(default)
    return any(sign * value >= sign * bound for value in own)


def divides(divisor: float, given: float | None) -> bool:
    return given is not None and float(given / divisor).is_integer()
