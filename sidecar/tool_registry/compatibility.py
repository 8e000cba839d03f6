"""Whether a tool's new version keeps what an older one promised. Pure.

An input that was taken must be taken still; an output must be one that could have come before. What cannot be
proved of keywords such as `not`, `if` or `pattern` counts as broken where they differ. Two liberties are taken,
because they are how tools grow: a new property that need not be given is no narrowing, although before anything
could stand under its name, and an output may have properties more than before.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sidecar.models.tool import ToolRegistration
from sidecar.runtime.json_schema import pointed
from sidecar.tool_registry.constraints import divides, is_same, is_tighter, keyed, listed, types_of

MOST_STEPS = 3_000
MOST_DEPTH = 100

Schema = Any

_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "format",
        "$comment",
        "$schema",
        "$id",
        "$defs",
        "definitions",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
    }
)
# Keywords whose effect is not worked out here: where the wider side has one, the other must have the same.
_OPAQUE = (
    "pattern",
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "patternProperties",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
)
_LOWER_BOUNDS = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
_UPPER_BOUNDS = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")


class Break(NamedTuple):
    """What differs, and where: a path in the new version's registration."""

    path: str
    message: str


def broken(old: ToolRegistration, new: ToolRegistration) -> Break | None:
    """The first promise of `old` that `new` does not keep; None if it keeps all."""
    found = _Comparison(wide=new.input_schema, narrow=old.input_schema, is_input=True).run("input_schema")
    if found is not None or old.output_schema is None:
        return found
    if new.output_schema is None:
        return Break("output_schema", "is gone: say what comes back")
    return _Comparison(wide=old.output_schema, narrow=new.output_schema, is_input=False).run("output_schema")


class _Comparison:
    """Every value of `narrow` has to fit `wide`. For an input the new schema is the wide one, else the old."""

    def __init__(self, *, wide: Schema, narrow: Schema, is_input: bool) -> None:
        self._wide = wide
        self._narrow = narrow
        self._is_input = is_input
        self._steps = 0
        self._depth = 0
        self._under_way: set[tuple[str, str]] = set()

    def run(self, path: str) -> Break | None:
        return self._compare(self._wide, self._narrow, path)

    def _compare(self, wide: Schema, narrow: Schema, path: str) -> Break | None:
        self._steps += 1
        if self._steps > MOST_STEPS or self._depth > MOST_DEPTH:
            return Break(path, "cannot be compared: the schemas are too intricate")
        self._depth += 1
        try:
            return self._compare_one(wide, narrow, path)
        finally:
            self._depth -= 1

    def _compare_one(self, wide: Schema, narrow: Schema, path: str) -> Break | None:
        if wide is True or narrow is False:
            return None
        if wide is False:
            return Break(path, self._say("is not taken any more", "could not come before"))
        refs = (_ref(wide), _ref(narrow))
        if any(refs):
            return self._compare_references(wide, narrow, refs, path)
        if not _constraints(wide):
            return None
        return self._compare_objects(wide, {} if narrow is True else narrow, path)

    def _compare_references(self, wide: Schema, narrow: Schema, refs: tuple[str, str], path: str) -> Break | None:
        """A pair of references that is being compared further up holds if all else does."""
        if all(refs) and refs in self._under_way:
            return None
        both = all(refs)
        if both:
            self._under_way.add(refs)
        try:
            return self._compare(_resolved(wide, self._wide), _resolved(narrow, self._narrow), path)
        finally:
            if both:
                self._under_way.discard(refs)

    def _compare_objects(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Break | None:
        for keyword in ("anyOf", "oneOf"):
            if keyword in narrow:
                return self._each_branch_fits(wide, narrow, keyword, path)
        steps: tuple[Callable[[dict[str, Any], dict[str, Any], str], Iterator[Break | None]], ...] = (
            self._combined,
            self._types,
            self._values,
            self._bounds,
            self._properties,
            self._items,
            self._opaque,
        )
        found = next((found for step in steps for found in step(wide, narrow, path) if found is not None), None)
        if found is not None and "allOf" in narrow and self._is_within_one(wide, narrow, path):
            return None
        return found

    def _each_branch_fits(
        self, wide: dict[str, Any], narrow: dict[str, Any], keyword: str, path: str
    ) -> Break | None:
        rest = {name: value for name, value in narrow.items() if name != keyword}
        for i, branch in enumerate(narrow[keyword]):
            # Paths are the new version's, and of an input the branches are the old one's.
            at = path if self._is_input else f"{path}.{keyword}[{i}]"
            found = self._compare(wide, _joined(rest, branch), at)
            if found is not None:
                return found
        return None

    def _is_within_one(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> bool:
        """All of `allOf` hold at once, so that one of them within `wide` is enough."""
        rest = {name: value for name, value in narrow.items() if name != "allOf"}
        return any(self._compare(wide, _joined(rest, branch), path) is None for branch in narrow["allOf"])

    def _combined(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        for i, branch in enumerate(wide.get("allOf", ())):
            yield self._compare(branch, narrow, f"{path}.allOf[{i}]")
        for keyword in ("anyOf", "oneOf"):
            branches = wide.get(keyword)
            if branches is not None and all(self._compare(b, narrow, path) is not None for b in branches):
                yield Break(f"{path}.{keyword}", self._say("takes less than before", "gives more than before"))

    def _types(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        if "type" not in wide:
            return
        missing = sorted(types_of(narrow) - types_of(wide))
        if missing:
            names = ", ".join(missing)
            yield Break(f"{path}.type", self._say(f"does not take {names} any more", f"may now be {names}"))

    def _values(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        taken, given = listed(wide), listed(narrow)
        if taken is None:
            return
        name = "enum" if "enum" in (wide if self._is_input else narrow) else "const"
        if given is None:
            yield Break(f"{path}.{name}", self._say("is new: before, any value was taken", "is gone"))
            return
        known = set(map(keyed, taken))
        for value in given:
            if keyed(value) not in known:
                text = str(value)[:80]
                yield Break(f"{path}.{name}", self._say(f"does not take {text!r} any more", f"adds {text!r}"))

    def _bounds(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        for names, sign in ((_LOWER_BOUNDS, 1), (_UPPER_BOUNDS, -1)):
            for name in names:
                if name in wide and not is_tighter(narrow, name, wide[name], sign):
                    was, is_ = (narrow, wide) if self._is_input else (wide, narrow)
                    yield Break(f"{path}.{name}", f"is {is_.get(name, 'gone')}, was {was.get(name, 'without')}")
        if "multipleOf" in wide and not divides(wide["multipleOf"], narrow.get("multipleOf")):
            yield Break(f"{path}.multipleOf", self._say("takes less than before", "gives more than before"))

    def _properties(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        for name in wide.get("required", ()):
            if name not in narrow.get("required", ()):
                yield self._not_required(name, narrow, path)
        known, given = wide.get("properties", {}), narrow.get("properties", {})
        others = wide.get("additionalProperties", True)
        for name, schema in given.items():
            if name in known:
                yield self._compare(known[name], schema, f"{path}.properties.{name}")
            elif self._is_input or others is not False:
                yield self._compare(others, schema, f"{path}.properties.{name}")
        yield from self._other_properties(wide, narrow, path)

    def _not_required(self, name: str, narrow: dict[str, Any], path: str) -> Break:
        if self._is_input:
            return Break(f"{path}.required", f"asks for {name!r}, which was not required")
        if name not in narrow.get("properties", {}):
            return Break(f"{path}.properties.{name}", f"is gone, and {name!r} was promised")
        return Break(f"{path}.required", f"does not promise {name!r} any more")

    def _other_properties(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        """What stands under names that have no schema of their own."""
        others = narrow.get("additionalProperties", True)
        if isinstance(others, dict) and _constraints(others):
            given = narrow.get("properties", {})
            for name, schema in wide.get("properties", {}).items():
                if name not in given:
                    yield self._compare(schema, others, f"{path}.properties.{name}")
        if "additionalProperties" in wide and (self._is_input or isinstance(others, dict)):
            yield self._compare(wide["additionalProperties"], others, f"{path}.additionalProperties")

    def _items(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        first, given = wide.get("prefixItems", ()), narrow.get("prefixItems", ())
        for i in range(max(len(first), len(given))):
            mine = first[i] if i < len(first) else wide.get("items", True)
            theirs = given[i] if i < len(given) else narrow.get("items", True)
            yield self._compare(mine, theirs, f"{path}.prefixItems[{i}]")
        if "items" in wide:
            yield self._compare(wide["items"], narrow.get("items", True), f"{path}.items")

    def _opaque(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Break | None]:
        for name in _OPAQUE:
            if name in wide and not (name in narrow and is_same(wide[name], narrow[name])):
                yield Break(f"{path}.{name}", "differs, and may break what was promised")

    def _say(self, of_input: str, of_output: str) -> str:
        return of_input if self._is_input else of_output


def _ref(schema: Schema) -> str:
    return str(schema.get("$ref", "")) if isinstance(schema, dict) else ""


def _resolved(schema: Schema, root: Schema) -> Schema:
    """What a local reference stands for, with the keywords beside it; one that leads nowhere is anything."""
    ref = _ref(schema)
    if not ref:
        return schema
    target = pointed(root, ref)
    return _joined({name: value for name, value in schema.items() if name != "$ref"}, target)


def _joined(rest: dict[str, Any], branch: Schema) -> Schema:
    """Both at once."""
    if not _constraints(rest) or branch is False:
        return branch
    if branch is True:
        return rest
    if any(not is_same(rest[name], branch[name]) for name in rest.keys() & branch.keys() - _ANNOTATIONS):
        return {"allOf": [rest, branch]}
    return {**rest, **branch}


def _constraints(schema: Schema) -> Mapping[str, Any]:
    return (
        {name: value for name, value in schema.items() if name not in _ANNOTATIONS} if schema is not True else {}
    )
