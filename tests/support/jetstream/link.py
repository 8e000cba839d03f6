"""The client's end: the product's own connection over a fake server instead of a socket."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from nats.errors import ProtocolError

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.client.wire import WireClient
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings
from sidecar.errors import BusUnavailable
from tests.support.jetstream.peer import Host, Peer
from tests.support.jetstream.server import FakeJetStream

_CLOSED = 2


class _Socket:
    """What the wire client writes to: `asyncio.StreamWriter` and its transport, as far as they are used."""

    def __init__(self, server: FakeJetStream, peer: Peer) -> None:
        self._server = server
        self._peer = peer

    @property
    def transport(self) -> "_Socket":
        return self

    def write(self, data: bytes) -> None:
        if self._peer.is_open or self._server.is_cut_off(self._peer.host):
            self._server.receive(self._peer, data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._peer.held_bytes

    async def drain(self) -> None:
        return

    def abort(self) -> None:
        self._peer.is_given_up = True
        if not self._server.is_cut_off(self._peer.host):
            self._server.forget(self._peer)


class _Wire(WireClient):
    """The product's client of one connection, its socket replaced."""

    def __init__(self, server: FakeJetStream, host: Host, callbacks: Mapping[str, Callable[..., None]]) -> None:
        super().__init__(**callbacks)
        self._info = server.info
        self._max_payload = server.max_payload
        self._flush_queue = asyncio.Queue()
        self._ending: asyncio.Task[None] | None = None
        peer = Peer(
            host,
            feed=self._take,
            on_closed=self._end,
            is_cut_off=lambda: server.is_cut_off(host),
        )
        server.admit(peer)
        self._writer: Any = _Socket(server, peer)

    @property
    def server_info(self) -> Mapping[str, Any]:
        return self._info

    @property
    def address(self) -> str:
        return "memory"

    @property
    def discovered(self) -> list[str]:
        return []

    def _take(self, data: bytes) -> None:
        if self._writer is None:
            return
        try:
            _at_once(self._parser.parse(data))
        except ProtocolError:
            self._end()

    def _end(self) -> None:
        if self._writer is not None and self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._close(_CLOSED, False))


def _at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run what never waits for anything."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the parser waited for something")


class FakeConnection(Connection):
    """The product's connection to a server in memory, with its watchdog and its ways of coming back."""

    def __init__(self, server: FakeJetStream, replica: str, *, settings: NatsSettings | None = None) -> None:
        settings = settings or NatsSettings(request_timeout_s=server.request_timeout_s)
        super().__init__(settings, name=replica, environment=_no_environment)
        self._server = server
        self._host = server.boot(replica)

    async def _open(self, server: str, **callbacks: Callable[..., None]) -> WireClient:
        if self._server.is_cut_off(self._host):
            await asyncio.sleep(self._settings.connect_timeout_s)
        if not self._server.is_up or self._server.is_cut_off(self._host):
            raise BusUnavailable("memory cannot be reached")
        return _Wire(self._server, self._host, callbacks)


def _no_environment() -> NatsEnvironment:
    return NatsEnvironment(config_dir=Path("/nonexistent"))


async def connect(server: FakeJetStream, replica: str, *, settings: NatsSettings | None = None) -> Mux:
    """A started mux of a client; `disconnect` ends it."""
    connection = FakeConnection(server, replica, settings=settings)
    await connection.start()
    mux = Mux(connection, timeout_s=server.request_timeout_s)
    await mux.start()
    return mux


async def disconnect(mux: Mux) -> None:
    await mux.close()
    await mux.connection.close()
