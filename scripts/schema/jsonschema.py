"""JSON Schemas (2020-12) of the messages, made from the models, each complete in itself."""

from typing import Any

import msgspec

from scripts.schema.catalog import MessageSpec
from scripts.schema.notes import NOTES
from sidecar.models import content
from sidecar.models.event import DATA_OF, Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFS = "#/$defs/{name}"


def _one_of(**kinds: str) -> list[dict[str, Any]]:
    """Exactly one of the fields is there and not null."""
    return [{"required": [field], "properties": {field: {"type": kind}}} for field, kind in kinds.items()]


_EXCLUSIVE: dict[str, list[dict[str, Any]]] = {
    "JobRequest": _one_of(messages="array", prompt="object"),
    "Source": _one_of(bytes="string", object="string"),
    "ReasoningBlock": _one_of(text="string", redacted="string"),
    "Reasoning": _one_of(effort="string", budget_tokens="integer"),
}


def build(message: MessageSpec) -> dict[str, Any]:
    """The schema of one message, with everything that it refers to under `$defs`."""
    if message.type is Event:
        root, definitions = _event()
    else:
        root, definitions = _components(message.type)
    is_open = not message.type.__struct_config__.forbid_unknown_fields
    schema: dict[str, Any] = {"$schema": DIALECT, "$id": f"urn:nats-llm-sidecar:v1:{message.name}"}
    schema |= {**root, "title": message.title, "description": _joined(message.summary, root.get("description"))}
    if definitions:
        schema["$defs"] = dict(sorted(definitions.items()))
    tidied: dict[str, Any] = _tidy(schema, is_open=is_open)
    return tidied


def _components(kind: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    _, definitions = msgspec.json.schema_components([kind], ref_template=_REFS)
    if "Output" in definitions:
        (blocks,), more = msgspec.json.schema_components([content.AnswerBlock], ref_template=_REFS)
        definitions |= {**more, "AnswerBlock": {**blocks, "title": "AnswerBlock"}}
        definitions["Output"]["properties"]["content"]["items"] = {"$ref": "#/$defs/AnswerBlock"}
    for name, definition in definitions.items():
        _annotate(name, definition)
    return definitions.pop(kind.__name__), definitions


def _event() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The envelope, its `data` bound to its `type`."""
    fields = [(f.name, Any if f.name == "data" else f.type) for f in msgspec.structs.fields(Event)]
    envelope = msgspec.defstruct("Event", fields, kw_only=True)
    root, definitions = _components(envelope)
    root["description"] = Event.__doc__
    root["oneOf"] = []
    for event_type, kind in DATA_OF.items():
        body, more = _components(kind)
        definitions |= {**more, kind.__name__: body}
        data = {"$ref": _REFS.format(name=kind.__name__)}
        root["oneOf"].append({"properties": {"type": {"const": event_type}, "data": data}})
    return root, definitions


def _annotate(name: str, definition: dict[str, Any]) -> None:
    for field, schema in definition.get("properties", {}).items():
        note = NOTES.get(f"{name}.{field}")
        if note is not None:
            schema["description"] = note
    if name in _EXCLUSIVE:
        definition["oneOf"] = _EXCLUSIVE[name]


def _joined(*texts: str | None) -> str:
    return " ".join(text for text in texts if text)


def _tidy(value: Any, *, is_open: bool, key: str = "") -> Any:
    """Plain JSON Schema: no keywords of OpenAPI, one-line descriptions, patterns without Python's `\\Z`.

    In what the sidecar says (`is_open`), unknown fields are for clients to ignore.
    """
    if isinstance(value, list | tuple):
        return [_tidy(item, is_open=is_open) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for name, item in value.items():
        if key != "properties" and _is_dropped(name, item, value, is_open=is_open):
            continue
        if name == "description" and isinstance(item, str):
            item = " ".join(item.split("\n\n", 1)[0].split())
        elif name == "pattern" and isinstance(item, str):
            item = item.removesuffix(r"\Z") + ("$" if item.endswith(r"\Z") else "")
        elif name == "enum" and isinstance(item, list) and len(item) == 1:
            name, item = "const", item[0]
        elif name == "anyOf" and "discriminator" in value:
            name = "oneOf"
        result[name] = _tidy(item, is_open=is_open, key=name)
    return result


def _is_dropped(name: str, item: Any, schema: dict[str, Any], *, is_open: bool) -> bool:
    if name == "discriminator":
        return isinstance(item, dict) and "propertyName" in item
    if name == "additionalProperties":
        return is_open and item is False
    return name == "required" and item == []
