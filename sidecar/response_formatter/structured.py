"""Answers that must satisfy a JSON Schema."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import InvalidRequest, TooCostly
from sidecar.models.base import FieldError
from sidecar.models.codec import DEAR_NUMBERS, has_dear_numbers
from sidecar.models.content import Message, TextBlock
from sidecar.models.request import OutputSpec
from sidecar.models.result import ErrorInfo, Result
from sidecar.models.rules import check_depth
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.json_schema import SchemaMismatch, fits, schema_problem
from sidecar.runtime.schema_checks import REMEDY, SchemaChecks, is_cheap, is_cheap_to_read

LONGEST_MESSAGE = 500
MOST_KNOWN = 64
# What is larger is read away from the event loop.
MOST_READ_INLINE = 16 * 1024
_FENCE = "```"


class Unfit(NamedTuple):
    """Why an answer is not valid. `path` is the value's, `rule` the schema's; both empty for what is no JSON.

    `is_read`: it is JSON at least. `is_costly`: nobody knows, since to find out costs more than it may.
    """

    message: str
    path: str = ""
    rule: str = ""
    is_read: bool = False
    is_costly: bool = False

    @property
    def place(self) -> str:
        """What is wrong, without a word of the answer."""
        if not self.is_read:
            return "was not JSON"
        return f"did not fit the schema at {self.path or 'its root'} ({self.rule or 'its root'})"


class StructuredAnswers:
    """Holds answers against the schemas of their requests, each check where it belongs.

    What was found out at length about an answer is remembered for a moment: it is asked for twice, when the model
    may be asked once more, and at the end.
    """

    def __init__(self, checks: SchemaChecks, work: BoundedWork) -> None:
        self._checks = checks
        self._work = work
        self._known: OrderedDict[bytes, Unfit | None] = OrderedDict()

    def is_checked_at_once(self, spec: OutputSpec | None) -> bool:
        """Whether `check_now` may be called; `check` does the same for every schema."""
        return spec is None or is_cheap_to_read(msgspec.json.encode(spec.schema))

    async def check(self, tenant: str, spec: OutputSpec) -> None:
        """Raise InvalidRequest for a schema that no answer could be held against."""
        try:
            _refuse(await self._checks.problem(tenant, msgspec.json.encode(spec.schema)))
        except TooCostly as e:
            raise InvalidRequest(f"reading the schema {e.message}: {REMEDY}", path="output.schema") from e

    async def checked(self, tenant: str, result: Result, spec: OutputSpec | None) -> Result:
        """The result with `structured` filled, or failed with `output_invalid` and the raw text kept."""
        if spec is None or result.state != "succeeded" or result.stop_reason == "tool_use":
            return result
        texts = [block["text"] for block in result.output.content if block.get("type") == "text"]
        unfit, value = await self._held(tenant, result.output.text, texts, spec)
        if unfit is None:
            return msgspec.structs.replace(result, output=msgspec.structs.replace(result.output, structured=value))
        details = {name: place for name, place in (("path", unfit.path), ("rule", unfit.rule)) if place}
        return msgspec.structs.replace(
            result,
            state="failed",
            error=ErrorInfo(code="output_invalid", message=unfit.message, retryable=True, details=details),
            partial=result.stop_reason in ("max_tokens", "budget"),
        )

    async def problem(self, tenant: str, texts: Sequence[str], spec: OutputSpec) -> Unfit | None:
        """Why an answer of these text blocks is not valid; None for one that is."""
        return (await self._held(tenant, "".join(texts), texts, spec))[0]

    async def _held(
        self, tenant: str, text: str, texts: Sequence[str], spec: OutputSpec
    ) -> tuple[Unfit | None, Any]:
        """The first reading of the answer that is valid; else what is wrong with the first that is JSON at all."""
        schema = msgspec.json.encode(spec.schema)
        found: Unfit | None = None
        for candidate in _readings(text, texts):
            unfit, value = await self._read(tenant, candidate, schema)
            if unfit is None:
                return None, value
            if found is None or (unfit.is_read and not found.is_read):
                found = unfit
        return found, None

    async def _read(self, tenant: str, text: str, schema: bytes) -> tuple[Unfit | None, Any]:
        data = _utf8(text)
        if len(data) <= MOST_READ_INLINE:
            unread, value = _value(data)
            if unread is not None or is_cheap(schema, value, data):
                return unread or _unfit(await self._checks.misfit(tenant, schema, value)), value
        unfit = await self._read_away(tenant, data, schema)
        return unfit, None if unfit is not None else msgspec.json.decode(data)

    async def _read_away(self, tenant: str, data: bytes, schema: bytes) -> Unfit | None:
        key = blake2b(b"%d %b %b" % (len(schema), schema, data), digest_size=16).digest()
        if key in self._known:
            return self._known[key]
        try:
            unfit, is_fit = await self._work.run(tenant, read_answer, schema, data)
            if unfit is None and not is_fit:
                unfit = _unfit(await self._checks.explained(tenant, schema, data))
        except TooCostly as e:
            message = f"checking the answer against output.schema {e.message}: {REMEDY}"
            unfit = Unfit(message, is_read=True, is_costly=True)
        self._known[key] = unfit
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return unfit


def check_now(spec: OutputSpec | None) -> None:
    """Raise InvalidRequest for a schema that no answer could be held against. It may take as long as it takes."""
    if spec is not None:
        _refuse(schema_problem(msgspec.json.encode(spec.schema)))


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise InvalidRequest(f"is not a usable JSON Schema: {problem}", path="output.schema")


def repair_turn(texts: Sequence[str], unfit: Unfit) -> tuple[Message, ...]:
    """How the conversation goes on after an answer that is not valid."""
    raw = "".join(texts)
    said = (Message(role="assistant", content=(TextBlock(text=raw),)),) if raw.strip() else ()
    wish = (
        f"This is not valid: {unfit.message}. Give the whole answer again, valid against the JSON Schema that was "
        "asked for, and nothing else."
    )
    return (*said, Message(role="user", content=wish))


def _readings(text: str, texts: Sequence[str]) -> Iterator[str]:
    """The whole text; without the code fence around it; the last block, where a model spoke before it answered."""
    yield text
    bare = text.strip()
    if bare.startswith(_FENCE) and bare.endswith(_FENCE) and "\n" in bare:
        yield bare[bare.index("\n") : -len(_FENCE)]
    if len(texts) > 1:
        yield texts[-1]


def read_answer(schema: bytes, data: bytes) -> tuple[Unfit | None, bool]:
    """For a worker process: why an answer cannot be read, and whether it fits."""
    unread, value = _value(data)
    return unread, unread is None and fits(schema, value)


def _utf8(text: str) -> bytes:
    """Half surrogate pairs stay what they are: no JSON."""
    return text.encode("utf-8", "surrogatepass")


def _value(data: bytes) -> tuple[Unfit | None, Any]:
    if has_dear_numbers(data):
        return Unfit(f"the answer holds {DEAR_NUMBERS}"), None
    try:
        value = msgspec.json.decode(data)
        check_depth(value, path="")
    except (msgspec.DecodeError, UnicodeError) as e:
        return Unfit(f"the answer is not JSON: {e}"), None
    except (FieldError, RecursionError):
        return Unfit("the answer is nested too deeply"), None
    return None, value


def _unfit(found: SchemaMismatch | None) -> Unfit | None:
    if found is None:
        return None
    message = f"the answer does not fit the schema at {found.path or 'its root'}: {found.message}"
    return Unfit(message[:LONGEST_MESSAGE], found.path, found.rule, is_read=True)
