"""Answers that may be long: in parts, with an empty one behind the last that says so."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from sidecar.errors import InvalidRequest
from sidecar.models.codec import encode
from sidecar.models.job_filter import JobFilter
from sidecar.models.subjects import HEADER_END
from sidecar.ports.bus import Clock, Reply

IDS_A_PART = 500
TELL_S = 2.0

T = TypeVar("T")


async def in_parts(
    items: AsyncIterator[T | None], part: Callable[[tuple[T, ...]], Any], *, clock: Clock
) -> AsyncIterator[Reply]:
    """Replies of `IDS_A_PART` items at most, each made by `part`; one without any where there are none.

    None among the items says that the search goes on: so that who waits knows, a part goes out every `TELL_S`.
    """
    held: list[T] = []
    is_first, told_at = True, clock.monotonic()
    async for item in items:
        if item is not None:
            held.append(item)
        if len(held) == IDS_A_PART or clock.monotonic() - told_at > TELL_S:
            yield Reply(encode(part(tuple(held))))
            held, is_first, told_at = [], False, clock.monotonic()
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
