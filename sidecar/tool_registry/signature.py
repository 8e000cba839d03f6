"""What a tool takes and gives, held against its schemas."""

from typing import Any

import msgspec

from sidecar.errors import TooCostly
from sidecar.models.tool import ToolInfo
from sidecar.runtime.json_schema import SchemaMismatch, misfit
from sidecar.runtime.schema_checks import REMEDY, SchemaChecks

MOST_PROBLEM_CHARS = 600


class ToolSignatures:
    """The checks of jobs: within a budget, and away from the event loop where they may cost more than a moment."""

    def __init__(self, checks: SchemaChecks) -> None:
        self._checks = checks

    async def input_problem(self, tenant: str, tool: ToolInfo, value: Any) -> str | None:
        """As the function of this name; an input that takes too long to check is none that fits."""
        try:
            found = await self._checks.misfit(tenant, msgspec.json.encode(tool.input_schema), value)
        except TooCostly as e:
            return f"checking the input against input_schema {e.message}: give a simpler one"
        return said(found, "the input", "input_schema")

    async def output_problem(self, tenant: str, tool: ToolInfo, value: Any) -> str | None:
        """As the function of this name; an output that takes too long to check is none that fits."""
        if tool.output_schema is None:
            return None
        try:
            found = await self._checks.misfit(tenant, msgspec.json.encode(tool.output_schema), value)
        except TooCostly as e:
            return f"checking the output against output_schema {e.message}: {REMEDY}"
        return said(found, "the output", "output_schema")


def input_problem(tool: ToolInfo, value: Any) -> str | None:
    """Where `value` is not what the tool takes, with the path in the value and in the schema; None if it fits."""
    return said(misfit(msgspec.json.encode(tool.input_schema), value), "the input", "input_schema")


def output_problem(tool: ToolInfo, value: Any) -> str | None:
    """Where `value` is not what the tool promised to give; None if it fits, or if nothing was promised."""
    if tool.output_schema is None:
        return None
    return said(misfit(msgspec.json.encode(tool.output_schema), value), "the output", "output_schema")


def said(found: SchemaMismatch | None, what: str, name: str) -> str | None:
    """A misfit in words: `name` is the schema's, `what` the value's."""
    if found is None:
        return None
    message = found.message[:MOST_PROBLEM_CHARS]
    return f"{what} does not fit at {found.path or 'its root'}: {message} ({name}: {found.rule or 'its root'})"
