"""JSON of Python types: schemas, reading, writing. By msgspec, or by pydantic where a type is pydantic's.

pydantic is imported only by tools that use it.
"""

import dataclasses
import json
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sidecar.models import decode_errors
from sidecar.models.codec import encode

REF = "#/$defs/{name}"
Schema = dict[str, Any]
_ABSENT: Any = object()


class UnsupportedType(TypeError):
    """A type cannot be told in JSON Schema; `key` is the caller's name for it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def build_schemas(
    types: Mapping[str, Any], *, is_output: bool = False
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """A schema for each type, under the caller's keys, and the definitions that they refer to.

    Raises UnsupportedType.
    """
    theirs = {key: kind for key, kind in types.items() if is_pydantic(kind)}
    schemas, definitions = _by_msgspec({key: kind for key, kind in types.items() if key not in theirs})
    if theirs:
        from sidecar.client.tools import pydantic_codecs

        more, named = pydantic_codecs.build_schemas(theirs, is_output=is_output)
        schemas |= more
        for name, schema in named.items():
            if definitions.setdefault(name, schema) != schema:
                raise UnsupportedType(next(iter(theirs)), f"two different types are called {name}: rename one")
    return {key: schemas[key] for key in types}, definitions


class InputCodec:
    """Reads a JSON object into keyword arguments of the given types; `optional` ones may be absent."""

    def __init__(self, types: Mapping[str, Any], *, optional: Collection[str]) -> None:
        self._theirs: dict[str, Callable[[bytes], Any]] = {}
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for name, kind in types.items():
            if is_pydantic(kind):
                from sidecar.client.tools import pydantic_codecs

                self._theirs[name] = pydantic_codecs.decoder(kind, path=name)
                kind = msgspec.Raw
            fields.append((name, kind, _ABSENT) if name in optional else (name, kind))
        self._struct = msgspec.defstruct("Input", fields, kw_only=True, forbid_unknown_fields=True)
        self._decode = msgspec.json.Decoder(self._struct).decode

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The arguments that `payload` holds. Raises InvalidRequest with the path of what does not fit."""
        arguments = msgspec.structs.asdict(self._read(payload or b"{}"))
        given = {name: value for name, value in arguments.items() if value is not _ABSENT}
        return {
            name: self._theirs[name](bytes(value)) if name in self._theirs else value
            for name, value in given.items()
        }

    def _read(self, payload: bytes) -> Any:
        try:
            return self._decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            try:
                # JSON Schema counts 1.0 as an integer, msgspec does not.
                return self._decode(_with_integers(payload))
            except (ValueError, RecursionError):
                raise decode_errors.explain(e, payload, self._struct) from e


def output_encoder(kind: Any) -> Callable[[Any], bytes]:
    """Writes values of type `kind`; raises TypeError or ValueError for what has no JSON form."""
    if not is_pydantic(kind):
        return encode_plain
    from sidecar.client.tools import pydantic_codecs

    return pydantic_codecs.encoder(kind)


def encode_plain(value: Any) -> bytes:
    """Any value's JSON, models of pydantic within it included. Raises TypeError."""
    return encode(plain(value))


def is_pydantic(kind: Any) -> bool:
    """Whether only pydantic understands `kind`: one of its models or types, or a constraint of its kind."""
    return any(
        hasattr(part, "__get_pydantic_core_schema__")
        or hasattr(part, "__pydantic_core_schema__")
        or type(part).__module__.partition(".")[0] in ("pydantic", "annotated_types")
        for part in _parts(kind)
    )


def _parts(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of as written; fields of classes are not looked at."""
    yield kind
    for inner in (*typing.get_args(kind), *getattr(kind, "__metadata__", ())):
        if not isinstance(inner, str | int | bytes):
            yield from _parts(inner)


def _by_msgspec(types: Mapping[str, Any]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    for key, kind in types.items():
        try:
            msgspec.json.schema_components([kind], ref_template=REF)
            msgspec.json.Decoder(kind)
        except (TypeError, RecursionError) as e:
            raise UnsupportedType(key, _last_line(e)) from e
    schemas, definitions = msgspec.json.schema_components(list(types.values()), ref_template=REF)
    return (
        {key: tidy(schema) for key, schema in zip(types, schemas, strict=True)},
        {name: tidy(schema) for name, schema in definitions.items()},
    )


def _last_line(error: BaseException) -> str:
    """msgspec names the type that it does not take in the last line of a longer advice."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _with_integers(payload: bytes) -> bytes:
    def number(digits: str) -> int | float:
        value = float(digits)
        return int(value) if value.is_integer() else value

    return json.dumps(json.loads(payload, parse_float=number)).encode()


def tidy(schema: Mapping[str, Any]) -> Schema:
    """A schema without what only costs tokens: generated titles, and keywords of OpenAPI."""
    return {key: _tidy_keyword(key, value) for key, value in schema.items() if not _is_noise(key, value)}


_NAMED = ("properties", "$defs", "patternProperties", "dependentSchemas")
_VERBATIM = ("default", "const", "enum", "examples", "required")


def _tidy_keyword(key: str, value: Any) -> Any:
    if key in _VERBATIM:
        return value
    if key in _NAMED and isinstance(value, Mapping):
        return {name: tidy(inner) if isinstance(inner, Mapping) else inner for name, inner in value.items()}
    if isinstance(value, Mapping):
        return tidy(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tidy(inner) if isinstance(inner, Mapping) else inner for inner in value]
    return value


def _is_noise(key: str, value: Any) -> bool:
    if key == "title":
        return isinstance(value, str)
    if key == "discriminator":
        return isinstance(value, Mapping) and "propertyName" in value
    return key == "required" and value == []


def plain(value: Any) -> Any:
    """`value` as what JSON is made of; models of pydantic anywhere in it included. Raises TypeError."""
    return msgspec.to_builtins(value, enc_hook=_dump, str_keys=True)


def _dump(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)  # type: ignore[arg-type]
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")
