"""Upper bounds of what checks cost: sound for every shape, and of use for those that people write."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.runtime import json_schema
from sidecar.runtime.schema_checks import is_cheap, is_cheap_to_read
from sidecar.runtime.schema_cost import UNTOLD, VISIT_NS, depth_of, profile_of, size_of

ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "note": {"type": "string", "maxLength": 500},
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"},
                    "n": {"type": "integer"},
                },
                "required": ["sku"],
                "additionalProperties": False,
            },
        },
        "ship_to": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["id"],
}
EXPRESSION = {
    "$defs": {
        "e": {
            "anyOf": [
                {"type": "number"},
                {"type": "object", "properties": {"l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}}},
            ]
        }
    },
    "$ref": "#/$defs/e",
}
TWICE = {
    "$defs": {
        "a": {
            "anyOf": [
                {"type": "array", "items": {"$ref": "#/$defs/a"}},
                {"type": "array", "items": {"$ref": "#/$defs/a"}},
            ]
        }
    },
    "$ref": "#/$defs/a",
}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def cheap(schema: Any, value: Any) -> bool:
    return is_cheap(raw(schema), value, raw(value))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def tree(depth: int) -> Any:
    return depth if depth == 0 else {"l": tree(depth - 1), "r": tree(depth - 1)}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (ORDER, {"id": 1, "lines": [{"sku": "ABC-1", "n": n} for n in range(50)], "note": "x" * 400}),
        (EXPRESSION, tree(6)),
        ({"type": "object"}, {"text": "x" * 16_000}),
        ({"type": "array", "items": {"$ref": "#"}}, nested(40)),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}}, ["b"] * 200),
        ({}, {}),
    ],
)
def test_what_people_write_is_checked_at_once(schema: Any, value: Any) -> None:
    assert is_cheap_to_read(raw(schema))
    assert cheap(schema, value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param(TWICE, nested(30), id="doubles at each level"),
        pytest.param({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}, nested(30), id="root"),
        pytest.param(
            {"not": {"items": {"$ref": "#"}}, "if": {"items": {"$ref": "#"}}}, nested(30), id="not and if"
        ),
        pytest.param({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}, nested(30), id="items and contains"),
        pytest.param(
            {"properties": {"a": {"$ref": "#"}}, "patternProperties": {"a": {"$ref": "#"}}},
            json.loads('{"a":' * 30 + "1" + "}" * 30),
            id="property and pattern",
        ),
        pytest.param(
            {"dependentSchemas": {"a": {"properties": {"a": {"$ref": "#"}}}}, "properties": {"a": {"$ref": "#"}}},
            json.loads('{"a":' * 30 + "1" + "}" * 30),
            id="dependent",
        ),
        pytest.param({"items": {"anyOf": [{"const": n} for n in range(300)]}}, [-1] * 5_000, id="wide anyOf"),
        pytest.param({"items": {"enum": [[n] for n in range(300)]}}, [[-1]] * 5_000, id="wide enum"),
        pytest.param(
            {"patternProperties": {f"^{n}$": {} for n in range(100)}},
            {str(-n): 1 for n in range(5_000)},
            id="patterns",
        ),
        pytest.param({"$ref": "#"}, 1, id="no way down"),
        pytest.param({"anyOf": [{"$ref": "#"}]}, 1, id="no way down in a branch"),
        pytest.param({"$dynamicRef": "#n"}, 1, id="dynamic"),
        pytest.param({"unevaluatedProperties": False}, {}, id="unevaluated"),
        pytest.param({"properties": {"a": {"$id": "b"}}}, {}, id="another base"),
        pytest.param({"$ref": "other.json"}, {}, id="elsewhere"),
        pytest.param({"$ref": "#anchor"}, {}, id="anchor"),
        pytest.param({"$ref": "#/$defs/a%25b", "$defs": {"a%b": {}}}, {}, id="escaped"),
        pytest.param({"pattern": "^(?=.*a)(a+)+b"}, "a", id="looks ahead"),
        pytest.param({"pattern": "(a+)+\\1"}, "a", id="looks back"),
        pytest.param({"pattern": "(a{100}){100}"}, "a", id="long automaton"),
        pytest.param({"pattern": "x" * 300}, "a", id="long pattern"),
        pytest.param({"properties": {f"p{n}": {"type": "integer"} for n in range(500)}}, {}, id="large"),
        pytest.param({"anyOf": 5}, {}, id="no schema"),
    ],
)
def test_what_could_take_long_is_checked_elsewhere(schema: Any, value: Any) -> None:
    assert not cheap(schema, value)


def test_references_that_are_dear_to_make_ready_are_made_ready_elsewhere() -> None:
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(100)}
    assert not is_cheap_to_read(raw({"$defs": {**chain, "d100": {}}, "$ref": "#/$defs/d0"}))


def test_a_deep_value_in_a_deep_schema_is_too_deep_for_the_stack() -> None:
    schema: Any = {"items": {"$ref": "#"}}
    for _ in range(60):
        schema = {"allOf": [schema]}
    schema = {"allOf": [schema["allOf"][0]]}
    profile = profile_of(schema)
    assert profile.check_ns(size_of(nested(64), raw(nested(64)))) > 1e9 or profile.stack * 65 <= 4_000


def test_large_schemas_are_not_looked_into() -> None:
    assert json_schema.profile(b" " * (json_schema.LARGEST_CACHED + 1) + b"{}") is UNTOLD


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_the_size_of_a_value_is_never_too_small(value: Any) -> None:
    size = size_of(value, raw(value))

    def parts(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return 1 + sum(map(parts, inner))

    def keys(one: Any) -> int:
        if isinstance(one, dict):
            return len(one) + sum(map(keys, one.values()))
        return sum(map(keys, one)) if isinstance(one, list) else 0

    assert size.parts >= parts(value)
    assert size.keys >= keys(value)
    assert size.depth == depth_of(value)


def looks(schema: Any, value: Any, root: Any) -> int:
    """How often a part of a value is held against a schema or a part of it, where nothing is left out.

    Written after the specification, not after what is tested.
    """
    if not isinstance(schema, dict):
        return 0
    return 1 + looks_at_same(schema, value, root) + looks_inside(schema, value, root)


def looks_at_same(schema: dict[str, Any], value: Any, root: Any) -> int:
    count = 0
    for name in ("not", "if", "then", "else"):
        if name in schema:
            count += looks(schema[name], value, root)
    for name in ("allOf", "anyOf", "oneOf"):
        count += sum(looks(one, value, root) for one in schema.get(name, ()))
    if "$ref" in schema:
        count += looks(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    return count


def looks_inside(schema: dict[str, Any], value: Any, root: Any) -> int:
    count = 0
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in schema.get("properties", {}):
                count += looks(schema["properties"][key], inner, root)
            else:
                count += looks(schema.get("additionalProperties"), inner, root)
            count += sum(looks(one, inner, root) for one in schema.get("patternProperties", {}).values())
    if isinstance(value, list):
        for inner in value:
            count += looks(schema.get("items"), inner, root) + looks(schema.get("contains"), inner, root)
    return count


_NAMES = st.sampled_from(("a", "b"))
_LEAVES = st.sampled_from(({}, {"type": "integer"}, {"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}))


def _branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    deep = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(_NAMES, inner, max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "anyOf": deep,
            "allOf": deep,
            "properties": named,
            "patternProperties": named,
            "additionalProperties": inner,
            "items": inner,
            "contains": inner,
            "not": inner,
        },
    )


_SCHEMAS = st.recursive(_LEAVES, _branches, max_leaves=6)
_VALUES = st.recursive(
    st.integers(0, 3), lambda s: st.lists(s, max_size=3) | st.dictionaries(_NAMES, s, max_size=2), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(_SCHEMAS, _SCHEMAS, _SCHEMAS, _VALUES)
def test_no_check_takes_more_steps_than_were_foreseen(x: Any, y: Any, schema: Any, value: Any) -> None:
    root = {**schema, "$defs": {"x": x, "y": y}}
    # As after a decode: no two parts are one object.
    root = msgspec.json.decode(raw(root))
    try:
        counted = looks(root, value, root)
    except RecursionError:
        counted = 10**9
    foreseen = profile_of(root).check_ns(size_of(value, raw(value))) / VISIT_NS
    assert foreseen >= counted
