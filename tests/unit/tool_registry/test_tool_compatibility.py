"""Which changes of a tool's schemas keep the promises of the version before."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.models.tool import ToolRegistration
from sidecar.tool_registry.compatibility import broken

S, N, NULL = {"type": "string"}, {"type": "number"}, {"type": "null"}
INT = {"type": "integer"}
ANY = {"type": "object"}


def thing(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def tool(given: dict[str, Any], promised: dict[str, Any] | None = None) -> ToolRegistration:
    return ToolRegistration(name="t", version="1.0.0", description="d", input_schema=given, output_schema=promised)


def input_break(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    found = broken(tool(old), tool(new))
    return found.path if found else None


def output_break(old: dict[str, Any], new: dict[str, Any] | None) -> str | None:
    found = broken(tool(ANY, old), tool(ANY, new))
    return found.path if found else None


A_STRING = thing({"a": S}, "a")
WIDER: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("a type more", A_STRING, thing({"a": {"type": ["string", "null"]}}, "a"), "properties.a.type"),
    ("number for integer", thing({"a": INT}), thing({"a": N}), "properties.a.type"),
    ("a value more", thing({"a": {"enum": ["x"]}}), thing({"a": {"enum": ["x", "y"]}}), "properties.a.enum"),
    ("const to enum", thing({"a": {"const": "x"}}), thing({"a": {"enum": ["x", "y"]}}), "properties.a.enum"),
    ("any value", thing({"a": {"enum": ["x"], "type": "string"}}), thing({"a": S}), "properties.a.const"),
    (
        "a branch more",
        thing({"a": {"anyOf": [S]}}),
        thing({"a": {"anyOf": [S, NULL]}}),
        "properties.a.anyOf[1].type",
    ),
    ("a lower minimum", thing({"a": {"minimum": 5}}), thing({"a": {"minimum": 4}}), "properties.a.minimum"),
    ("no maximum", thing({"a": {"maxLength": 5}}), thing({"a": {}}), "properties.a.maxLength"),
    (
        "a looser bound",
        thing({"a": {"exclusiveMinimum": 0}}),
        thing({"a": {"minimum": 0}}),
        "properties.a.exclusiveMinimum",
    ),
    ("not required", A_STRING, thing({"a": S}), "required"),
    ("no pattern", thing({"a": {"pattern": "x"}}), thing({"a": {}}), "properties.a.pattern"),
    ("finer steps", thing({"a": {"multipleOf": 4}}), thing({"a": {"multipleOf": 2}}), "properties.a.multipleOf"),
    ("wider items", thing({"a": {"items": INT}}), thing({"a": {"items": N}}), "properties.a.items"),
    (
        "wider tuple",
        thing({"a": {"prefixItems": [INT]}}),
        thing({"a": {"prefixItems": [N]}}),
        "properties.a.prefixItems[0]",
    ),
    (
        "wider values",
        {"type": "object", "additionalProperties": INT},
        {"type": "object", "additionalProperties": N},
        "additionalProperties.type",
    ),
    ("deep inside", thing({"a": A_STRING}), thing({"a": thing({"a": {}})}), "properties.a.required"),
]


@pytest.mark.parametrize(("old", "new", "path"), [case[1:] for case in WIDER], ids=[case[0] for case in WIDER])
def test_a_wider_schema_is_compatible_for_input_and_not_for_output(
    old: dict[str, Any], new: dict[str, Any], path: str
) -> None:
    assert input_break(old, new) is None
    found = output_break(old, new)
    assert found is not None
    assert found.startswith("output_schema.")
    assert output_break(new, old) is None


@pytest.mark.parametrize(("old", "new", "path"), [case[1:] for case in WIDER], ids=[case[0] for case in WIDER])
def test_a_narrower_input_is_refused_with_the_path(old: dict[str, Any], new: dict[str, Any], path: str) -> None:
    found = input_break(new, old)
    assert found is not None
    assert found.startswith("input_schema." + path.rpartition(".")[0].partition("[")[0])


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (A_STRING, thing({"a": S, "b": INT}, "a", "b"), "input_schema.required"),
        (A_STRING, thing({"a": INT}, "a"), "input_schema.properties.a.type"),
        (thing({"a": S}), thing({"a": S}, additionalProperties=False), "input_schema.additionalProperties"),
        (
            thing({"a": S, "b": S}, additionalProperties=False),
            thing({"a": S}, additionalProperties=False),
            "input_schema.properties.b",
        ),
        (thing({"a": S}), thing({"a": {"type": "string", "enum": ["x"]}}), "input_schema.properties.a.enum"),
        (thing({"a": {"anyOf": [S, NULL]}}), A_STRING, "input_schema.required"),
        (thing({"a": {"anyOf": [S, NULL]}}), thing({"a": S}), "input_schema.properties.a.type"),
        (thing({"a": S}), thing({"a": S}, **{"not": {"required": ["z"]}}), "input_schema.not"),
    ],
)
def test_narrowing_the_input_names_what_differs(old: dict[str, Any], new: dict[str, Any], path: str) -> None:
    assert input_break(old, new) == path


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (A_STRING, thing({}), "output_schema.properties.a"),
        (A_STRING, thing({"a": S}), "output_schema.required"),
        (A_STRING, None, "output_schema"),
        (A_STRING, thing({"a": INT}, "a"), "output_schema.properties.a.type"),
    ],
)
def test_dropping_required_output_names_what_differs(
    old: dict[str, Any], new: dict[str, Any] | None, path: str
) -> None:
    assert output_break(old, new) == path


@pytest.mark.parametrize("is_closed", [False, True])
def test_tools_may_grow(is_closed: bool) -> None:
    more: dict[str, Any] = {"additionalProperties": False} if is_closed else {}
    old, new = thing({"a": S}, "a", **more), thing({"a": S, "b": INT}, "a", **more)
    assert input_break(old, new) is None
    assert output_break(old, new) is None
    assert broken(tool(ANY), tool(ANY, A_STRING)) is None
    described = thing({"a": {**S, "description": "new words", "examples": ["x"], "title": "A"}}, "a", **more)
    assert input_break(old, described) is None
    assert output_break(old, described) is None


def test_references_are_followed_also_in_a_circle() -> None:
    def tree(leaf: dict[str, Any]) -> dict[str, Any]:
        node = thing({"leaf": leaf, "left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}})
        return {"type": "object", "$ref": "#/$defs/node", "$defs": {"node": node}}

    assert input_break(tree(INT), tree(N)) is None
    assert input_break(tree(N), tree(INT)) == "input_schema.properties.leaf.type"
    inline = thing({"leaf": N, "left": {}, "right": {}})
    assert input_break(tree(N), inline) is None
    assert input_break({"$ref": "#"}, {"$ref": "#", "type": "object"}) is None


def test_schemas_that_unfold_without_end_are_given_up() -> None:
    names = [f"d{i}" for i in range(40)]
    definitions: dict[str, Any] = {
        name: {
            "anyOf": [
                thing({"x": {"$ref": f"#/$defs/{after}"}}, "x"),
                thing({"y": {"$ref": f"#/$defs/{after}"}}, "y"),
            ]
        }
        for name, after in zip(names, [*names[1:], "end"], strict=True)
    }
    old = {"type": "object", "$ref": "#/$defs/d0", "$defs": {**definitions, "end": N}}
    new = {"type": "object", "$ref": "#/$defs/d0", "$defs": {**definitions, "end": INT}}
    assert input_break(old, new) is not None


leaves = st.one_of(
    st.sampled_from([S, N, INT, NULL, {}, {"type": "boolean"}]),
    st.builds(lambda low: {"type": "integer", "minimum": low}, st.integers(-3, 3)),
    st.builds(lambda low: {"type": "integer", "exclusiveMaximum": low}, st.integers(-3, 3)),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 3)),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.sampled_from(["x", "y", 1, None, True]), min_size=1, unique_by=repr),
    ),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda properties, required, closed: {
                "type": "object",
                "properties": properties,
                "required": [name for name in required if name in properties],
                **({"additionalProperties": False} if closed else {}),
            },
            st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            st.lists(st.sampled_from("ab"), unique=True),
            st.booleans(),
        ),
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one, other: {"allOf": [one, other]}, inner, inner),
    ),
    max_leaves=4,
)
values = st.recursive(
    st.sampled_from(["", "x", "y", "long text", 0, 1, -2, 5, 1.5, None, True, False]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=5,
)


def closed(schema: Any) -> Any:
    """The schema with every object closed: what the rules' liberties with unknown properties do not concern."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: part if name in ("enum", "required") else closed(part) for name, part in schema.items()}
    return {**inner, "additionalProperties": False} if "properties" in schema and "type" in schema else inner


@settings(max_examples=200, deadline=None)
@given(schemas, schemas, values)
def test_what_was_taken_is_taken_still_where_nothing_is_found_broken(old: Any, new: Any, value: Any) -> None:
    old, new = (
        closed({"type": "object", "properties": {"v": old}}),
        closed({"type": "object", "properties": {"v": new}}),
    )
    if input_break(old, new) is None and jsonschema_rs.is_valid(old, {"v": value}):
        assert jsonschema_rs.is_valid(new, {"v": value}), (old, new, value)


@settings(max_examples=60, deadline=None)
@given(schemas)
def test_a_schema_is_compatible_with_itself(schema: Any) -> None:
    whole = thing({"v": schema})
    assert input_break(whole, whole) is None
    assert output_break(whole, whole) is None
