"""Answers that must satisfy a JSON Schema. Pure."""

from functools import lru_cache
from typing import Any

import msgspec

from sidecar.models.request import OutputSpec
from sidecar.models.result import ErrorInfo, Result


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
    error = next(_validator(schema).iter_errors(value), None)
    if error is None:
        return None, value
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return f"the answer does not fit the schema at {path.lstrip('.') or 'its root'}: {error.message}", None


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    # Imported late: only answers with a schema need it.
    import jsonschema_rs

    return jsonschema_rs.validator_for(schema.decode())
