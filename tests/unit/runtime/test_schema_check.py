"""Values held against schemas that strangers wrote."""

from typing import Any

import msgspec
import pytest

from sidecar.models.tool import ToolInfo
from sidecar.runtime.json_schema import LARGEST_CACHED, misfit, schema_problem
from sidecar.tool_registry.signature import input_problem, output_problem

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer"}}}}
    },
    "required": ["items"],
}


def tool(output_schema: dict[str, Any] | None = None) -> ToolInfo:
    return ToolInfo(
        scope="acme",
        name="orders",
        version="1.0.0",
        description="d",
        input_schema=SCHEMA,
        output_schema=output_schema,
        timeout_s=1,
        idempotent=False,
        subject="s",
        expires=None,
    )


def test_a_misfit_names_its_place_in_the_value_and_in_the_schema() -> None:
    assert input_problem(tool(), {"items": [{"id": 1}]}) is None
    problem = input_problem(tool(), {"items": [{"id": 1}, {"id": "x"}]})
    assert problem is not None
    assert "items[1].id" in problem
    assert "input_schema: properties.items.items.properties.id.type" in problem
    missing = input_problem(tool(), {})
    assert missing is not None
    assert '"items" is a required property' in missing
    assert "input_schema: required" in missing


def test_an_output_is_checked_where_one_was_promised() -> None:
    assert output_problem(tool(), object) is None
    assert output_problem(tool({"type": "string"}), "x") is None
    problem = output_problem(tool({"type": "string"}), 5)
    assert problem is not None
    assert "its root" in problem


def test_a_message_is_bounded_whatever_the_value() -> None:
    problem = output_problem(tool({"type": "string"}), ["x" * 100_000])
    assert problem is not None
    assert len(problem) < 1_000


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (b'{"type": "objekt"}', "objekt"),
        (b'{"properties": {"a": {"type": 5}}}', "properties.a.type"),
        (b'{"pattern": "("}', "regex"),
        (b'{"$ref": "https://example.com/x.json"}', "lies outside the schema"),
        (b'{"$ref": "file:///etc/passwd"}', "lies outside the schema"),
        (b'{"$ref": "#/$defs/none"}', "does not exist"),
        (b'{"$schema": "https://example.com/mine"}', "meta-schema"),
        (b"5", ""),
    ],
)
def test_an_unusable_schema_says_why_in_a_line(schema: bytes, said: str) -> None:
    problem = schema_problem(schema)
    assert problem is not None
    assert said in problem
    assert "\n" not in problem


def test_references_that_double_at_each_step_are_refused_and_circles_are_not() -> None:
    def doubled(depth: int) -> bytes:
        steps = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
        return msgspec.json.encode({"$ref": "#/$defs/d0", "$defs": {**steps, f"d{depth}": {"type": "string"}}})

    assert schema_problem(doubled(5)) is None
    problem = schema_problem(doubled(40))
    assert problem is not None
    assert "unfold" in problem
    assert schema_problem(b'{"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}') is None
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(3_000)}
    assert schema_problem(msgspec.json.encode({"$ref": "#/$defs/d0", "$defs": {**chain, "d3000": {}}})) is not None


def test_patterns_that_step_back_without_end_are_cut_off() -> None:
    schema = msgspec.json.encode({"type": "string", "pattern": "^(a+)+(?=b)$"})
    assert schema_problem(schema) is None
    assert misfit(schema, "a" * 5_000) is not None


def test_large_schemas_are_checked_too() -> None:
    schema = msgspec.json.encode({"type": "string", "$comment": "x" * LARGEST_CACHED})
    assert misfit(schema, 5) is not None
    assert misfit(schema, "5") is None
