"""Clients as the server sees them: processes, and one connection of theirs."""

import asyncio
from collections.abc import Callable

from tests.support.jetstream.wire import message


class Host:
    """A client's process. `replica` is its name, which the next process may have too."""

    __slots__ = ("is_dead", "replica")

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.is_dead = False


class Sub:
    """A subscription of a connection."""

    __slots__ = ("pattern", "peer", "queue", "sid")

    def __init__(self, peer: "Peer", sid: bytes, pattern: str, queue: bytes) -> None:
        self.peer = peer
        self.sid = sid
        self.pattern = pattern
        self.queue = queue


class Peer:
    """What goes to a client is gathered and given to `feed` in the loop's next turn, as a socket would."""

    def __init__(
        self,
        host: Host,
        *,
        feed: Callable[[bytes], None],
        on_closed: Callable[[], None],
        is_cut_off: Callable[[], bool],
    ) -> None:
        self.host = host
        self.replica = host.replica
        self.subs: dict[bytes, Sub] = {}
        self.is_open = True
        self.is_given_up = False
        self._feed = feed
        self._on_closed = on_closed
        self._is_cut_off = is_cut_off
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._held: list[bytes] = []

    @property
    def held_bytes(self) -> int:
        """What the client has sent and the network not taken."""
        return sum(map(len, self._held))

    def message(self, sub: Sub, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Deliver to a subscription, if it still stands."""
        if self.subs.get(sub.sid) is sub:
            self.push(message(subject, sub.sid, reply, header, payload))

    def push(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def flush_soon(self) -> None:
        self._loop.call_soon(self._flush)

    def hold(self, data: bytes) -> None:
        self._held.append(data)

    def take_held(self) -> list[bytes]:
        held, self._held = self._held, []
        return held

    def tell_closed(self) -> None:
        """Let the client know, behind what it was sent before."""
        self._loop.call_soon(self._flush)
        self._loop.call_soon(self._on_closed)

    def _flush(self) -> None:
        if self._out and not self._is_cut_off():
            data = b"".join(self._out) if len(self._out) > 1 else self._out[0]
            self._out.clear()
            self._feed(data)
