"""JSON Schemas as Bedrock's structured output takes them: a subset, with closed objects."""

from typing import Any

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
        "dependentRequired",
        "dependentSchemas",
        "if",
        "then",
        "else",
        "not",
        "$schema",
        "$id",
    }
)
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!", "\\b", "\\B", "\\1")
_OF_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})


def strict_schema(schema: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The schema with what strict mode refuses left out, and the names of what was left out.

    What is left out goes into the description, so that the model still knows of it; that it holds is checked
    when the answer is validated.
    """
    dropped: set[str] = set()
    return _object(schema, dropped), sorted(dropped)


def _object(schema: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    told: list[str] = []
    for key, value in schema.items():
        if _is_refused(key, value):
            if not key.startswith("$"):
                dropped.add(key)
                told.append(f"{key}={value}")
        elif key in _OF_SCHEMAS and isinstance(value, dict):
            out[key] = {name: _any(child, dropped) for name, child in value.items()}
        elif key in _LISTS and isinstance(value, list):
            out[key] = [_any(child, dropped) for child in value]
        elif key == "items":
            out[key] = _any(value, dropped)
        else:
            out[key] = value
    if told:
        out["description"] = ". ".join(filter(None, [out.get("description"), ", ".join(told)]))
    if out.get("type") == "object" or "properties" in out:
        if out.get("additionalProperties", False) is not False:
            dropped.add("additionalProperties")
        out["additionalProperties"] = False
    return out


def _any(schema: Any, dropped: set[str]) -> Any:
    return _object(schema, dropped) if isinstance(schema, dict) else schema


def _is_refused(key: str, value: Any) -> bool:
    if key == "pattern":
        return isinstance(value, str) and any(mark in value for mark in _LOOKAROUND)
    if key == "minItems":
        return value not in (0, 1)
    return key in _REFUSED
