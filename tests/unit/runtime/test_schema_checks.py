"""Checks by schemas give the same wherever they are done, and end in typed errors where they take too long."""

import json
from typing import Any

import msgspec
import pytest

from sidecar.errors import InvalidRequest, Permanent, TooCostly
from sidecar.models.codec import encode
from sidecar.models.content import ToolUseBlock
from sidecar.models.request import OutputSpec
from sidecar.models.result import Output, Result
from sidecar.models.tool import ToolInfo, ToolRegistration
from sidecar.response_formatter.structured import StructuredAnswers
from sidecar.runtime import json_schema, schema_checks
from sidecar.runtime.schema_checks import SchemaChecks
from sidecar.tool_registry.compatibility import broken
from sidecar.tool_registry.constraints import is_same, keyed
from sidecar.tool_registry.publishing import check_compatible, check_registration
from sidecar.tool_registry.signature import ToolSignatures
from tests.support.random_schemas import SchemaMaker
from tests.support.work import TooDear, WorkHere, checks_here

HOW_MANY = 400
DEAR = {"$defs": {"a": {"anyOf": [{"items": {"$ref": "#/$defs/a"}}] * 2}}, "$ref": "#/$defs/a"}
"""A schema that cannot be told to be cheap for a deep value."""


def deep(levels: int = 40) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def test_a_check_gives_the_same_here_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made, work, compared = SchemaMaker(seed=11), WorkHere(), 0
    checks = SchemaChecks(work)
    monkeypatch.setattr(schema_checks, "is_cheap", lambda schema, value, data: False)
    for _ in range(HOW_MANY):
        schema, value = json.dumps(made.schema()).encode(), made.value()
        # As it comes from JSON: larger integers are floats there.
        value = msgspec.json.decode(encode(value))
        try:
            here = json_schema.misfit(schema, value)
        except ValueError:
            continue
        apart = await checks.misfit("acme", schema, value)
        compared += here is not None
        assert (apart is None) == (here is None)
        assert apart == here
    assert compared > HOW_MANY / 10
    assert work.done["fits_data"] > compared


async def test_schemas_are_read_the_same_here_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made, checks = SchemaMaker(seed=12), checks_here()
    monkeypatch.setattr(schema_checks, "is_cheap_to_read", lambda schema: False)
    for _ in range(HOW_MANY):
        schema = json.dumps(made.schema()).encode()
        assert await checks.problem("acme", schema) == json_schema.schema_problem(schema)


async def test_that_a_value_does_not_fit_stays_true_where_nobody_can_say_why_in_time() -> None:
    class NoExplaining(WorkHere):
        async def run(self, tenant: str, function: Any, /, *args: Any, **named: Any) -> Any:
            if function is schema_checks.explained_data:
                raise TooCostly("time", limit_s=2)
            return await super().run(tenant, function, *args, **named)

    schema = json.dumps({**DEAR, "type": "object"}).encode()
    found = await SchemaChecks(NoExplaining()).misfit("acme", schema, deep())
    assert found is not None
    assert "2 s" in found.message


def answers(work: WorkHere | TooDear) -> StructuredAnswers:
    return StructuredAnswers(SchemaChecks(work), work)


async def test_an_answer_that_takes_too_long_to_check_is_invalid_and_keeps_its_text() -> None:
    text = json.dumps(deep())
    spec = OutputSpec(schema=DEAR)
    said = Result(state="succeeded", output=Output(text=text, content=({"type": "text", "text": text},)))
    made = answers(TooDear())
    unfit = await made.problem("acme", [text], spec)
    assert unfit is not None
    assert unfit.is_costly, "the model is not asked again for what it cannot mend"
    result = await made.checked("acme", said, spec)
    assert (result.state, result.output.text) == ("failed", text)
    assert result.error is not None
    assert result.error.code == "output_invalid"
    assert "output.schema took longer than 2 s" in result.error.message
    assert "simplify the schema" in result.error.message


async def test_an_answer_that_was_checked_at_length_is_checked_once() -> None:
    work = WorkHere()
    made, spec, text = answers(work), OutputSpec(schema=DEAR), json.dumps(deep())
    assert await made.problem("acme", [text], spec) is None
    result = await made.checked(
        "acme",
        Result(state="succeeded", output=Output(text=text, content=({"type": "text", "text": text},))),
        spec,
    )
    assert result.output.structured == deep()
    assert work.done["read_answer"] == 1


async def test_a_schema_that_takes_too_long_to_read_is_refused_by_its_path() -> None:
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(200)}
    schema = {"type": "object", "$defs": {**chain, "d200": {}}, "$ref": "#/$defs/d0"}
    made = answers(TooDear())
    assert not made.is_checked_at_once(OutputSpec(schema=schema))
    with pytest.raises(InvalidRequest) as refused:
        await made.check("acme", OutputSpec(schema=schema))
    assert refused.value.path == "output.schema"
    registration = ToolRegistration(name="t", version="1.0.0", description="d", input_schema=schema)
    with pytest.raises(InvalidRequest) as unregistered:
        await check_registration(registration, 1_000, scope="acme", checks=SchemaChecks(TooDear()))
    assert unregistered.value.path == "input_schema"


def tool() -> ToolInfo:
    return ToolInfo(
        scope="acme",
        name="t",
        version="1.0.0",
        description="d",
        input_schema=DEAR,
        output_schema=DEAR,
        timeout_s=1,
        idempotent=False,
        subject="s",
        expires=None,
    )


async def test_what_a_tool_takes_or_gives_too_long_to_check_is_told_in_words() -> None:
    signatures = ToolSignatures(SchemaChecks(TooDear()))
    taken = await signatures.input_problem("acme", tool(), deep())
    gave = await signatures.output_problem("acme", tool(), deep())
    assert taken is not None
    assert "input_schema took longer" in taken
    assert gave is not None
    assert "output_schema took longer" in gave


def test_versions_with_long_lists_are_compared_at_once() -> None:
    """Each value against each: 20,000 by 20,000 comparisons before."""
    values = [f"v{n}" for n in range(20_000)]
    old = ToolRegistration(
        name="t", version="1.0.0", description="d", input_schema={"type": "object", "enum": values}
    )
    new = ToolRegistration(
        name="t",
        version="1.1.0",
        description="d",
        input_schema={"type": "object", "enum": [*reversed(values), "x"]},
    )
    assert broken(old, new) is None
    found = broken(new, old)
    assert found is not None
    assert "'x'" in found.message


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (True, 1), (False, 0), ("1", 1), ([1], [True]), ({"a": 1}, {"a": 1.0}), ({"a": [1]}, {"a": (1,)})],
)
def test_values_have_one_key_exactly_where_they_are_the_same(one: Any, other: Any) -> None:
    if isinstance(other, dict) and isinstance(other.get("a"), tuple):
        other = {"a": [1]}
    assert (keyed(one) == keyed(other)) == is_same(one, other)


def test_a_comparison_says_what_is_broken_by_documents_alone() -> None:
    def document(version: str, **schema: Any) -> bytes:
        registration = {
            "name": "t",
            "version": version,
            "description": "d",
            "input_schema": {"type": "object", **schema},
        }
        return json.dumps(registration).encode()

    check_compatible(document("1.1.0"), document("1.0.0"), None)
    with pytest.raises(InvalidRequest, match=r"not compatible with version 1\.0\.0"):
        check_compatible(document("1.1.0", required=["a"]), document("1.0.0"), None)
    with pytest.raises(Permanent, match="published already"):
        check_compatible(document("1.0.0"), None, document("1.1.0", required=["a"]))


def test_a_block_is_sent_as_it_is() -> None:
    """What a worker process gives back has the types that were declared."""
    block = ToolUseBlock(id="a", name="n", input={"x": [1, None, 2.5]})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(block), type=ToolUseBlock) == block
