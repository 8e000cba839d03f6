"""One subscription's messages in a bounded buffer that knows when it may have missed something."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
from nats.aio.msg import Msg

from sidecar.errors import SidecarError
from sidecar.models.plain import UNREADABLE

if TYPE_CHECKING:
    from sidecar.client.bus import Bus

MAX_MESSAGES = 4096
MAX_BYTES = 8 * 1024 * 1024


class Message(NamedTuple):
    subject: str
    payload: bytes

    @property
    def is_result(self) -> bool:
        return self.subject.endswith(".result")


class _Head(msgspec.Struct):
    """What every event says of itself, in this protocol version and the next."""

    job: str
    type: str


_decode_head = msgspec.json.Decoder(_Head).decode


class Listener(Protocol):
    """What the bus keeps subscribed, over reconnects and new connections. None of the methods may raise."""

    @property
    def subject(self) -> str: ...

    @property
    def queue(self) -> str:
        """The queue group; empty for none."""
        ...

    def receive(self, message: Msg) -> bool:
        """Take a message; whether more are wanted."""
        ...

    def mark_dirty(self) -> None:
        """Messages may have been missed."""
        ...

    def fail(self, error: SidecarError) -> None:
        """No messages will come any more."""
        ...


class Feed:
    """Messages as they come, for one reader.

    Whoever opens a feed may read it late or never: past its bounds the buffer is emptied and the feed is marked
    dirty, since all that it held is stored and can be replayed. It is also dirty after a reconnect, and when the
    NATS client reports dropped messages. A result is the last message of its job: the subscription ends with it.
    """

    def __init__(self, bus: "Bus", subject: str, *, is_dirty: bool) -> None:
        self.subject = subject
        self.queue = ""
        self._bus = bus
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._error: SidecarError | None = None
        self._is_dirty = is_dirty

    async def next(self, timeout_s: float) -> Message | None:
        """The next message; None when `timeout_s` is over or the feed has become dirty.

        Raises what ended the feed: AccessDenied, BusRefused, BusUnavailable.
        """
        if not self._messages and not self._is_dirty and self._error is None:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return None
        if self._is_dirty:
            return None
        if self._messages:
            message = self._messages.popleft()
            self._bytes -= len(message.payload)
            return message
        if self._error is not None:
            raise self._error
        return None

    def take_dirty(self) -> bool:
        """Whether something may have been missed since the last call; the caller is to replay then."""
        was_dirty, self._is_dirty = self._is_dirty, False
        return was_dirty

    def receive(self, message: Msg) -> bool:
        """Take an event. What is none is dropped: users of one NATS account can make JetStream send its
        acknowledgements here, and a forged result must not end the feed.
        """
        if not _is_event(message):
            self._bus.drop(self, message)
            return True
        received = Message(message.subject, message.data)
        self.push(received)
        return not received.is_result

    def push(self, message: Message) -> None:
        if len(self._messages) >= MAX_MESSAGES or self._bytes + len(message.payload) > MAX_BYTES:
            self._messages.clear()
            self._bytes = 0
            self.mark_dirty()
        else:
            self._messages.append(message)
            self._bytes += len(message.payload)
            self._news.set()

    def mark_dirty(self) -> None:
        self._is_dirty = True
        self._news.set()

    def fail(self, error: SidecarError) -> None:
        self._error = error
        self._news.set()

    async def close(self) -> None:
        """Ends the subscription. Never raises for a connection that is away."""
        await self._bus.unsubscribe(self)


def _is_event(message: Msg) -> bool:
    """Whether a message is an event of the job and of the type that its subject names."""
    tokens = message.subject.split(".")
    try:
        head = _decode_head(message.data)
    except UNREADABLE:
        return False
    return [head.job, head.type] == tokens[-2:]
