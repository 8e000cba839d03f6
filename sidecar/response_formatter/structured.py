"""Answers that must satisfy a JSON Schema. Pure."""

from typing import Any

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.request import OutputSpec
from sidecar.models.result import ErrorInfo, Result
from sidecar.schema_check import misfit, schema_problem


def check(spec: OutputSpec | None) -> None:
    """Raise InvalidRequest for a schema that no answer could be held against."""
    if spec is None:
        return
    problem = schema_problem(msgspec.json.encode(spec.schema))
    if problem is not None:
        raise InvalidRequest(f"is not a usable JSON Schema: {problem}", path="output.schema")


def checked(result: Result, spec: OutputSpec | None) -> Result:
    """The result with `structured` filled, or failed with `output_invalid` and the raw text kept."""
    if spec is None or result.state != "succeeded" or result.stop_reason == "tool_use":
        return result
    problem, value = _read(result.output.text, msgspec.json.encode(spec.schema))
    if problem is None:
        return msgspec.structs.replace(result, output=msgspec.structs.replace(result.output, structured=value))
    return msgspec.structs.replace(
        result,
        state="failed",
        error=ErrorInfo(code="output_invalid", message=problem, retryable=True, details={}),
        partial=result.stop_reason == "max_tokens",
    )


def _read(text: str, schema: bytes) -> tuple[str | None, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as e:
        return f"the answer is not JSON: {e}", None
    found = misfit(schema, value)
    if found is None:
        return None, value
    return f"the answer does not fit the schema at {found.path or 'its root'}: {found.message}", None
