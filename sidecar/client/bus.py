"""The client's connection: requests with typed errors, feeds that outlive it, a new one when it ends for good.

nats-py reconnects by itself after a lost connection, but closes for good on rotated passwords, expired JWTs and
some protocol errors; then a new connection is made here and every feed subscribes again, marked dirty.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any

from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sidecar.client.connection import StrictClient
from sidecar.client.errors import SERVICE_ERROR_CODE, from_reply
from sidecar.client.faults import FOREIGN, translate
from sidecar.client.feed import Feed, Listener
from sidecar.errors import AccessDenied, BusUnavailable, SidecarError
from sidecar.models.subjects import HEADER_END
from sidecar.wire.matching import Misdelivered

log = logging.getLogger(__name__)

# Subjects that configurations made for the first release do not have.
_NEW = re.compile(r"\.v1\.(?:spend|retry|admin)\.")
_MADE_ANEW = (
    "where its configuration came from an older `sidecar nats-config`, make it anew (operators: with --operator)"
)
_DENIED = re.compile(r'permissions violation for (?P<what>publish|subscription) to "(?P<subject>[^"]+)"', re.I)
_NO_RESPONDERS = "503"
_MANY_LIMIT_BYTES = 1024 * 1024 * 1024
_MANY_LIMIT_MESSAGES = 1_000_000
_MAX_PAUSE_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_PONG_TIMEOUT_S = 120
"""Longer than nats-py takes to find that a connection is dead, when it forgets all pongs that are due."""


class Bus:
    """Not for applications: `SidecarClient` owns one. All methods are safe to cancel at each await."""

    def __init__(self, servers: Sequence[str], *, connect_timeout_s: float, options: Mapping[str, Any]) -> None:
        self._servers = list(servers)
        self._connect_timeout_s = connect_timeout_s
        self._options = dict(options)
        self._misdelivered = Misdelivered()
        self._nc = StrictClient(self._misdelivered)
        self._feeds: dict[Listener, Subscription | None] = {}
        self._denied: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._last_error: Exception | None = None

    async def connect(self) -> None:
        """Raises BusUnavailable when no server answers in time, AccessDenied when it does not let us in."""
        self._nc = await self._new_connection()

    async def close(self) -> None:
        """Idempotent. Whoever still reads a feed gets BusUnavailable."""
        self._is_closing = True
        for feed in list(self._feeds):
            feed.fail(BusUnavailable("the client was closed"))
        self._feeds.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._nc.is_closed:
            with contextlib.suppress(*FOREIGN):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._nc.flush(timeout=1)
            await self._nc.close()

    @property
    def max_payload(self) -> int:
        """The server's limit in bytes, headers included."""
        return self._nc.max_payload

    @property
    def misdelivered(self) -> int:
        """How many messages were dropped because they were none of the subscription that they came for."""
        return self._misdelivered.count

    def drop(self, listener: Listener, message: Msg) -> None:
        """Count a message that fits a listener's subject and is not what comes there."""
        self._misdelivered.note(listener.subject, message.subject.encode())

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """One try. Raises BusUnavailable, BusRefused, AccessDenied, or the error that the reply carries."""
        try:
            reply = await self._nc.request(subject, payload, timeout=timeout_s, headers=headers)
        except FOREIGN as e:
            raise self._explain(e, subject) from e
        return self._checked(reply)

    async def request_many(
        self, subject: str, payload: bytes, *, idle_timeout_s: float
    ) -> AsyncGenerator[Msg, None]:
        """Replies until the one with header `Llm-End`. `idle_timeout_s` runs between two of them."""
        inbox = self._nc.new_inbox()
        try:
            subscription = await self._nc.subscribe(
                inbox, pending_msgs_limit=_MANY_LIMIT_MESSAGES, pending_bytes_limit=_MANY_LIMIT_BYTES
            )
            try:
                await self._nc.publish(subject, payload, reply=inbox)
                while True:
                    reply = self._checked(await subscription.next_msg(timeout=idle_timeout_s))
                    if (reply.headers or {}).get(HEADER_END):
                        return
                    yield reply
            finally:
                with contextlib.suppress(*FOREIGN):
                    await subscription.unsubscribe()
        except FOREIGN as e:
            raise self._explain(e, subject) from e

    async def subscribe(self, subject: str, *, is_dirty: bool) -> Feed:
        """A feed of `subject`. `is_dirty`: the reader is to replay first."""
        feed = Feed(self, subject, is_dirty=is_dirty)
        await self.listen(feed)
        return feed

    async def listen(self, listener: Listener) -> None:
        """Keep `listener` subscribed until `unsubscribe` or `drain`. Raises BusUnavailable, BusRefused."""
        self._feeds[listener] = None
        # Shielded: cancelled in the middle, nats-py would keep a subscription that nobody holds. What is
        # attached for a listener that is gone is undone by `_attach` itself.
        attaching = self._spawn(self._attach(listener))
        try:
            await asyncio.shield(attaching)
        except FOREIGN as e:
            self._feeds.pop(listener, None)
            raise self._explain(e, listener.subject) from e
        except asyncio.CancelledError:
            self._spawn(self.unsubscribe(listener))
            raise

    async def unsubscribe(self, listener: Listener) -> None:
        subscription = self._feeds.pop(listener, None)
        if subscription is not None:
            with contextlib.suppress(*FOREIGN):
                await subscription.unsubscribe()

    async def drain(self, listener: Listener, *, timeout_s: float) -> None:
        """Unsubscribe without losing what the server has sent already: the listener gets it before this ends."""
        subscription = self._feeds.pop(listener, None)
        if subscription is None:
            return
        try:
            # What nats-py calls a drain may end before the server has read of it, and keeps half of the
            # subscription where the server does not answer: it is only called once the server has done its part.
            await self._nc._send_unsubscribe(subscription._id)
            await self.flush(timeout_s=timeout_s)
            await self._unhurried(subscription.drain(), timeout_s=timeout_s)  # type: ignore[no-untyped-call]
        except (BusUnavailable, *FOREIGN):
            with contextlib.suppress(*FOREIGN):
                await subscription.unsubscribe()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called: nothing will work again."""
        return self._is_closing

    @property
    def is_connected(self) -> bool:
        return self._nc.is_connected

    async def publish(self, subject: str, payload: bytes, *, headers: dict[str, str] | None = None) -> None:
        """Send without asking whether it arrives; kept over a short outage. Raises like `request`."""
        try:
            await self._nc.publish(subject, payload, headers=headers)
        except FOREIGN as e:
            raise self._explain(e, subject) from e

    async def flush(self, *, timeout_s: float) -> None:
        """Returns once the server has read all that was sent, subscriptions included. Raises BusUnavailable."""
        if self._is_closing:
            raise BusUnavailable("the client was closed")
        try:
            await self._unhurried(self._ping_twice(), timeout_s=timeout_s)
        except FOREIGN as e:
            raise self._explain(e, "flush") from e

    async def _ping_twice(self) -> None:
        """nats-py writes a ping past what it still holds back; a second one is behind all of that."""
        await self._nc.flush(timeout=_PONG_TIMEOUT_S)
        await self._nc.flush(timeout=_PONG_TIMEOUT_S)

    async def _unhurried(self, work: Coroutine[Any, Any, None], *, timeout_s: float) -> None:
        """Wait for `work` without ever cancelling it: nats-py's reader dies of a pong that nobody waits for."""
        task = self._spawn(work)
        task.add_done_callback(_retrieve)
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(task)

    async def _attach(self, listener: Listener) -> None:
        async def deliver(message: Msg) -> None:
            if not listener.receive(message):
                # Not here and now: to unsubscribe cancels the task that this callback runs in.
                self._spawn(self.unsubscribe(listener))

        subscription = await self._nc.subscribe(listener.subject, queue=listener.queue, cb=deliver)
        if listener in self._feeds:
            self._feeds[listener] = subscription
        else:
            await subscription.unsubscribe()

    def _checked(self, reply: Msg) -> Msg:
        headers = reply.headers or {}
        if headers.get("Status") == _NO_RESPONDERS:
            raise nats_errors.NoRespondersError
        if SERVICE_ERROR_CODE in headers:
            raise from_reply(headers, reply.data)
        return reply

    def _explain(self, error: BaseException, subject: str) -> SidecarError:
        if isinstance(error, asyncio.TimeoutError) and subject.lower() in self._denied:
            return AccessDenied(f"NATS does not let these credentials publish to {subject}: {_MADE_ANEW}")
        if isinstance(error, nats_errors.NoRespondersError) and _NEW.search(subject):
            return translate(error, f"{subject} ({_MADE_ANEW})")
        return translate(error, subject)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _new_connection(self) -> StrictClient:
        """Tries each server once. Raises the last one's error."""
        failure: SidecarError = BusUnavailable("no NATS server is named")
        for server in self._servers:
            self._last_error = None
            try:
                return await self._dial(server)
            except FOREIGN as e:
                # "No servers" is only how nats-py gives up; the reason came before.
                is_vague = isinstance(e, nats_errors.NoServersError) and self._last_error is not None
                failure = translate((self._last_error if is_vague else e) or e, _without_secrets(server))
                failure.__cause__ = e
        raise failure

    async def _dial(self, server: str) -> StrictClient:
        connection = StrictClient(self._misdelivered)

        async def on_reconnected() -> None:
            self._denied.clear()
            for feed in list(self._feeds):
                feed.mark_dirty()

        async def on_closed() -> None:
            if not self._is_closing and connection is self._nc:
                self._spawn(self._rebuild())

        # Without reconnects until it stands: nats-py's own retries of a first connection leak sockets.
        once = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await connection.connect(
                    servers=[server],
                    error_cb=self._on_error,
                    reconnected_cb=on_reconnected,
                    closed_cb=on_closed,
                    **{**self._options, **once},
                )
        except BaseException:
            await connection.close()
            raise
        for name in once:
            connection.options[name] = self._options.get(name, True)
        known = [one.uri.geturl() for one in connection.server_pool]
        connection.set_server_pool([*self._servers, *(url for url in known if url != server)])
        return connection

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        denied = _DENIED.search(str(error))
        if denied is not None and denied["what"].lower() == "publish":
            self._denied.add(denied["subject"].lower())
        elif denied is not None:
            for feed in list(self._feeds):
                if feed.subject.lower() == denied["subject"].lower():
                    feed.fail(AccessDenied(f"NATS does not let these credentials subscribe to {feed.subject}"))
        elif isinstance(error, nats_errors.SlowConsumerError):
            for feed, subscription in list(self._feeds.items()):
                if subscription is error.sub:
                    feed.mark_dirty()
        else:
            log.debug("nats: %s", error)

    async def _rebuild(self) -> None:
        pause_s = 0.5
        while not self._is_closing:
            try:
                self._nc = await self._new_connection()
                for feed in list(self._feeds):
                    await self._attach(feed)
                    feed.mark_dirty()
            except (SidecarError, *FOREIGN) as e:
                log.warning("the connection to NATS ended and cannot be made anew yet: %s", e)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever waited has been told, or has gone."""
    if not task.cancelled():
        task.exception()


def _without_secrets(server: str) -> str:
    """A server's URL without user, password and token."""
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
