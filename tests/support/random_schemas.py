"""JSON Schemas at random: sensible ones, odd ones, and some that are none."""

import json
import random
from typing import Any

_KINDS = ("object", "array", "string", "integer", "number", "boolean", "null")
_NAMES = ("a", "b", "value", "n-1", "ü", "$ref", "type", "", "a/b", "~0")
_PATTERNS = ("^a+$", "(?=x)y", "[", "(a+)+$", "\\d{1,3}", "\\p{L}", "(?<n>a)\\k<n>", "")
_REFERENCES = (
    "#",
    "#/$defs/a",
    "#/$defs/none",
    "#/properties/a",
    "#a",
    "other.json",
    "#/$defs/a/properties/b",
    "",
)


class SchemaMaker:
    """`schema()` gives one schema; the same seed gives the same row of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def schema(self) -> dict[str, Any]:
        made = self._schema(self._random.randrange(1, 5))
        root: dict[str, Any] = made if isinstance(made, dict) else {"not": made}
        if self._random.random() < 0.6:
            root = {**root, "$defs": {name: self._schema(2) for name in ("a", "b")}}
        if self._random.random() < 0.4:
            root = {**root, "type": "object"}
        return root

    def value(self, depth: int = 3) -> Any:
        pick = self._random.randrange(9 if depth else 6)
        if pick == 0:
            return None
        if pick == 1:
            return self._random.random() < 0.5
        if pick == 2:
            return self._random.choice((0, -1, 3, 2**63, -(2**70), 1e308, 0.1, -0.0))
        if pick < 6:
            return self._random.choice(
                ("", "x", "a/b", "2026-01-31", "😀", "\x00", '"{', "aaaaaaaaaaaaaaaaaaaaaaaa!")
            )
        if pick == 6:
            return [self.value(depth - 1) for _ in range(self._random.randrange(4))]
        return {self._name(): self.value(depth - 1) for _ in range(self._random.randrange(4))}

    def text(self) -> str:
        """What a model could have written: JSON, cut JSON, or none."""
        written = json.dumps(self.value())
        pick = self._random.random()
        if pick < 0.15:
            return written[: self._random.randrange(len(written) + 1)]
        return f"```json\n{written}\n```" if pick < 0.25 else written

    def _name(self) -> str:
        return self._random.choice(_NAMES)

    def _schema(self, depth: int) -> Any:
        if self._random.random() < 0.05:
            return self._random.random() < 0.5
        out: dict[str, Any] = {}
        if self._random.random() < 0.8:
            kinds = self._random.sample(_KINDS, self._random.randrange(1, 3))
            out["type"] = kinds[0] if self._random.random() < 0.8 else kinds
        for _ in range(self._random.randrange(4)):
            out |= self._keyword(depth)
        if self._random.random() < 0.03:
            out[self._random.choice(("type", "properties", "items", "enum", "$ref", "required"))] = self.value(1)
        return out

    def _keyword(self, depth: int) -> dict[str, Any]:
        deep = (self._object, self._array, self._combined) if depth else ()
        return self._random.choice((*deep, self._number, self._string, self._fixed, self._reference))(depth)

    def _object(self, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {
            "properties": {self._name(): self._schema(depth - 1) for _ in range(self._random.randrange(4))}
        }
        names = list(out["properties"])
        more: tuple[dict[str, Any], ...] = (
            {},
            {"required": names},
            {"required": ["missing"]},
            {"additionalProperties": self._schema(depth - 1)},
            {"additionalProperties": False},
            {"patternProperties": {self._random.choice(_PATTERNS): self._schema(depth - 1)}},
            {"propertyNames": self._schema(0), "minProperties": 1, "maxProperties": 3},
            {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": self._schema(0)}},
            {"unevaluatedProperties": False},
        )
        return out | self._random.choice(more)

    def _array(self, depth: int) -> dict[str, Any]:
        more: tuple[dict[str, Any], ...] = (
            {},
            {"minItems": self._random.randrange(3), "maxItems": 4},
            {"uniqueItems": True},
            {"prefixItems": [self._schema(depth - 1)]},
            {"contains": self._schema(depth - 1), "minContains": 0},
        )
        return {"items": self._schema(depth - 1)} | self._random.choice(more)

    def _combined(self, depth: int) -> dict[str, Any]:
        parts = [self._schema(depth - 1) for _ in range(self._random.randrange(1, 4))]
        key = self._random.choice(("anyOf", "oneOf", "allOf", "not", "if"))
        if key == "if":
            return {"if": parts[0], "then": parts[-1]}
        return {key: parts[0] if key == "not" else parts}

    def _number(self, depth: int) -> dict[str, Any]:
        key = self._random.choice(("minimum", "maximum", "exclusiveMinimum", "multipleOf"))
        return {key: self._random.choice((0, 1, -5, 0.5, 2**70))}

    def _string(self, depth: int) -> dict[str, Any]:
        return self._random.choice(
            (
                {"minLength": 1, "maxLength": 9},
                {"pattern": self._random.choice(_PATTERNS)},
                {"format": self._random.choice(("date-time", "email", "uri", "regex", "nonsense"))},
                {"description": self._random.choice(("a thing", 7))},
            )
        )

    def _fixed(self, depth: int) -> dict[str, Any]:
        return self._random.choice(
            (
                {"const": self.value(1)},
                {"enum": [self.value(1) for _ in range(3)]},
                {"default": self.value(1)},
                {"title": "t", "examples": [self.value(1)]},
                {"$schema": "http://json-schema.org/draft-07/schema#"},
                {"$id": "urn:x", "$anchor": "a"},
            )
        )

    def _reference(self, depth: int) -> dict[str, Any]:
        key = "$ref" if self._random.random() < 0.9 else "$dynamicRef"
        return {key: self._random.choice(_REFERENCES)}
