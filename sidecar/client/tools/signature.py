"""A function's signature as a tool's schemas. Everything that cannot work is refused here, at decoration."""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sidecar.client.tools.codecs import InputCodec, Schema, UnsupportedType, build_schemas, output_encoder, plain
from sidecar.client.tools.context import ToolContext
from sidecar.client.tools.errors import InvalidTool
from sidecar.errors import InvalidRequest

PARAMETER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What Claude takes as the name of a property of a tool's input."""
_RETURN = "return"
_POSITIONAL = {
    inspect.Parameter.VAR_POSITIONAL: ("*", "take a list: `items: list[str]`"),
    inspect.Parameter.VAR_KEYWORD: ("**", "name each argument, or take one of type dict[str, …]"),
}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and gives. `context` names the parameter that gets the ToolContext, if one does."""

    input_schema: Schema
    output_schema: Schema | None
    input: InputCodec
    encode_output: Callable[[Any], bytes]
    context: str | None
    is_async: bool


def read_signature(function: Callable[..., Any], arguments: Mapping[str, str]) -> Signature:
    """The schemas of `function`; `arguments` are descriptions for its parameters. Raises InvalidTool."""
    name = function_name(function)
    _check_kind(function, name)
    hints = _hints(function, name)
    context: str | None = None
    kinds: dict[str, Any] = {}
    notes: dict[str, str] = dict(arguments)
    defaults: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if _is_context(hints.get(parameter.name)):
            context = parameter.name
            continue
        kind, note = _parameter_type(parameter, hints, name)
        kinds[parameter.name] = kind
        if note is not None:
            notes[parameter.name] = note
        if parameter.default is not inspect.Parameter.empty:
            defaults[parameter.name] = parameter.default
    input_schema, codec = _input(kinds, notes, defaults, name)
    kind = _without_note(hints.get(_RETURN, Any))[0]
    return Signature(
        input_schema=input_schema,
        output_schema=_output_schema(kind, name),
        input=codec,
        encode_output=output_encoder(kind),
        context=context,
        is_async=inspect.iscoroutinefunction(function),
    )


def function_name(function: Any) -> str:
    """What messages call a function."""
    name: str = getattr(function, "__qualname__", None) or repr(function)
    return name.rpartition("<locals>.")[2]


def _check_kind(function: Any, name: str) -> None:
    if not inspect.isroutine(function) or isinstance(function, types.BuiltinFunctionType):
        raise InvalidTool(f"{name} is no function written in Python: wrap it in `def`")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTool(f"{name}() yields, but a tool gives one output: return a list")


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as e:
        raise InvalidTool(
            f"{name}(): an annotation names {e.name!r}, which is not defined in its module: define or import it "
            "there at run time, not inside a function and not under TYPE_CHECKING"
        ) from e
    except (TypeError, SyntaxError) as e:
        raise InvalidTool(f"{name}(): an annotation cannot be read: {e}") from e


def _parameter_type(
    parameter: inspect.Parameter, hints: Mapping[str, Any], function: str
) -> tuple[Any, str | None]:
    where = f"{function}(): parameter {parameter.name!r}"
    if parameter.kind in _POSITIONAL:
        stars, remedy = _POSITIONAL[parameter.kind]
        raise InvalidTool(f"{where} is {stars}{parameter.name}, which has no schema: {remedy}")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise InvalidTool(f"{where} is positional-only, but arguments come by name: remove the `/`")
    if parameter.name not in hints:
        method = " or, for a method, decorate the bound one: tool(instance.method)"
        remedy = "annotate it" + (
            method if parameter.name in ("self", "cls") else f", as in `{parameter.name}: str`"
        )
        raise InvalidTool(f"{where} has no annotation: {remedy}")
    if PARAMETER_NAME.fullmatch(parameter.name) is None:
        raise InvalidTool(f"{where}: models take 1 to 64 of A-Z a-z 0-9 _ in a name: rename it")
    if type(parameter.default).__module__.startswith("pydantic"):
        raise InvalidTool(
            f"{where} has a pydantic Field as its default: write `{parameter.name}: Annotated[…, Field(…)] = …`"
        )
    return _without_note(hints[parameter.name])


def _without_note(kind: Any) -> tuple[Any, str | None]:
    """`Annotated[T, "words"]` as T and the words; other metadata stays where it is."""
    metadata = getattr(kind, "__metadata__", ())
    words = [one for one in metadata if isinstance(one, str)]
    if not words:
        return kind, None
    others = tuple(one for one in metadata if not isinstance(one, str))
    bare = typing.get_args(kind)[0]
    rest: Any = typing.Annotated[(bare, *others)] if others else bare
    return rest, " ".join(words)


def _is_context(kind: Any) -> bool:
    return kind is ToolContext or (ToolContext in typing.get_args(kind) and type(None) in typing.get_args(kind))


def _input(
    kinds: Mapping[str, Any], notes: Mapping[str, str], defaults: Mapping[str, Any], function: str
) -> tuple[Schema, InputCodec]:
    try:
        schemas, definitions = build_schemas(kinds)
        codec = InputCodec(kinds, optional=defaults)
    except UnsupportedType as e:
        raise InvalidTool(
            f"{function}(): parameter {e.key!r} has a type that JSON Schema cannot tell: {e}; use JSON's own "
            "types, dataclasses, msgspec structs or pydantic models"
        ) from e
    for name, schema in schemas.items():
        if notes.get(name):
            schema.setdefault("description", notes[name])
        if name in defaults:
            _add_default(schema, name, defaults[name], kinds[name], function)
    whole: Schema = {"type": "object", "properties": schemas, "additionalProperties": False}
    required = [name for name in kinds if name not in defaults]
    if required:
        whole["required"] = required
    if definitions:
        whole["$defs"] = definitions
    return whole, codec


def _add_default(schema: Schema, name: str, default: Any, kind: Any, function: str) -> None:
    """Show a default to the model, where JSON can; the function's own default is what is used in any case."""
    try:
        value = plain(default)
    except TypeError:
        return
    try:
        InputCodec({name: kind}, optional=()).decode(msgspec.json.encode({name: value}))
    except InvalidRequest as e:
        hint = f"write `{name}: … | None = None`" if default is None else "give one that is of the type"
        raise InvalidTool(f"{function}(): the default of {name!r} is not of its type ({e}): {hint}") from e
    schema.setdefault("default", value)


def _output_schema(kind: Any, function: str) -> Schema | None:
    if kind is Any:
        return None
    try:
        schemas, definitions = build_schemas({_RETURN: kind}, is_output=True)
    except UnsupportedType as e:
        raise InvalidTool(
            f"{function}() returns a type that JSON Schema cannot tell: {e}; annotate what its JSON is, or Any"
        ) from e
    schema = schemas[_RETURN]
    if definitions:
        schema["$defs"] = definitions
    return schema or None
