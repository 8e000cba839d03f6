"""What a tool takes and gives, held against its schemas. Pure."""

from typing import Any

import msgspec

from sidecar.models.tool import ToolInfo
from sidecar.runtime.json_schema import misfit

MOST_PROBLEM_CHARS = 600


def input_problem(tool: ToolInfo, value: Any) -> str | None:
    """Where `value` is not what the tool takes, with the path in the value and in the schema; None if it fits."""
    return _problem(tool.input_schema, value, "the input", "input_schema")


def output_problem(tool: ToolInfo, value: Any) -> str | None:
    """Where `value` is not what the tool promised to give; None if it fits, or if nothing was promised."""
    if tool.output_schema is None:
        return None
    return _problem(tool.output_schema, value, "the output", "output_schema")


def _problem(schema: dict[str, Any], value: Any, what: str, name: str) -> str | None:
    found = misfit(msgspec.json.encode(schema), value)
    if found is None:
        return None
    message = found.message[:MOST_PROBLEM_CHARS]
    return f"{what} does not fit at {found.path or 'its root'}: {message} ({name}: {found.rule or 'its root'})"
