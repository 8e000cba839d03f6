"""Requests and their replies over one inbox subscription: the hottest code of the product.

A request is a token, a future and one write; its reply is one dictionary look-up, under the whole reply subject,
whose last token cannot be guessed. Timeouts are found by one sweep over what waits instead of a timer each. When
the connection drops, all that waits fails at once with BusUnavailable, and while it is away requests fail before
they are sent: nothing is buffered and sent later.
What was sent may have happened all the same: carry an id or an expected sequence.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container, Mapping
from typing import Any, NamedTuple

import msgspec

from sidecar.adapters.nats.client.connection import Connection, Subscription
from sidecar.adapters.nats.client.errors import ApiError, api_error, store_error
from sidecar.adapters.nats.client.foreign_writes import ForeignWrites
from sidecar.adapters.nats.client.message import BusMessage as BusMessage
from sidecar.adapters.nats.client.message import encode_publish, encode_request
from sidecar.adapters.nats.client.reply_rate import ReplyRate
from sidecar.errors import BusRefused, BusUnavailable, SidecarError
from sidecar.models.plain import UNREADABLE
from sidecar.wire.parser import Handler
from sidecar.wire.tokens import Tokens

log = logging.getLogger(__name__)

_SWEEP_S = 0.05
_NO_RESPONDERS = 503
_VIOLATION = re.compile(r"permissions violation for publish to \"([^\"]+)\"", re.IGNORECASE)

Callback = Callable[[BusMessage], None]


class Ack(NamedTuple):
    """JetStream's acknowledgement. `value` is a counter's new value, on streams that count."""

    stream: str
    seq: int
    duplicate: bool = False
    value: str | None = None


class _Waiting(NamedTuple):
    future: "asyncio.Future[BusMessage]"
    deadline: float
    subject: str


class _Many:
    """The replies to one request that have come and were not taken yet."""

    __slots__ = ("error", "messages", "subject", "waiter")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.messages: deque[BusMessage] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.error: SidecarError | None = None

    def take(self, message: BusMessage) -> None:
        self.messages.append(message)
        self.wake()

    def fail(self, error: SidecarError) -> None:
        self.error = error
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class _Answer(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    val: str | None = None
    error: ApiError | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class Mux:
    """All requests of this process over `connection`. `timeout_s` holds where a call gives none."""

    def __init__(self, connection: Connection, *, timeout_s: float = 5.0) -> None:
        self._connection = connection
        self.foreign_writes = ForeignWrites()
        """What was met of strangers' in the streams that are read and heard through this mux."""
        self._timeout_s = timeout_s
        self._waiting: dict[bytes, _Waiting] = {}
        self._many: dict[bytes, _Many] = {}
        self._tokens = Tokens()
        self._inbox = self._strange_inbox = b""
        self._subscription: Subscription | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def waiting(self) -> int:
        """Requests that have no reply yet."""
        return len(self._waiting) + len(self._many)

    async def start(self) -> None:
        """Open the inbox; the connection has been started before."""
        self._loop = asyncio.get_running_loop()
        prefix = f"{self._connection.inbox_prefix}.{self._tokens.take().decode()}."
        self._inbox = prefix.encode()
        self._strange_inbox = f"{self._connection.inbox_prefix}.{self._tokens.take().decode()}.".encode()
        self._connection.on_lost(self._on_lost)
        self._connection.on_refused(self._on_refused)
        self._subscription = await self._connection.subscribe(f"{prefix}*", self._on_reply, expected=self._waiting)

    async def close(self) -> None:
        """Close the inbox; whatever still waits fails with BusUnavailable."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None
        self._fail_all(lambda subject: BusUnavailable(f"closed before {subject} was answered"))

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> BusMessage:
        """The first reply. Raises BusUnavailable when none came in `timeout_s`, nobody listens, or NATS is away;
        BusRefused when it may not or cannot be sent. Statuses other than 503 are the caller's to read.
        """
        if self._connection.is_congested:
            await self._uncongested(subject)
        inbox = self._inbox + self._tokens.take()
        data = encode_request(subject, inbox, headers, payload)
        self._connection.send(data)
        future: asyncio.Future[BusMessage] = self._loop.create_future()
        limit = self._timeout_s if timeout_s is None else timeout_s
        self._waiting[inbox] = _Waiting(future, self._loop.time() + limit, subject)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        try:
            message = await future
        finally:
            self._waiting.pop(inbox, None)
        if message.status == _NO_RESPONDERS and not message.payload:
            raise BusUnavailable(
                f"nobody answers {subject}", details={"subject": subject, "status": _NO_RESPONDERS}
            )
        return message

    async def request_many(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        idle_timeout_s: float | None = None,
        most_per_s: int | None = None,
    ) -> AsyncGenerator[BusMessage, None]:
        """All replies as they come, without end: the caller stops at its own end marker, best within
        `contextlib.aclosing`. Raises like `request`, the timeout being the longest pause between two replies.

        `most_per_s` is for what strangers answer, who know the reply subject then: their replies come by a
        subscription that ends with the request, or when there are more than so many in a second. That raises
        BusRefused (`rate_limited`).
        """
        limit = self._timeout_s if idle_timeout_s is None else idle_timeout_s
        listening: Subscription | None = None
        if most_per_s is None:
            inbox = self._inbox + self._tokens.take()
            many = self._many[inbox] = _Many(subject)
        else:
            inbox = self._strange_inbox + self._tokens.take()
            many = self._many[inbox] = _Many(subject)
            listening = self._listen(inbox, many, ReplyRate(most_per_s))
        try:
            self._connection.send(encode_request(subject, inbox, headers, payload))
            while True:
                while many.messages:
                    message = many.messages.popleft()
                    if message.status == _NO_RESPONDERS and not message.payload:
                        raise _nobody(subject)
                    yield message
                if many.error is not None:
                    raise many.error
                many.waiter = self._loop.create_future()
                try:
                    async with asyncio.timeout(limit):
                        await many.waiter
                except TimeoutError as e:
                    raise _silent(subject) from e
        finally:
            del self._many[inbox]
            if listening is not None:
                self._connection.forget(listening)

    def inbox_for(self, hear: Handler, *, expected: Container[bytes]) -> tuple[str, Subscription]:
        """An inbox of its own, for what JetStream delivers under other subjects: those in `expected`.

        `hear` is called from the reading loop and must not block. `forget` the subscription to end it.
        """
        inbox = (self._strange_inbox + self._tokens.take()).decode()
        return inbox, self._connection.listen(inbox, hear, expected=expected)

    def forget(self, subscription: Subscription) -> None:
        self._connection.forget(subscription)

    def _listen(self, inbox: bytes, many: _Many, rate: ReplyRate) -> Subscription:
        """Take replies at an inbox of its own, as long as they are not too many."""

        def hear(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            if rate.allows(self._loop.time()):
                many.take(BusMessage(payload, header, subject=subject, reply=reply))
            else:
                # Now, not when the caller comes to it: until then they would all have to be read.
                self._connection.forget(listening)
                many.fail(_flooded(many.subject, rate.most_per_s))

        listening = self._connection.listen(inbox.decode(), hear)
        return listening

    async def store(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Ack:
        """Publish to JetStream and wait until it is stored.

        Raises Conflict (an expected sequence did not hold), BusRefused (code `queue_full`, `payload_too_large`,
        …) or BusUnavailable; after the last the message may have been stored.
        """
        message = await self.request(subject, payload, headers=headers, timeout_s=timeout_s)
        try:
            answer = _decode_answer(message.payload)
        except UNREADABLE as e:
            raise BusRefused(f"what answers {subject} is not JetStream") from e
        if answer.error is not None:
            raise store_error(answer.error, subject)
        return Ack(answer.stream, answer.seq, answer.duplicate, answer.val)

    async def api(
        self, subject_below_api: str, body: object = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Call JetStream's API, `$JS.API.<subject_below_api>`. Returns its answer.

        Raises NotFound (404), Conflict, BusRefused or BusUnavailable, with the server's numbers in `details`.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.request(self.api_subject(subject_below_api), payload, timeout_s=timeout_s)
        try:
            answer: dict[str, Any] = msgspec.json.decode(message.payload, type=dict[str, Any])
        except UNREADABLE as e:
            raise BusRefused(f"what answers {subject_below_api} is not JetStream") from e
        error = answer.get("error")
        if error is not None:
            raise api_error(msgspec.convert(error, ApiError), subject_below_api)
        return answer

    def api_subject(self, below: str) -> str:
        """`below` under the API's prefix: `$JS.API.` or, with a domain, `$JS.<domain>.API.`."""
        return f"{self._connection.api_prefix}.{below}"

    def publish(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a core message, unconfirmed. Raises BusUnavailable while disconnected, BusRefused."""
        self._connection.send(encode_publish(subject, reply, headers, payload))

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> Subscription:
        """Call `callback` for each message, in order, from the reading loop: it must not block.

        What it raises is logged and goes no further. The subscription survives reconnects; messages sent while
        the connection is away are lost. When this returns while connected, the server knows the subscription.
        """

        def deliver(name: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            callback(BusMessage(payload, header, subject=name, reply=reply))

        return await self._connection.subscribe(subject, deliver, queue=queue)

    def _on_reply(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        waiting = self._waiting.pop(subject, None)
        if waiting is not None:
            if not waiting.future.done():
                waiting.future.set_result(BusMessage(payload, header, subject=subject, reply=reply))
            return
        many = self._many.get(subject)
        if many is not None:
            many.take(BusMessage(payload, header, subject=subject, reply=reply))

    def _sweep(self) -> None:
        now = self._loop.time()
        late = [token for token, waiting in self._waiting.items() if waiting.deadline <= now]
        for token in late:
            waiting = self._waiting.pop(token)
            if not waiting.future.done():
                waiting.future.set_exception(_silent(waiting.subject))
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if self._waiting else None

    def _on_lost(self) -> None:
        self._fail_all(
            lambda subject: BusUnavailable(f"the connection to NATS was lost before {subject} was answered")
        )

    def _on_refused(self, text: str) -> None:
        found = _VIOLATION.search(text)
        if found is not None:
            name = found[1]
            self._fail_all(lambda subject: BusRefused(f"no permission to publish to {subject}"), only=name)

    def _fail_all(self, error: Callable[[str], SidecarError], *, only: str | None = None) -> None:
        for token, waiting in list(self._waiting.items()):
            if only is None or waiting.subject == only:
                del self._waiting[token]
                if not waiting.future.done():
                    waiting.future.set_exception(error(waiting.subject))
        for many in self._many.values():
            if only is None or many.subject == only:
                many.fail(error(many.subject))

    async def _uncongested(self, subject: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.drained()
        except TimeoutError as e:
            raise BusUnavailable(f"NATS takes nothing: {subject} was not sent") from e


def _silent(subject: str) -> BusUnavailable:
    return BusUnavailable(f"NATS did not answer {subject} in time", details={"subject": subject})


def _flooded(subject: str, most_per_s: int) -> BusRefused:
    return BusRefused(f"{subject} was answered more than {most_per_s} times in a second", code="rate_limited")


def _nobody(subject: str) -> BusUnavailable:
    return BusUnavailable(f"nobody answers {subject}", details={"subject": subject, "status": _NO_RESPONDERS})
