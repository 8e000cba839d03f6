"""Subscriptions that outlive connections, and callbacks whose errors end nothing."""

import logging
from collections.abc import Callable, Container, Sequence
from typing import Protocol

from sidecar.wire.matching import Misdelivered, matcher
from sidecar.wire.parser import Handler as Handler

log = logging.getLogger(__name__)


IsDropped = Callable[[bytes], bool]
"""Takes any subject, also one that does not fit the subscription. Must not raise."""


class SubscriptionRegistry(Protocol):
    misdelivered: Misdelivered

    def forget(self, subscription: "Subscription") -> None: ...


class Subscription:
    """Interest in a subject. `sid` is its id on the connection of this moment, None while that is away.

    `handler` is what the wire calls: it drops, and counts, what does not fit the subject. `expected` are subjects
    that do, looked at first. `is_dropped` says of a subject, before anything else is done, that nobody wants to
    hear it now.
    """

    def __init__(
        self,
        registry: SubscriptionRegistry,
        subject: str,
        queue: str,
        handler: Handler,
        *,
        expected: Container[bytes] = (),
        is_dropped: IsDropped | None = None,
    ) -> None:
        self._registry = registry
        self.subject = subject
        self.queue = queue
        guard = guarded(subject, handler, registry.misdelivered, expected)
        self.handler = guard if is_dropped is None else dropping(guard, is_dropped)
        self.sid: bytes | None = None

    async def unsubscribe(self) -> None:
        """Hear no more. No error when the connection is away or this was done before."""
        self._registry.forget(self)


def guarded(
    subject: str, handler: Handler, misdelivered: Misdelivered, expected: Container[bytes] = ()
) -> Handler:
    """`handler`, but only for messages that fit `subject`, and what it raises is logged: the reading loop that
    calls it must live on.
    """
    fits = matcher(subject)

    def call(name: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        if name not in expected and not fits(name):
            misdelivered.note(subject, name)
            return
        try:
            handler(name, reply, header, payload)
        except Exception:
            log.exception("a subscriber to %s failed", subject)

    return call


def dropping(guard: Handler, is_dropped: IsDropped) -> Handler:
    """`guard`, but not for messages that cost nothing more than this look at their subject."""

    def call(name: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        if not is_dropped(name):
            guard(name, reply, header, payload)

    return call


def call_all(callbacks: Sequence[Callable[..., None]], *args: object) -> None:
    """Call each listener; what one raises is logged and does not keep the others from hearing."""
    for callback in tuple(callbacks):
        try:
            callback(*args)
        except Exception:
            log.exception("a listener to the connection failed")
