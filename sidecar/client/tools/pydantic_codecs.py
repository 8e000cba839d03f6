"""Codecs of pydantic's types. Imported only where a tool uses some."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pydantic
import pydantic_core
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from sidecar.client.tools.codecs import Schema, UnsupportedType, tidy
from sidecar.errors import InvalidRequest

_SHOWN_ERRORS = 3


def build_schemas(types: Mapping[str, Any], *, is_output: bool) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """As `codecs.build_schemas`."""
    mode: Literal["validation", "serialization"] = "serialization" if is_output else "validation"
    adapters: dict[str, pydantic.TypeAdapter[Any]] = {}
    for key, kind in types.items():
        try:
            adapters[key] = pydantic.TypeAdapter(kind)
            adapters[key].json_schema(mode=mode)
        except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as e:
            raise UnsupportedType(key, str(e).splitlines()[0]) from e
    inputs = [(key, mode, adapter) for key, adapter in adapters.items()]
    schemas, shared = pydantic.TypeAdapter.json_schemas(inputs, ref_template="#/$defs/{model}")
    definitions: Mapping[str, Schema] = shared.get("$defs", {})
    return (
        {key: tidy(schemas[key, mode]) for key in adapters},
        {name: tidy(schema) for name, schema in definitions.items()},
    )


def decoder(kind: Any, *, path: str) -> Callable[[bytes], Any]:
    """Reads JSON as `kind`, by the rules of each model's own configuration. Raises InvalidRequest."""
    adapter = pydantic.TypeAdapter(kind)

    def decode(payload: bytes) -> Any:
        try:
            return adapter.validate_json(payload)
        except pydantic.ValidationError as e:
            raise _refusal(e, path) from e

    return decode


def encoder(kind: Any) -> Callable[[Any], bytes]:
    """Writes values of `kind`. Raises TypeError for a value that is of another type."""
    adapter = pydantic.TypeAdapter(kind)

    def encode(value: Any) -> bytes:
        try:
            return adapter.dump_json(value, by_alias=True, warnings="error")
        except pydantic_core.PydanticSerializationError as e:
            raise TypeError(str(e)) from e

    return encode


def _refusal(error: pydantic.ValidationError, root: str) -> InvalidRequest:
    """The first few faults; none of the input's values, which are nobody's business in a log."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    path = _path(root, faults[0]["loc"])
    message = faults[0]["msg"]
    for fault in faults[1:_SHOWN_ERRORS]:
        message += f"; {_path(root, fault['loc'])}: {fault['msg']}"
    if len(faults) > _SHOWN_ERRORS:
        message += f"; and {len(faults) - _SHOWN_ERRORS} more"
    return InvalidRequest(message, path=path)


def _path(root: str, places: tuple[int | str, ...]) -> str:
    path = root
    for place in places:
        if isinstance(place, int):
            path += f"[{place}]"
        elif place.isidentifier():
            path += f".{place}"
        else:
            path += f"[{json.dumps(place[:64])}]"
    return path
