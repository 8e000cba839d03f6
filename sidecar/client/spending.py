"""What was spent: the parts of an answer as one."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from sidecar.errors import Permanent
from sidecar.models.plain import UNREADABLE
from sidecar.models.spend import SpendPage, SpendRequest, SpendRow

if TYPE_CHECKING:
    from sidecar.client.client import SidecarClient


async def spend_of(client: "SidecarClient", subject: str, request: SpendRequest) -> SpendPage:
    """All rows that are asked for on a subject. Raises InvalidRequest, BusUnavailable, AccessDenied."""
    rows: list[SpendRow] = []
    last: SpendPage | None = None
    replies = client.ask_for_many(subject, msgspec.json.encode(request))
    async with aclosing(replies):
        async for reply in replies:
            last = _decoded(reply, subject)
            rows += last.rows
    if last is None:
        return SpendPage(rows=())
    return msgspec.structs.replace(last, rows=tuple(rows))


def _decoded(reply: bytes, subject: str) -> SpendPage:
    try:
        return msgspec.json.decode(reply, type=SpendPage)
    except UNREADABLE as e:
        raise Permanent(f"the reply on {subject} cannot be read ({e}): update the client") from e


def request_of(first: str | None, last: str | None, by: Sequence[str]) -> SpendRequest:
    """Raises InvalidRequest for what is no day or nothing that rows are told apart by."""
    from sidecar.models.codec import decode

    given = {"from": first, "to": last, "by": list(by)}
    return decode(msgspec.json.encode({k: v for k, v in given.items() if v}), SpendRequest)
