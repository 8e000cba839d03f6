"""Values held against JSON Schemas. Pure: a schema that points outside itself is refused, never fetched.

What is done here costs what the schema and the value make of it: `schema_checks` decides where it is done.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from sidecar.models.codec import encode
from sidecar.runtime.schema_cost import UNTOLD, CheckCosts, profile_of

# A pattern comes from a stranger: how often it may step back bounds what one text costs.
MOST_BACKTRACKS = 100_000
LARGEST_CACHED = 16 * 1024
MOST_CACHED = 512
LONGEST_PROBLEM = 500
LONGEST_MISFIT = 2_000
MOST_LISTED_BYTES = 2_000
MOST_UNFOLDED = 20_000


class SchemaMismatch(NamedTuple):
    """Where a value breaks its schema. `path` is the value's (`items[0].id`; empty: its root), `rule` the schema's
    (`properties.items.items.type`).
    """

    path: str
    rule: str
    message: str


def schema_problem(schema: bytes) -> str | None:
    """Why no value could be held against a schema (JSON), in one line; None for a usable one.

    Read as the draft that its `$schema` names, JSON Schema 2020-12 without.
    """
    try:
        validator(schema)
    except ValueError as e:
        where = dotted(getattr(e, "instance_path", []))
        problem = str(e).partition("\n")[0][:LONGEST_PROBLEM]
        return f"{problem} (at {where})" if where else problem
    if _unfolded(msgspec.json.decode(schema)) > MOST_UNFOLDED:
        return f"its references unfold to more than {MOST_UNFOLDED} places: refer to a definition less often"
    return None


def misfit(schema: bytes, value: Any) -> SchemaMismatch | None:
    """The first place where `value` breaks the schema. Raises ValueError for a schema that is none."""
    return None if fits(schema, value) else explained(schema, value)


def fits(schema: bytes, value: Any) -> bool:
    """Whether `value` fits. Raises ValueError for a schema that is none."""
    return bool(validator(schema).is_valid(value))


def explained(schema: bytes, value: Any) -> SchemaMismatch | None:
    """Where `value` breaks the schema, and how; it may cost far more than the knowledge that it does."""
    ready = validator(schema)
    try:
        ready.validate(value)
    except ValueError as e:
        if not hasattr(e, "instance_path"):
            raise
        error: Any = e
        if error.schema_path[-1:] == ["additionalProperties"] and len(encode(value)) <= MOST_LISTED_BYTES:
            # The first error names one property that is too many; of a small value, the list of errors names all.
            error = next(ready.iter_errors(value), error)
        return SchemaMismatch(
            dotted(error.instance_path), dotted(error.schema_path), error.message[:LONGEST_MISFIT]
        )
    return None


def dotted(path: list[str | int]) -> str:
    """A path as errors show it: `messages[0].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def validator(schema: bytes) -> Any:
    """A schema made ready for use; the last few hundred of moderate size are kept. Raises ValueError."""
    return _cached(schema) if len(schema) <= LARGEST_CACHED else _compile(schema)


@lru_cache(maxsize=MOST_CACHED)
def _cached(schema: bytes) -> Any:
    return _compile(schema)


def profile(schema: bytes) -> CheckCosts:
    """What checks by a schema cost. A large schema is not looked into: it counts as one that cannot be told."""
    return _profiled(schema) if len(schema) <= LARGEST_CACHED else UNTOLD


@lru_cache(maxsize=MOST_CACHED)
def _profiled(schema: bytes) -> CheckCosts:
    try:
        return profile_of(msgspec.json.decode(schema))
    except (msgspec.DecodeError, RecursionError):
        return UNTOLD


def _compile(schema: bytes) -> Any:
    # Imported late: only what comes with a schema needs it.
    import jsonschema_rs

    return jsonschema_rs.validator_for(
        schema.decode(),
        retriever=refuse_to_retrieve,
        pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=MOST_BACKTRACKS),
    )


def _unfolded(root: Any) -> int:
    """How many places a schema has once each local reference is replaced by what it stands for.

    Definitions that refer to each other twice double at each step, and so does the work of every check. One that
    contains itself counts once: there the value's own depth is the bound.
    """
    sizes: dict[int, int] = {}

    def size(part: Any) -> int:
        if isinstance(part, list):
            return sum(map(size, part)) + 1
        if not isinstance(part, dict):
            return 1
        known = sizes.get(id(part))
        if known is not None:
            return known
        # Each part is counted once, under whatever name it is referred to.
        sizes[id(part)] = 1
        ref = part.get("$ref")
        total = 1 + sum(size(inner) for name, inner in part.items() if name not in ("$defs", "definitions"))
        total += size(pointed(root, ref)) if isinstance(ref, str) else 0
        sizes[id(part)] = total
        return total

    try:
        return size(root)
    except RecursionError:
        return MOST_UNFOLDED + 1


def pointed(root: Any, ref: str) -> Any:
    """What a local reference (`#/$defs/order`) stands for; one that leads nowhere stands for anything."""
    target = root
    for part in ref.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name, True) if isinstance(target, dict) else True
    return target


def refuse_to_retrieve(uri: str) -> Any:
    raise ValueError(f"{uri[:200]!r} lies outside the schema: put it under $defs")
