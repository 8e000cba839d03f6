"""Checks by JSON Schemas of strangers, each where it belongs.

At once where it is certain to cost next to nothing; everywhere else in a worker process, within its budget.
"""

from typing import Any

import msgspec

from sidecar.errors import TooCostly
from sidecar.models.codec import encode
from sidecar.runtime import json_schema
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.json_schema import SchemaMismatch
from sidecar.runtime.schema_cost import size_of

MOST_INLINE_NS = 1_500_000.0
"""What a check may hold the event loop up for: about as long as the rest of a job does."""
MOST_INLINE_BYTES = 64 * 1024

REMEDY = "simplify the schema"


class SchemaChecks:
    """Schemas and values of all tenants. Every method raises TooCostly for what exceeds its budget."""

    def __init__(self, work: BoundedWork) -> None:
        self._work = work

    async def problem(self, tenant: str, schema: bytes) -> str | None:
        """Why no value could be held against a schema; None for a usable one."""
        if is_cheap_to_read(schema):
            return json_schema.schema_problem(schema)
        return await self._work.run(tenant, json_schema.schema_problem, schema)

    async def misfit(self, tenant: str, schema: bytes, value: Any) -> SchemaMismatch | None:
        """The first place where `value` breaks the schema. Raises ValueError for a schema that is none."""
        data = encode(value)
        if not is_cheap(schema, value, data):
            return await self._misfit_away(tenant, schema, data)
        if json_schema.fits(schema, value):
            return None
        if json_schema.profile(schema).explain_ns(size_of(value, data)) <= MOST_INLINE_NS:
            return json_schema.explained(schema, value)
        return await self.explained(tenant, schema, data)

    async def _misfit_away(self, tenant: str, schema: bytes, data: bytes) -> SchemaMismatch | None:
        if await self._work.run(tenant, fits_data, schema, data):
            return None
        return await self.explained(tenant, schema, data)

    async def explained(self, tenant: str, schema: bytes, data: bytes) -> SchemaMismatch:
        """Where a value, as JSON, does not fit. That it does not stays true where nobody can say in time why."""
        try:
            return await self._work.run(tenant, explained_data, schema, data)
        except TooCostly as e:
            return SchemaMismatch("", "", f"it does not fit, and to find out where {e.message}")


def is_cheap_to_read(schema: bytes) -> bool:
    """Whether a schema may be made ready for use at once."""
    return json_schema.profile(schema).compile_ns <= MOST_INLINE_NS


def is_cheap(schema: bytes, value: Any, data: bytes) -> bool:
    """Whether a value, of which `data` is the JSON, may be held against a schema at once."""
    if len(data) > MOST_INLINE_BYTES:
        return False
    costs = json_schema.profile(schema)
    return costs.compile_ns <= MOST_INLINE_NS and costs.check_ns(size_of(value, data)) <= MOST_INLINE_NS


def fits_data(schema: bytes, data: bytes) -> bool:
    """For a worker process: whether a value, as JSON, fits."""
    return json_schema.fits(schema, msgspec.json.decode(data))


def explained_data(schema: bytes, data: bytes) -> SchemaMismatch:
    """For a worker process: where a value, as JSON, does not fit."""
    found = json_schema.explained(schema, msgspec.json.decode(data))
    return found or SchemaMismatch("", "", "it does not fit")
