"""A call in flight, and who is meant by a message about it."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from sidecar.client.tools.context import ToolContext
from sidecar.client.tools.replies import Reply


class Identity(NamedTuple):
    """What makes two messages the same call. Keys of different tenants or jobs may be alike."""

    tenant: str | None
    job_id: str | None
    tool_use_id: str | None
    idempotency_key: str | None


def identity_of(context: ToolContext) -> Identity | None:
    """None for a call that carries nothing to tell it from others."""
    identity = Identity(context.tenant, context.job_id, context.tool_use_id, context.idempotency_key)
    return identity if any(identity) else None


@dataclass(eq=False, slots=True)
class Call:
    """One call until it is answered. `replies` are the subjects that wait for its outcome."""

    context: ToolContext
    identity: Identity | None
    payload: bytes
    replies: list[str]
    arrived: float
    outcome: asyncio.Future[Reply]
    run: asyncio.Task[None] | None = None
    is_started: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether the caller would send it again under the same name."""
        return self.identity is not None and self.identity.idempotency_key is not None

    def settle(self, reply: Reply) -> None:
        """Answer, if nobody has yet."""
        if not self.outcome.done():
            self.outcome.set_result(reply)

    def give_up(self, reply: Reply) -> None:
        """Answer now, and tell the function that nobody waits for it any more."""
        self.settle(reply)
        self.context.token.set()
        if self.run is not None:
            self.run.cancel()


class Outcomes:
    """Outputs of calls that may be repeated, bounded in number, bytes and age.

    The sidecar repeats a call under its idempotency key after a crash: what this process has answered once is
    not run again.
    """

    def __init__(self, *, most: int = 1024, most_bytes: int = 8 * 1024 * 1024, keep_s: float = 600.0) -> None:
        self._most, self._most_bytes, self._keep_s = most, most_bytes, keep_s
        self._kept: OrderedDict[tuple[Identity, bytes], tuple[Reply, float]] = OrderedDict()
        self._bytes = 0

    def get(self, identity: Identity, payload: bytes, *, now: float) -> Reply | None:
        reply, expires = self._kept.get((identity, payload), (None, 0.0))
        return reply if expires > now else None

    def put(self, identity: Identity, payload: bytes, reply: Reply, *, now: float) -> None:
        key = (identity, payload)
        size = len(payload) + len(reply.payload)
        if size > self._most_bytes // 8 or key in self._kept:
            return
        self._kept[key] = (reply, now + self._keep_s)
        self._bytes += size
        while self._kept and (
            len(self._kept) > self._most
            or self._bytes > self._most_bytes
            or next(iter(self._kept.values()))[1] <= now
        ):
            (_, old), (dropped, _) = self._kept.popitem(last=False)
            self._bytes -= len(old) + len(dropped.payload)
