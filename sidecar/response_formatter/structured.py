"""Answers that must satisfy a JSON Schema. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.base import FieldError
from sidecar.models.content import Message, TextBlock
from sidecar.models.request import OutputSpec
from sidecar.models.result import ErrorInfo, Result
from sidecar.models.rules import check_depth
from sidecar.runtime.json_schema import misfit, schema_problem

LONGEST_MESSAGE = 500
_FENCE = "```"


class Unfit(NamedTuple):
    """Why an answer is not valid. `path` is the value's, `rule` the schema's; both empty for what is no JSON."""

    message: str
    path: str = ""
    rule: str = ""

    @property
    def place(self) -> str:
        """What is wrong, without a word of the answer."""
        if not self.rule:
            return "was not JSON"
        return f"did not fit the schema at {self.path or 'its root'} ({self.rule})"


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
    texts = [block["text"] for block in result.output.content if block.get("type") == "text"]
    unfit, value = _held(result.output.text, texts, spec)
    if unfit is None:
        return msgspec.structs.replace(result, output=msgspec.structs.replace(result.output, structured=value))
    details = {name: place for name, place in (("path", unfit.path), ("rule", unfit.rule)) if place}
    return msgspec.structs.replace(
        result,
        state="failed",
        error=ErrorInfo(code="output_invalid", message=unfit.message, retryable=True, details=details),
        partial=result.stop_reason in ("max_tokens", "budget"),
    )


def problem(texts: Sequence[str], spec: OutputSpec) -> Unfit | None:
    """Why an answer of these text blocks is not valid; None for one that is."""
    return _held("".join(texts), texts, spec)[0]


def repair_turn(texts: Sequence[str], unfit: Unfit) -> tuple[Message, ...]:
    """How the conversation goes on after an answer that is not valid."""
    raw = "".join(texts)
    said = (Message(role="assistant", content=(TextBlock(text=raw),)),) if raw.strip() else ()
    wish = (
        f"This is not valid: {unfit.message}. Give the whole answer again, valid against the JSON Schema that was "
        "asked for, and nothing else."
    )
    return (*said, Message(role="user", content=wish))


def _held(text: str, texts: Sequence[str], spec: OutputSpec) -> tuple[Unfit | None, Any]:
    """The first reading of the answer that is valid; else what is wrong with the first that is JSON at all."""
    schema = msgspec.json.encode(spec.schema)
    found: Unfit | None = None
    for candidate in _readings(text, texts):
        unfit, value = _read(candidate, schema)
        if unfit is None:
            return None, value
        if found is None or (unfit.rule and not found.rule):
            found = unfit
    return found, None


def _readings(text: str, texts: Sequence[str]) -> Iterator[str]:
    """The whole text; without the code fence around it; the last block, where a model spoke before it answered."""
    yield text
    bare = text.strip()
    if bare.startswith(_FENCE) and bare.endswith(_FENCE) and "\n" in bare:
        yield bare[bare.index("\n") : -len(_FENCE)]
    if len(texts) > 1:
        yield texts[-1]


def _read(text: str, schema: bytes) -> tuple[Unfit | None, Any]:
    try:
        value = msgspec.json.decode(text)
        check_depth(value, path="")
    except (msgspec.DecodeError, UnicodeError) as e:
        return Unfit(f"the answer is not JSON: {e}"), None
    except (FieldError, RecursionError):
        return Unfit("the answer is nested too deeply"), None
    found = misfit(schema, value)
    if found is None:
        return None, value
    message = f"the answer does not fit the schema at {found.path or 'its root'}: {found.message}"
    return Unfit(message[:LONGEST_MESSAGE], found.path, found.rule), None
