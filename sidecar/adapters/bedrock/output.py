"""How an answer's schema is asked for: natively, by a tool that has to be called, or in words."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sidecar.adapters.bedrock.schema import SchemaForms
from sidecar.adapters.bedrock.tool_forms import has_foreign_keys
from sidecar.models.call import ModelCall


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """`schema` is what is sent; with `is_wrapped` the answer stands in its property `value`."""

    kind: Literal["native", "tool", "words"]
    schema: dict[str, Any]
    forms: SchemaForms
    is_wrapped: bool = False


def plan_output(
    call: ModelCall, *, can_force: bool, warnings: list[str], forms: SchemaForms | None = None
) -> OutputPlan | None:
    """What enforces the schema, as strongly as this model and this schema allow; None without a schema.

    `can_force`: whether this call may force a tool. What the model is not held to stands in the warnings. `forms`
    are those of the call's schema, where they were made before.
    """
    asked, traits = call.output_schema, call.candidate.profile.traits
    if asked is None:
        return None
    forms = forms or SchemaForms(asked)
    if call.candidate.profile.family == "claude" and has_foreign_keys(forms.sent):
        warnings.append("the output schema has names of properties that this model takes in words only")
        return OutputPlan("words", asked, forms)
    lost = forms.lost if traits.schema == "native" else None
    if traits.schema == "native" and lost is None:
        strict, dropped = forms.strict
        if dropped:
            warnings.append(f"left out of the schema that the model enforces: {', '.join(dropped)}")
        return OutputPlan("native", strict, forms, forms.is_wrapped)
    if traits.schema != "none" and can_force:
        if lost is not None:
            warnings.append(f"the model's own enforcement knows no {lost}: the answer is asked for by a tool")
        return OutputPlan("tool", forms.sent, forms, forms.is_wrapped)
    warnings.append("the output schema is asked for in words; nothing makes this model keep to it")
    return OutputPlan("words", asked, forms)


def in_words(schema: dict[str, Any]) -> str:
    return (
        "Answer with one JSON value and nothing else, without code fences. It must be valid against this "
        f"JSON Schema: {msgspec.json.encode(schema).decode()}"
    )
