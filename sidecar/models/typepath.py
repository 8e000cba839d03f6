"""What stands at a path of the decoder (`$.messages[0].content`): its type, its choices, and what was sent.

Works on `msgspec.inspect`, in step with the plain values of the payload, which tell one member of a union
from another.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")
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
class Place:
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


def locate(kind: Any, value: Any, dotted: str) -> Place:
    """The place that the decoder's path `dotted` names in a message of type `kind`."""
    node: inspect.Type | None = inspect.type_info(kind)
    parent: inspect.Type | None = None
    path, name, description = "", "the message", _description(node)
    for step in _STEP.finditer(dotted):
        parent, (node, value, word) = node, _step(step, node, value)
        path += word if word.startswith("[") or not path else f".{word}"
        name = f"{word!r}" if not word.startswith("[") else f"'{path}'"
        description = _description(node)
    return Place(path=path, name=name, node=node, parent=parent, value=value, description=description)


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
                return value_type, inner, f"[{json.dumps(key[:64])}]"
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


def _fits(node: inspect.Type | None, value: Any) -> bool:
    """Whether `value` can be what `node` asks for; for any type, whether its numbers are within range."""
    members = tuple(_members(node))
    if not members or any(isinstance(t, inspect.AnyType) for t in members):
        return not _has_infinity(value)
    if isinstance(value, float) and math.isinf(value):
        return False
    wanted = next((types for kind, types in _KIND_TYPES if isinstance(value, kind)), ())
    return any(isinstance(t, wanted) for t in members)


def _has_infinity(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float) and math.isinf(item):
            return True
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False
