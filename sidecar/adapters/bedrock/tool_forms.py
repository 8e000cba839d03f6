"""The schema of a tool's input as a family takes it. Pure; what a schema became is kept for the next call.

What a tool's caller is held to does not change: inputs of registered tools are checked against the schema that was
registered, and names that had to be written otherwise are turned back in the calls that come (`renamed`).
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sidecar.adapters.bedrock.names import plain
from sidecar.adapters.bedrock.schema import at_pointer
from sidecar.models.profile import Family

COMBINED = ("allOf", "anyOf", "oneOf")
_NOT_A_KEY = re.compile(r"[^A-Za-z0-9_.-]")
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"const", "default", "enum", "examples", "example"})
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(_NAMED_SCHEMAS, dict),
    **dict.fromkeys((*COMBINED, "required", "enum"), list),
    "type": (str, list),
    "description": str,
    "$ref": str,
}
_NOVA_ROOT = ("type", "properties", "required")
_DEFINITIONS = ("$defs", "definitions")
_MOST_PARTS = 4_000
_MOST_BRANCHES = 200
_MOST_KEPT = 256
_LARGEST_KEPT_BYTES = 16 * 1024


class ToolForm(NamedTuple):
    """`keys` are the names on the wire and what they stand for, where the two differ; `notes` what was changed.

    `problem`: why no model takes the schema in any form.
    """

    schema: dict[str, Any]
    keys: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    problem: str | None = None


# By the identity of the schema, which an entry keeps alive: those of registered tools come again with every job.
_known: "OrderedDict[tuple[int, Family], tuple[dict[str, Any], ToolForm]]" = OrderedDict()


def tool_form(schema: dict[str, Any], family: Family) -> ToolForm:
    key = (id(schema), family)
    found = _known.get(key)
    if found is not None and found[0] is schema:
        return found[1]
    form = _made(schema, family)
    if len(msgspec.json.encode(schema)) > _LARGEST_KEPT_BYTES:
        return form
    _known[key] = (schema, form)
    if len(_known) > _MOST_KEPT:
        _known.popitem(last=False)
    return form


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Arguments with their keys by other names, at any depth. Those on the wire hold a hash: none is mistaken."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(item, names) for key, item in value.items()}
    return [renamed(item, names) for item in value] if isinstance(value, list) else value


def root_problem(schema: dict[str, Any]) -> str | None:
    """Why a schema describes no object, which a tool's input always is; None where it does."""
    kind = schema.get("type", "object")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        return None
    return f"describes {kind!r}, but a tool's input is an object: wrap it in one"


def has_foreign_keys(schema: Any) -> bool:
    """Whether properties have names that Claude does not take."""
    if isinstance(schema, list):
        return any(map(has_foreign_keys, schema))
    if not isinstance(schema, dict):
        return False
    for key, value in schema.items():
        if key in _VALUES:
            continue
        if key == "properties" and isinstance(value, dict) and any(_wire_key(name) != name for name in value):
            return True
        named = key in _NAMED_SCHEMAS and isinstance(value, dict)
        if has_foreign_keys([*value.values()] if named else value):
            return True
    return False


def _made(schema: dict[str, Any], family: Family) -> ToolForm:
    problem = root_problem(schema) or _malformed(schema) or _dangling(schema, schema)
    if problem is not None:
        return ToolForm(schema, problem=problem)
    notes: list[str] = []
    made = _without_nulls(schema, notes)
    made.pop("$schema", None)
    made = (
        {**_resolved(made, made), "type": "object"} if "$ref" in made or schema.get("type") != "object" else made
    )
    keys: dict[str, str] = {}
    if family in ("claude", "nova"):
        made = _merged(made, notes)
    if family == "nova":
        made = _for_nova(made, notes)
    if family == "claude" and has_foreign_keys(made):
        made = _with_wire_keys(made, keys)
        notes.append("names of properties are written otherwise for this model, and turned back in its calls")
    return ToolForm(made, keys, tuple(dict.fromkeys(notes)))


def _malformed(schema: Any, *, is_named: bool = False) -> str | None:
    """What in a schema is of another kind than JSON Schema says, so that nobody could read it; None if nothing."""
    if isinstance(schema, list):
        return next(filter(None, map(_malformed, schema)), None)
    if not isinstance(schema, dict):
        return None
    for key, value in schema.items():
        if is_named:
            if not isinstance(value, dict | bool | None):
                return f"says {value!r} where the schema of {key!r} should stand"
        elif value is not None and key in _KINDS and not isinstance(value, _KINDS[key]):
            return f"is not a usable JSON Schema: {key!r} is {type(value).__name__}"
        elif key == "required" and value is not None and not all(isinstance(name, str) for name in value):
            return "is not a usable JSON Schema: 'required' lists what is no name"
        if is_named or key not in _VALUES:
            problem = _malformed(value, is_named=not is_named and key in _NAMED_SCHEMAS)
            if problem is not None:
                return problem
    return None


def loosened(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its references that lead nowhere: what they stand beside still holds."""

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(item) for item in part]
        if not isinstance(part, dict):
            return part
        return {
            key: walk(value)
            for key, value in part.items()
            if not (key == "$ref" and _leads_nowhere(value, schema))
        }

    made: dict[str, Any] = walk(schema)
    return made


def _leads_nowhere(reference: Any, root: dict[str, Any]) -> bool:
    is_local = isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))
    return is_local and not isinstance(at_pointer(root, str(reference)), dict | bool)


def _dangling(schema: Any, root: dict[str, Any], *, is_named: bool = False) -> str | None:
    """A reference within the schema that leads nowhere; None where all lead somewhere."""
    if isinstance(schema, list):
        return next(filter(None, (_dangling(item, root) for item in schema)), None)
    if not isinstance(schema, dict):
        return None
    reference = None if is_named else schema.get("$ref")
    if _leads_nowhere(reference, root):
        return f"is not a usable JSON Schema: {reference!r} leads nowhere in it"
    for key, value in schema.items():
        if is_named or key not in _VALUES:
            problem = _dangling(value, root, is_named=not is_named and key in _NAMED_SCHEMAS)
            if problem is not None:
                return problem
    return None


def _without_nulls(schema: Any, notes: list[str], *, is_named: bool = False) -> Any:
    """A schema without keywords that are null; `is_named`: its keys are names of schemas."""
    if isinstance(schema, list):
        return [_without_nulls(item, notes) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if not is_named and key in _VALUES:
            made[key] = value
        elif value is None:
            notes.append(f"{key!r} was null in it")
            if is_named:
                made[key] = {}
        else:
            made[key] = _without_nulls(value, notes, is_named=not is_named and key in _NAMED_SCHEMAS)
    return made


def _resolved(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A part with what it refers to in place of the reference, as far as that lies in the same schema."""
    for _ in range(8):
        reference = part.get("$ref")
        target = at_pointer(root, reference) if isinstance(reference, str) and reference[:2] == "#/" else None
        if not isinstance(target, dict):
            break
        part = {**target, **{key: value for key, value in part.items() if key != "$ref"}}
    return part


def _merged(schema: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """One object in place of combined ones at the root: all their properties, required what all require."""
    if not any(key in schema for key in COMBINED):
        return schema
    notes.append("objects combined at its root (anyOf, oneOf, allOf) were merged into one")
    return _flat(schema, schema, [_MOST_BRANCHES])


def _flat(part: dict[str, Any], root: dict[str, Any], budget: list[int]) -> dict[str, Any]:
    """`budget` bounds the branches: definitions that refer to each other could make millions of a few lines."""
    budget[0] -= 1
    part = _resolved(part, root)
    properties = dict(part.get("properties") or {})
    required = list(part.get("required") or [])
    told: list[str] = []
    for key in COMBINED:
        branches = [branch for branch in part.get(key) or () if isinstance(branch, dict)]
        flat = [_flat(branch, root, budget) for branch in branches if budget[0] > 0]
        for branch in flat:
            for name, one in (branch.get("properties") or {}).items():
                known = properties.get(name, one)
                properties[name] = known if known == one else {"anyOf": [known, one]}
        wanted = [[str(name) for name in branch.get("required") or []] for branch in flat]
        if key == "allOf":
            required += [name for names in wanted for name in names]
        elif wanted:
            required += [name for name in wanted[0] if all(name in names for names in wanted)]
            told += [" and ".join(names) for names in wanted if names]
    made = {key: value for key, value in part.items() if key not in COMBINED}
    if properties:
        made["properties"] = properties
    if required:
        made["required"] = list(dict.fromkeys(map(str, required)))
    if told:
        known_text = made.get("description")
        text = f"Needs one of: {'; '.join(told)}."
        made["description"] = f"{known_text} {text}" if isinstance(known_text, str) and known_text else text
    return made


def _for_nova(schema: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Definitions in place of references, and nothing but type, properties and required at the root."""
    if any(name in schema for name in _DEFINITIONS):
        notes.append("its definitions stand in place of the references to them")
    made = _inlined(schema, schema, (), [_MOST_PARTS], notes)
    return {key: made[key] for key in _NOVA_ROOT if key in made}


def _inlined(
    part: Any,
    root: dict[str, Any],
    above: tuple[str, ...],
    budget: list[int],
    notes: list[str],
    *,
    is_named: bool = False,
) -> Any:
    """`above`: the references that led here; `is_named`: the keys of `part` are names of schemas."""
    if isinstance(part, list):
        return [_inlined(item, root, above, budget, notes) for item in part]
    if not isinstance(part, dict):
        return part
    if is_named:
        return {name: _inlined(one, root, above, budget, notes) for name, one in part.items()}
    budget[0] -= 1
    reference = part.get("$ref")
    target = at_pointer(root, reference) if isinstance(reference, str) and reference[:1] == "#" else None
    if isinstance(reference, str) and isinstance(target, dict):
        if reference in above or budget[0] < 0:
            notes.append("a definition that contains itself, or grows beyond measure, was cut in it")
            return {"type": target.get("type", "object")}
        beside = {key: value for key, value in part.items() if key != "$ref"}
        return _inlined({**target, **beside}, root, (*above, reference), budget, notes)
    if isinstance(reference, str):
        notes.append(f"what {reference[:80]!r} refers to is not in it and was left out")
        part = {key: value for key, value in part.items() if key != "$ref"}
    return {
        key: value
        if key in _VALUES
        else _inlined(value, root, above, budget, notes, is_named=key in _NAMED_SCHEMAS)
        for key, value in part.items()
        if key not in _DEFINITIONS
    }


def _wire_key(name: str) -> str:
    return plain(name, _NOT_A_KEY) if name else plain(" ", _NOT_A_KEY)


def _with_wire_keys(schema: Any, keys: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_with_wire_keys(item, keys) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            made[key] = {
                _noted(name, keys): _told(name, _with_wire_keys(one, keys)) for name, one in value.items()
            }
        elif key == "required" and isinstance(value, list):
            made[key] = [_wire_key(name) if isinstance(name, str) else name for name in value]
        elif key in _NAMED_SCHEMAS and isinstance(value, dict):
            made[key] = {name: _with_wire_keys(one, keys) for name, one in value.items()}
        else:
            made[key] = value if key in _VALUES else _with_wire_keys(value, keys)
    return made


def _noted(name: str, keys: dict[str, str]) -> str:
    wire = _wire_key(name)
    if wire != name:
        keys[wire] = name
    return wire


def _told(name: str, schema: Any) -> Any:
    """The schema of a property that had to be written otherwise says its name."""
    if _wire_key(name) == name or not isinstance(schema, dict):
        return schema
    known = schema.get("description")
    return {**schema, "description": f"{name}: {known}" if isinstance(known, str) and known else name}
