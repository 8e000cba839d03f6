"""What a check by a JSON Schema can cost at most, told from the schema's shape and the value's size. Pure.

The estimate is an upper bound on purpose: what it calls cheap is cheap whatever the value says, and what it cannot
bound is done elsewhere, at little cost. A schema is taken for a graph of places. Some lead to others for the same
value (`anyOf`, `$ref`, `if`), some for what is inside the value (`properties`, `items`). Two bounds hold:

- Unfolded: no part of a value is looked at by more places than the schema has once each reference is replaced by
  what it stands for. Of use where no definition contains itself.
- By growth: a part is looked at no more than `growth` times as often as what contains it. In an expression tree
  that may be once, however deep it is; with two branches that go into one property it doubles at each level.
"""

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from math import inf
from typing import Any, NamedTuple

# Nanoseconds, measured and rounded up: docs/decisions/bounded-work.md.
VISIT_NS = 50.0
PLACE_NS = 3_000.0
REFERENCE_NS = 60_000.0
SAID_BYTE_NS = 60.0
ERROR_NS = 50.0
LISTED_NS = 10_000.0
MOST_LISTED = 50

MOST_PLACES = 400
DEEPEST_STACK = 4_000
_LONGEST_PATTERN = 256
_MOST_REPEATED = 256

_SAME_VALUE = ("not", "if", "then", "else")
_SAME_VALUE_LISTS = ("allOf", "anyOf", "oneOf")
_UNTOLD = (
    "$dynamicRef",
    "$recursiveRef",
    "unevaluatedProperties",
    "unevaluatedItems",
)
_DRAFTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)
# What a linear automaton cannot do: jsonschema-rs then steps back, and back again.
_FANCY = re.compile(r"\(\?[=!>]|\(\?<[=!]|\(\?\(|\\[1-9]|\\k[<{'0-9]|\\[GKXRZ]|[+*?}]\+")
_REPEATED = re.compile(r"\{(\d*),?(\d*)\}")


class CannotTell(Exception):
    """The shape says nothing that could be relied on."""


class StepWeights(NamedTuple):
    """Steps for each part of a value, each object, key and byte; `branches` may each have an error."""

    part: float = 0.0
    object: float = 0.0
    key: float = 0.0
    byte: float = 0.0
    branches: float = 0.0

    def plus(self, other: "StepWeights") -> "StepWeights":
        return StepWeights(
            self.part + other.part,
            self.object + other.object,
            self.key + other.key,
            self.byte + other.byte,
            self.branches + other.branches,
        )

    def most(self, other: "StepWeights") -> "StepWeights":
        return StepWeights(*map(max, zip(self, other, strict=True)))


class ValueSize(NamedTuple):
    """How large a value is as JSON, and how deep."""

    parts: int
    objects: int
    keys: int
    bytes: int
    depth: int


class CheckCosts(NamedTuple):
    """A schema's shape. `entry` is what one look at a part costs at most, `unfolded` all looks at it together."""

    growth: float
    entry: StepWeights
    unfolded: StepWeights
    stack: int
    compile_ns: float

    def check_ns(self, size: ValueSize) -> float:
        """Nanoseconds to find out whether a value fits. Infinite where nobody can tell, or it is too deep."""
        if self.stack * (size.depth + 1) > DEEPEST_STACK:
            return inf
        grown = self._looks(size)
        return VISIT_NS * min(grown * _steps(self.entry, size), _steps(self.unfolded, size))

    def explain_ns(self, size: ValueSize) -> float:
        """And to find out where it does not: each branch of `anyOf` has its own error, which quotes the value."""
        check_ns = self.check_ns(size)
        if check_ns == inf:
            return inf
        branches = min(self._looks(size) * self.entry.branches, self.unfolded.branches)
        said = size.bytes * (1.0 + (size.depth + 1) * branches) * SAID_BYTE_NS
        errors = check_ns / VISIT_NS * size.depth**2 * ERROR_NS if branches else 0.0
        return check_ns + said + errors + min(size.parts, MOST_LISTED) * LISTED_NS

    def _looks(self, size: ValueSize) -> float:
        try:
            return self.growth**size.depth if self.growth > 1 else 1.0
        except OverflowError:
            return inf


UNTOLD = CheckCosts(inf, StepWeights(inf), StepWeights(inf), 0, inf)


def _steps(weights: StepWeights, size: ValueSize) -> float:
    # An empty value still has its root looked at. A weight may be infinite, and nothing of a kind costs nothing.
    return (
        weights.part * max(size.parts, 1)
        + (weights.object * size.objects if size.objects else 0.0)
        + (weights.key * size.keys if size.keys else 0.0)
        + (weights.byte * size.bytes if size.bytes else 0.0)
    )


def size_of(value: Any, data: bytes) -> ValueSize:
    """The size of a value that `data` is the JSON of. Commas and brackets inside its texts count as well."""
    opened = data.count(b"{")
    parts = data.count(b",") + opened + data.count(b"[") + 1
    return ValueSize(parts, opened, data.count(b":"), len(data), depth_of(value))


_CONTAINERS = (dict, list, tuple)


def depth_of(value: Any) -> int:
    """How many containers lie in each other at the deepest place."""
    depth, level = 0, [value]
    while level := [
        inner
        for item in level
        if isinstance(item, _CONTAINERS)
        for inner in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
    return depth


def profile_of(schema: Any) -> CheckCosts:
    """The profile of a schema. `UNTOLD` for one that is too large, or says what is not worked out here."""
    try:
        return _Graph(schema).profile()
    except (CannotTell, RecursionError, TypeError, AttributeError):
        # Keywords of a wrong type: the compiler says which, and where.
        return UNTOLD


class _Place:
    """One schema within the schema. `named` are those of properties, `others` of any, `items` of an array's."""

    __slots__ = ("items", "named", "others", "own", "patterned", "same", "targets")

    def __init__(self) -> None:
        self.own = StepWeights()
        self.same: list[_Place] = []
        self.named: dict[str, _Place] = {}
        self.patterned = 0
        self.others = 0
        self.items = 0
        self.targets: list[_Place] = []


class _Closure(NamedTuple):
    """All that looks at one and the same part, because one place does."""

    weights: StepWeights
    named: Mapping[str, float]
    others: float
    items: float
    stack: int

    @property
    def growth(self) -> float:
        return max(max(self.named.values(), default=0.0) + self.others, self.items)


class _Graph:
    """The places of a schema, each made once, and what follows from how they are joined."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._places: dict[int, _Place] = {}
        self._references = 0
        self._pattern_ns = 0.0
        self._closures: dict[int, _Closure | None] = {}
        self._unfolded: dict[int, StepWeights | None] = {}

    def profile(self) -> CheckCosts:
        root = self._place(self._root)
        entries = {id(root): root}
        for place in list(self._places.values()):
            entries |= {id(target): target for target in place.targets}
        closures = [self._closure(place) for place in entries.values()]
        return CheckCosts(
            growth=max(closure.growth for closure in closures),
            entry=reduce(StepWeights.most, (closure.weights for closure in closures)),
            unfolded=self._all(root),
            stack=max(closure.stack for closure in closures),
            compile_ns=len(self._places) * PLACE_NS + self._references * REFERENCE_NS + self._pattern_ns,
        )

    def _place(self, schema: Any) -> _Place:
        """Raises CannotTell."""
        known = self._places.get(id(schema))
        if known is not None:
            return known
        place = _Place()
        if isinstance(schema, bool):
            return place
        if not isinstance(schema, dict) or len(self._places) >= MOST_PLACES:
            raise CannotTell
        self._places[id(schema)] = place
        if any(name in schema for name in _UNTOLD) or ("$id" in schema and schema is not self._root):
            raise CannotTell
        if schema.get("$schema", _DRAFTS[0]).removesuffix("#") not in _DRAFTS or schema.get("format") == "regex":
            raise CannotTell
        place.own = self._own(schema)
        self._join_same(place, schema)
        self._join_object(place, schema)
        self._join_array(place, schema)
        return place

    def _join_same(self, place: _Place, schema: dict[str, Any]) -> None:
        place.same += [self._place(schema[name]) for name in _SAME_VALUE if name in schema]
        for name in _SAME_VALUE_LISTS:
            place.same += map(self._place, _list(schema.get(name, [])))
        for name in ("dependentSchemas", "dependencies"):
            inner = _dict(schema.get(name, {})).values()
            place.same += [self._place(one) for one in inner if not isinstance(one, list)]
        if "$ref" in schema:
            self._references += 1
            place.same.append(self._place(_followed(self._root, schema["$ref"])))

    def _join_object(self, place: _Place, schema: dict[str, Any]) -> None:
        place.named = {
            name: self._place(one)
            for name, one in _dict(schema.get("properties", {})).items()
            if not isinstance(one, bool)
        }
        patterned = [self._place(one) for one in _dict(schema.get("patternProperties", {})).values()]
        others = [self._place(schema[name]) for name in ("additionalProperties",) if _is_schema(schema.get(name))]
        # What names are held against is text, and small: its looks count as one more of each.
        names = [self._place(schema[name]) for name in ("propertyNames",) if _is_schema(schema.get(name))]
        place.others = len(patterned) + len(others) + len(names)
        place.targets += [*place.named.values(), *patterned, *others, *names]

    def _join_array(self, place: _Place, schema: dict[str, Any]) -> None:
        items = schema.get("items")
        each = [one for one in (items, schema.get("additionalItems")) if _is_schema(one)]
        first = [*_list(schema.get("prefixItems", [])), *(items if isinstance(items, list) else ())]
        contained = [schema["contains"]] if "contains" in schema else []
        place.items = (1 if each or first else 0) + len(contained)
        place.targets += map(self._place, (*each, *first, *contained))

    def _own(self, schema: dict[str, Any]) -> StepWeights:
        """What a place costs by itself. A listed value costs as much as it is large: it is compared."""
        listed = sum(map(_parts_in, _list(schema.get("enum", []))))
        if "const" in schema:
            listed += _parts_in(schema["const"])
        required = len(_list(schema.get("required", []))) + sum(
            len(names) for names in _dict(schema.get("dependentRequired", {})).values() if isinstance(names, list)
        )
        patterns = [*_dict(schema.get("patternProperties", {}))]
        by_name = sum(map(self._pattern_steps, patterns))
        by_text = self._pattern_steps(schema["pattern"]) if "pattern" in schema else 0.0
        branches = sum(len(_list(schema.get(name, []))) for name in ("anyOf", "oneOf"))
        return StepWeights(
            part=1.0 + listed + (2.0 if schema.get("uniqueItems") else 0.0),
            object=len(_dict(schema.get("properties", {}))) + required,
            key=len(patterns) + 1.0,
            byte=(1.0 if "format" in schema or "contentMediaType" in schema else 0.01) + by_name + by_text,
            branches=branches,
        )

    def _pattern_steps(self, pattern: Any) -> float:
        """Steps for each byte of a text. Raises CannotTell for what may step back."""
        if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN or _FANCY.search(pattern):
            raise CannotTell
        repeated = [int(number) for found in _REPEATED.findall(pattern) for number in found if number.isdecimal()]
        if len(repeated) > 8 or any(number > _MOST_REPEATED for number in repeated):
            raise CannotTell
        states = len(pattern) * reduce(lambda one, other: one * max(other, 1), repeated, 1)
        if states > 8 * _LONGEST_PATTERN:
            raise CannotTell
        self._pattern_ns += 20_000.0 + 500.0 * states
        return 0.1 + states / 100

    def _closure(self, place: _Place) -> _Closure:
        """Raises CannotTell where a place leads to itself without going deeper into the value."""
        known = self._closures.get(id(place), self)
        if isinstance(known, _Closure):
            return known
        if known is None:
            raise CannotTell
        self._closures[id(place)] = None
        below = [self._closure(other) for other in place.same]
        named: dict[str, float] = dict.fromkeys(place.named, 1.0)
        for one in below:
            for name, count in one.named.items():
                named[name] = named.get(name, 0.0) + count
        if len(named) > 4 * MOST_PLACES:
            raise CannotTell
        made = self._closures[id(place)] = _Closure(
            weights=reduce(StepWeights.plus, (one.weights for one in below), place.own),
            named=named,
            others=place.others + sum(one.others for one in below),
            items=place.items + sum(one.items for one in below),
            stack=1 + max((one.stack for one in below), default=0),
        )
        return made

    def _all(self, place: _Place) -> StepWeights:
        """Infinite where the place contains itself."""
        known = self._unfolded.get(id(place), self)
        if isinstance(known, StepWeights):
            return known
        if known is None:
            return StepWeights(*([inf] * len(StepWeights._fields)))
        self._unfolded[id(place)] = None
        below = (self._all(other) for other in (*place.same, *place.targets))
        made = self._unfolded[id(place)] = reduce(StepWeights.plus, below, place.own)
        return made


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise CannotTell
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CannotTell
    return value


def _parts_in(value: Any) -> int:
    return sum(1 for _ in _all_parts(value))


def _all_parts(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, _CONTAINERS):
            waiting.extend(part.values() if isinstance(part, dict) else part)


def _followed(root: Any, reference: Any) -> Any:
    """What a local pointer leads to. Raises CannotTell for any other reference."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")) or "%" in reference:
        raise CannotTell
    target = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and name in target:
            target = target[name]
        elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        else:
            raise CannotTell
    return target
