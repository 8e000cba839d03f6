"""Replies on their way out: few bytes at once, and those of another party pass those of a busy one.

All that the process sends goes over one connection, jobs' events too. So little of it may be replies that what
comes behind them is on its way within moments; the rest waits here, where its order can still be chosen.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

from sidecar.errors import SidecarError

log = logging.getLogger(__name__)

WINDOW_BYTES = 256 * 1024
# Of everything that is sent: a server that takes nothing gets no more replies.
MOST_BACKLOG_BYTES = 4 * 1024 * 1024
# Where others' traffic alone fills the window, a reply goes out so often all the same.
PATIENCE_S = 0.05


class Sender(Protocol):
    """As much of a connection as replies need."""

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the socket has not taken yet."""
        ...

    def send(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


class _Reply(NamedTuple):
    data: bytes
    sent: "asyncio.Future[None]"


class _Queue:
    """The replies of one party. `served` is how far it has come in bytes, as fair queueing counts them."""

    __slots__ = ("replies", "served")

    def __init__(self, served: int) -> None:
        self.replies: deque[_Reply] = deque()
        self.served = served


class Outlet:
    """`spawn` runs the task that sends what had to wait."""

    def __init__(self, sender: Sender, *, spawn: Callable[..., "asyncio.Task[None]"]) -> None:
        self._sender = sender
        self._spawn = spawn
        self._queues: dict[Hashable, _Queue] = {}
        self._served = 0
        self._pump: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a reply would go out at once."""
        return not self._queues and self._sender.backlog < WINDOW_BYTES

    def send_now(self, data: bytes) -> bool:
        """Send at once where nothing waits; False where it has to. Raises BusUnavailable, BusRefused."""
        if self._queues or self._sender.backlog >= WINDOW_BYTES:
            return False
        self._sender.send(data)
        return True

    async def send(self, party: Hashable, data: bytes) -> None:
        """Return when the connection has `data`. Raises BusUnavailable, BusRefused."""
        if self.send_now(data):
            return
        queue = self._queues.get(party)
        if queue is None:
            # Who was away has saved nothing up: it begins level with whoever was served last.
            queue = self._queues[party] = _Queue(self._served)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.replies.append(_Reply(data, sent))
        if self._pump is None:
            self._pump = self._spawn(self._run(), name="replies")
        await sent

    async def _run(self) -> None:
        try:
            while self._queues:
                await self._room()
                self._send_next()
        finally:
            self._pump = None

    async def _room(self) -> None:
        """Wait until the window is open, or for as long as others may keep it shut."""
        while self._sender.backlog >= WINDOW_BYTES:
            # What was sent in this turn of the loop is written at its end.
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._sender.drained()
            except TimeoutError:
                if self._sender.backlog < MOST_BACKLOG_BYTES:
                    return
            except SidecarError as e:
                # Sending tells each caller the same.
                log.debug("the connection to NATS went while replies waited: %s", e)
                return

    def _send_next(self) -> None:
        party, queue = min(self._queues.items(), key=lambda item: item[1].served)
        reply = queue.replies.popleft()
        if not queue.replies:
            del self._queues[party]
        if reply.sent.done():
            return
        self._served = queue.served
        queue.served += len(reply.data)
        try:
            self._sender.send(reply.data)
        except SidecarError as e:
            reply.sent.set_exception(e)
        else:
            reply.sent.set_result(None)
