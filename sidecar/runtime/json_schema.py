"""Values held against JSON Schemas. Pure: a schema that points outside itself is refused, never fetched."""

from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

# A pattern comes from a stranger: how often it may step back bounds what one check costs the event loop.
MOST_BACKTRACKS = 100_000
LARGEST_CACHED = 16 * 1024
MOST_CACHED = 512
LONGEST_PROBLEM = 500
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
    error = next(validator(schema).iter_errors(value), None)
    if error is None:
        return None
    return SchemaMismatch(dotted(error.instance_path), dotted(error.schema_path), error.message)


def dotted(path: list[str | int]) -> str:
    """A path as errors show it: `messages[0].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def validator(schema: bytes) -> Any:
    """A schema made ready for use; the last few hundred of moderate size are kept. Raises ValueError."""
    return _cached(schema) if len(schema) <= LARGEST_CACHED else _compile(schema)


@lru_cache(maxsize=MOST_CACHED)
def _cached(schema: bytes) -> Any:
    return _compile(schema)


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
    sizes: dict[str, int] = {}

    def size(part: Any) -> int:
        if isinstance(part, list):
            return sum(map(size, part)) + 1
        if not isinstance(part, dict):
            return 1
        ref = part.get("$ref")
        own = 1 + sum(size(inner) for name, inner in part.items() if name not in ("$defs", "definitions"))
        return own + (followed(ref) if isinstance(ref, str) else 0)

    def followed(ref: str) -> int:
        if ref not in sizes:
            sizes[ref] = 1
            sizes[ref] = size(pointed(root, ref))
        return sizes[ref]

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
