"""Subscriptions that outlive connections, and callbacks whose errors end nothing."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

log = logging.getLogger(__name__)

Handler = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply subject, header block and payload, as they came."""


class SubscriptionRegistry(Protocol):
    def forget(self, subscription: "Subscription") -> None: ...


class Subscription:
    """Interest in a subject. `sid` is its id on the connection of this moment, None while that is away."""

    def __init__(self, registry: SubscriptionRegistry, subject: str, queue: str, handler: Handler) -> None:
        self._registry = registry
        self.subject = subject
        self.queue = queue
        self.handler = guarded(subject, handler)
        self.sid: bytes | None = None

    async def unsubscribe(self) -> None:
        """Hear no more. No error when the connection is away or this was done before."""
        self._registry.forget(self)


def guarded(subject: str, handler: Handler) -> Handler:
    """`handler`, but what it raises is logged: the reading loop that calls it must live on."""

    def call(name: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        try:
            handler(name, reply, header, payload)
        except Exception:
            log.exception("a subscriber to %s failed", subject)

    return call


def call_all(callbacks: Sequence[Callable[..., None]], *args: object) -> None:
    """Call each listener; what one raises is logged and does not keep the others from hearing."""
    for callback in tuple(callbacks):
        try:
            callback(*args)
        except Exception:
            log.exception("a listener to the connection failed")
