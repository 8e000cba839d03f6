"""Answers that must satisfy a JSON Schema. Pure: a schema that points outside itself is refused, never fetched."""

from functools import lru_cache
from typing import Any

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.request import OutputSpec
from sidecar.models.result import ErrorInfo, Result

# A pattern comes from a client: how often it may step back bounds what one answer costs the event loop.
MOST_BACKTRACKS = 100_000
LARGEST_CACHED = 16 * 1024


def check(spec: OutputSpec | None) -> None:
    """Raise InvalidRequest for a schema that no answer could be held against."""
    if spec is None:
        return
    try:
        _validator(msgspec.json.encode(spec.schema))
    except ValueError as e:
        problem = str(e).partition("\n")[0]
        raise InvalidRequest(f"is not a usable JSON Schema: {problem[:500]}", path="output.schema") from e


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


def _validator(schema: bytes) -> Any:
    return _compiled(schema) if len(schema) <= LARGEST_CACHED else _compile(schema)


@lru_cache(maxsize=256)
def _compiled(schema: bytes) -> Any:
    return _compile(schema)


def _compile(schema: bytes) -> Any:
    # Imported late: only answers with a schema need it.
    import jsonschema_rs

    return jsonschema_rs.validator_for(
        schema.decode(),
        retriever=_refuse_to_retrieve,
        pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=MOST_BACKTRACKS),
    )


def _refuse_to_retrieve(uri: str) -> Any:
    raise ValueError(f"{uri[:200]!r} lies outside the schema: put it under $defs")
