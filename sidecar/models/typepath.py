"""What stands at a path of the decoder (`$.messages[0].content`): its type, its choices, and what was sent.

Works on `msgspec.inspect`, in step with the plain values of the payload, which tell one member of a union
from another.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")
_NAME_CHARS = 64
_KIND_TYPES: tuple[tuple[type[Any] | tuple[type[Any], ...], tuple[type[inspect.Type], ...]], ...] = (
    (bool, (inspect.BoolType,)),
    (int, (inspect.IntType, inspect.FloatType)),
    (float, (inspect.FloatType,)),
    (str, (inspect.StrType, inspect.LiteralType, inspect.BytesType, inspect.DateTimeType)),
    (list, (inspect.VarTupleType, inspect.ListType)),
    (dict, (inspect.StructType, inspect.DictType)),
    (type(None), (inspect.NoneType,)),
)


@dataclass(frozen=True, slots=True)
class TypePlace:
    """A place in a message: `node` is its type, `parent` the type it stands in, `value` what was sent."""

    path: str
    name: str
    node: inspect.Type | None
    parent: inspect.Type | None
    value: Any
    description: str | None

    @property
    def length(self) -> int:
        return len(self.value) if isinstance(self.value, str | list | dict) else 0

    def fields(self) -> list[str]:
        """The names that the object here may have, its tag first."""
        found: list[str] = []
        for struct in _structs(self.node, self.value):
            names = [struct.tag_field] if struct.tag_field else []
            names += [field.encode_name for field in struct.fields]
            found += [name for name in names if name not in found]
        return found

    def tags(self, field: str) -> list[str]:
        """The values that `field`, a tag of the object here, may have; none when it is no tag."""
        return [str(s.tag) for s in _structs(self.node, None) if s.tag_field == field]

    def choices(self) -> list[str]:
        """The literal values allowed here; at a tag, the tags."""
        literals = [str(v) for t in _members(self.node) if isinstance(t, inspect.LiteralType) for v in t.values]
        return literals or [str(s.tag) for s in _structs(self.parent, None) if s.tag is not None]


def locate(kind: Any, value: Any, dotted: str) -> TypePlace:
    """The place that the decoder's path `dotted` names in a message of type `kind`."""
    node: inspect.Type | None = _type_info(kind)
    parent: inspect.Type | None = None
    path, name, description = "", "the message", _description(node)
    for step in _STEP.finditer(dotted):
        parent = node
        if _is_free_form(node):
            word, value = _to_infinity(value)
            node = None
        else:
            node, value, word = _step(step, node, value)
        path += word if word.startswith("[") or not path else f".{word}"
        name = f"{word!r}" if not word.startswith("[") else f"'{path[:_NAME_CHARS]}'"
        description = _description(node)
        if node is None:
            break
    return TypePlace(path=path, name=name, node=node, parent=parent, value=value, description=description)


_type_info = cache(inspect.type_info)


def _step(step: re.Match[str], node: inspect.Type | None, value: Any) -> tuple[inspect.Type | None, Any, str]:
    if step[1] is not None:
        inner = value.get(step[1]) if isinstance(value, dict) else None
        return _field_type(node, value, step[1]), inner, step[1]
    if step[2] is not None:
        index = int(step[2])
        inner = value[index] if isinstance(value, list) and index < len(value) else None
        return _item_type(node), inner, f"[{index}]"
    value_type = next((t.value_type for t in _members(node) if isinstance(t, inspect.DictType)), None)
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _fits(value_type, inner):
                return value_type, inner, f"[{json.dumps(key[:_NAME_CHARS])}]"
    return value_type, None, "[…]"


def _field_type(node: inspect.Type | None, value: Any, name: str) -> inspect.Type | None:
    for struct in _structs(node, value):
        for field in struct.fields:
            if field.encode_name == name:
                return field.type
    return None


def _item_type(node: inspect.Type | None) -> inspect.Type | None:
    for member in _members(node):
        if isinstance(member, inspect.VarTupleType | inspect.ListType):
            return member.item_type
    return None


def _members(node: inspect.Type | None) -> Iterator[inspect.Type]:
    """The alternatives of a type, without the wrappers that carry its description."""
    if isinstance(node, inspect.Metadata):
        yield from _members(node.type)
    elif isinstance(node, inspect.UnionType):
        for member in node.types:
            yield from _members(member)
    elif node is not None:
        yield node


def _structs(node: inspect.Type | None, value: Any) -> list[inspect.StructType]:
    """The structs that may stand here; only the one whose tag `value` carries, where it carries one."""
    structs = [t for t in _members(node) if isinstance(t, inspect.StructType)]
    if isinstance(value, dict):
        tagged = [s for s in structs if s.tag_field and value.get(s.tag_field) == s.tag]
        return tagged or structs
    return structs


def _description(node: inspect.Type | None) -> str | None:
    if isinstance(node, inspect.Metadata):
        return (node.extra_json_schema or {}).get("description") or _description(node.type)
    if isinstance(node, inspect.UnionType):
        return next((d for t in node.types if (d := _description(t))), None)
    return None


def _is_free_form(node: inspect.Type | None) -> bool:
    """Any JSON, or an object of such: all that the decoder can find wrong in it is a number out of range."""
    members = tuple(_members(node))
    return any(
        isinstance(t, inspect.AnyType) or (isinstance(t, inspect.DictType) and _is_free_form(t.value_type))
        for t in members
    )


def _fits(node: inspect.Type | None, value: Any) -> bool:
    """Whether `value` can be what `node` asks for."""
    if isinstance(value, float) and math.isinf(value):
        return False
    wanted = next((types for kind, types in _KIND_TYPES if isinstance(value, kind)), ())
    return any(isinstance(t, wanted) for t in _members(node))


def _to_infinity(value: Any) -> tuple[str, Any]:
    """The way to the first number that is out of range, and that number. One walk, however deep it lies."""
    waiting: list[tuple[Any, Any, str]] = [(value, None, "")]
    while waiting:
        place = waiting.pop()
        item = place[0]
        if isinstance(item, float) and math.isinf(item):
            steps: list[str] = []
            at: Any = place
            while at is not None:
                steps.append(at[2])
                at = at[1]
            return "".join(reversed(steps)) or "[…]", item
        if isinstance(item, dict):
            waiting.extend((v, place, f"[{json.dumps(k[:_NAME_CHARS])}]") for k, v in reversed(item.items()))
        elif isinstance(item, list):
            waiting.extend((v, place, f"[{i}]") for i, v in reversed(list(enumerate(item))))
    return "[…]", None
