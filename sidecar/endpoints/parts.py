"""Answers that may be long: in parts, with an empty one behind the last that says so."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from sidecar.errors import InvalidRequest
from sidecar.models.codec import encode
from sidecar.models.job_filter import JobFilter
from sidecar.models.subjects import HEADER_END
from sidecar.ports.bus import Reply

IDS_A_PART = 500

T = TypeVar("T")


async def in_parts(items: AsyncIterator[T], part: Callable[[tuple[T, ...]], Any]) -> AsyncIterator[Reply]:
    """Replies of `IDS_A_PART` items at most, each made by `part`; one without any where there are none."""
    held: list[T] = []
    is_first = True
    async for item in items:
        held.append(item)
        if len(held) == IDS_A_PART:
            yield Reply(encode(part(tuple(held))))
            held, is_first = [], False
    if held or is_first:
        yield Reply(encode(part(tuple(held))))
    yield Reply(b"", {HEADER_END: "true"})


def not_empty(asked: JobFilter) -> None:
    """Raises InvalidRequest for a filter that every job fits."""
    if asked.is_empty:
        raise InvalidRequest(
            "an empty filter would mean every job: give one at least of tenant, class, state, error, since, until"
            " and metadata"
        )
