"""The connection against real servers: away, stuck, killed, with changed secrets."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.adapters.nats.client.connection import Connection, State
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import NatsServer, free_port
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings
from sidecar.errors import BusUnavailable, StartupError
from tests.support.nats_jwt import Operator
from tests.support.nats_server import Access, Server, make_cluster, no_environment, running

pytestmark = pytest.mark.nats


def settings(url: str, **more: Any) -> NatsSettings:
    return NatsSettings(**{"url": url, "connect_timeout_s": 20.0, "watchdog_s": 20.0, **more})


async def until_error(connection: Connection, code: str) -> None:
    """Wait for an attempt to connect that failed with this code."""
    async with asyncio.timeout(60):
        while connection.last_error is None or connection.last_error.code != code:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class States:
    """The states that a connection goes through, to wait for one."""

    def __init__(self, connection: Connection) -> None:
        self.seen: list[State] = []
        self._changed = asyncio.Event()
        connection.on_state(self._add)

    def _add(self, state: State) -> None:
        self.seen.append(state)
        self._changed.set()

    async def until(self, *states: State) -> None:
        async with asyncio.timeout(60):
            while self.seen[-len(states) :] != list(states):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def opened() -> AsyncIterator[list[Connection]]:
    """Connections to close at the end."""
    connections: list[Connection] = []
    yield connections
    for connection in connections:
        await connection.close()


async def test_start_waits_for_a_server_that_is_not_there_yet(
    opened: list[Connection], caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(port=free_port())
    connection = Connection(settings(server.url), environment=no_environment)
    opened.append(connection)
    starting = asyncio.create_task(connection.start())
    with caplog.at_level(logging.WARNING):
        await until_error(connection, "internal")
    assert not starting.done()
    assert connection.state == "disconnected"
    assert f"waiting for NATS at {server.url.removeprefix('nats://')}" in caplog.text.replace("nats://", "")
    with pytest.raises(BusUnavailable):
        connection.send(b"PING\r\n")
    with running(server):
        await asyncio.wait_for(starting, 60)
        assert connection.state == "connected"
        assert connection.last_error is None
        await connection.close()


async def test_a_start_can_be_cancelled(opened: list[Connection]) -> None:
    connection = Connection(settings(f"nats://127.0.0.1:{free_port()}"), environment=no_environment)
    starting = asyncio.create_task(connection.start())
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert connection.state == "closed"


async def test_states_are_told_and_a_listener_that_raises_does_no_harm(
    own_nats_server: Server, opened: list[Connection]
) -> None:
    connection = Connection(settings(own_nats_server.url), environment=no_environment)
    opened.append(connection)

    def broken(state: State) -> None:
        raise RuntimeError(state)

    connection.on_state(broken)
    connection.on_lost(lambda: broken("disconnected"))
    states = States(connection)
    await connection.start()
    await asyncio.to_thread(own_nats_server.restart, force=True)
    await states.until("connected", "disconnected", "connected")
    await connection.close()
    assert states.seen[-1] == "closed"
    await connection.close()


async def test_the_watchdog_replaces_a_connection_that_is_stuck(opened: list[Connection]) -> None:
    """A stopped process keeps its sockets open: only an unanswered ping shows it."""
    server = NatsServer()
    with running(server):
        connection = Connection(
            settings(server.url, watchdog_s=0.2, connect_timeout_s=1.0), environment=no_environment
        )
        opened.append(connection)
        states = States(connection)
        await connection.start()
        mux = Mux(connection, timeout_s=60)
        await mux.start()
        await mux.subscribe("silent", lambda _: None)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BusUnavailable, match=r"lost|not connected"):
                await mux.request("silent")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await states.until("connected", "disconnected", "connected")
        await mux.api("INFO")


async def test_the_watchdog_replaces_a_connection_whose_reading_task_died(
    nats_access: Access, opened: list[Connection]
) -> None:
    connection = Connection(nats_access.settings(watchdog_s=0.2), environment=no_environment)
    opened.append(connection)
    states = States(connection)
    await connection.start()
    reading = connection.client._reading_task
    assert reading is not None
    reading.cancel()
    await states.until("connected", "disconnected", "connected")
    await connection.flush(timeout_s=20)


async def test_garbage_from_the_server_ends_the_connection_and_a_new_one_is_made(opened: list[Connection]) -> None:
    """A server that speaks nonsense after the handshake, then behaves."""
    attempts = 0
    behaves = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        is_first = attempts == 1
        writer.write(b'INFO {"version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
                if is_first:
                    writer.write(b"MSG a b\r\nHMSG x y z\r\n\x00\xff\r\n")
                else:
                    behaves.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = Connection(settings(f"nats://127.0.0.1:{port}"), environment=no_environment)
    await connection.start()
    await asyncio.wait_for(behaves.wait(), 60)
    await connection.close()
    server.close()
    await server.wait_closed()


USERS = "authorization { users: [{ user: u, password: %s }] }"


async def test_a_rotated_password_is_read_afresh(tmp_path: Path, opened: list[Connection]) -> None:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    server = NatsServer(config=USERS % "old")
    with running(server):

        def write_context(password: str) -> None:
            text = json.dumps({"url": server.url, "user": "u", "password": password})
            (folder / "main.json").write_text(text, "utf-8")

        write_context("old")
        connection = Connection(
            NatsSettings(context="main"), environment=lambda: NatsEnvironment(config_dir=tmp_path)
        )
        opened.append(connection)
        states = States(connection)
        await connection.start()
        await asyncio.to_thread(server.reload, USERS % "new")
        await states.until("connected", "disconnected")
        await until_error(connection, "access_denied")
        write_context("new")
        await states.until("connected", "disconnected", "connected")
        assert connection.last_error is None


async def test_nkey_and_token_authentication(tmp_path: Path, opened: list[Connection]) -> None:
    import nkeys

    seed = nkeys.encode_seed(b"0123456789abcdef0123456789abcdef", nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    path = tmp_path / "user.nk"
    path.write_bytes(bytes(seed))
    with running(NatsServer(config=f"authorization {{ users: [{{ nkey: {public} }}] }}")) as server:
        connection = Connection(settings(server.url, nkey_seed=path), environment=no_environment)
        opened.append(connection)
        await connection.start()
        await connection.flush()
        await connection.close()
    with running(NatsServer(config="authorization { token: s3cr3t }")) as server:
        connection = Connection(settings(server.url, token="s3cr3t"), environment=no_environment)
        opened.append(connection)
        await connection.start()
        await connection.flush()
        await connection.close()


async def test_an_expired_jwt_is_replaced_by_the_renewed_one(tmp_path: Path, opened: list[Connection]) -> None:
    operator = Operator()
    creds = tmp_path / "user.creds"
    operator.write_creds(creds, lives_s=2)
    with running(NatsServer(config=operator.config)) as server:
        connection = Connection(settings(server.url, creds=creds), environment=no_environment)
        opened.append(connection)
        states = States(connection)
        await connection.start()
        await states.until("connected", "disconnected")
        operator.write_creds(creds)
        await states.until("connected", "disconnected", "connected")
        await connection.flush(timeout_s=20)
        await connection.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_tls_with_a_ca_of_our_own_and_no_connection_without_it(
    tmp_path: Path, opened: list[Connection]
) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    await asyncio.to_thread(
        subprocess.run,
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=test"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    with running(NatsServer(config=f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')) as server:
        url = server.url.replace("nats://", "tls://")
        connection = Connection(settings(url, tls_ca=cert), environment=no_environment)
        opened.append(connection)
        await connection.start()
        mux = Mux(connection, timeout_s=20)
        await mux.start()
        await mux.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"]})
        await asyncio.gather(*(mux.store("s.a", b"x" * 10_000) for _ in range(100)))
        assert (await mux.api("STREAM.INFO.S"))["state"]["messages"] == 100
        await connection.close()

        distrustful = Connection(settings(url), environment=no_environment)
        starting = asyncio.create_task(distrustful.start())
        await until_error(distrustful, "internal")
        assert "certificate" in str(distrustful.last_error).lower()
        starting.cancel()
        await asyncio.wait({starting})


async def test_a_context_that_does_not_exist_stops_the_start(tmp_path: Path) -> None:
    connection = Connection(NatsSettings(context="no"), environment=lambda: NatsEnvironment(config_dir=tmp_path))
    with pytest.raises(StartupError, match="no NATS context 'no'"):
        await connection.start()


async def test_a_lame_duck_is_left_for_another_server(opened: list[Connection]) -> None:
    cluster = make_cluster()
    try:
        await asyncio.to_thread(cluster.start)
        first = cluster.servers[0]
        connection = Connection(settings(first.url), environment=no_environment)
        opened.append(connection)
        states = States(connection)
        await connection.start()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGUSR2)
        await states.until("connected", "disconnected", "connected")
        assert connection.server_info["server_name"] != first.name
        await connection.close()
        first.kill()
    finally:
        await asyncio.to_thread(cluster.stop)


async def test_another_server_of_the_cluster_takes_over() -> None:
    cluster = make_cluster()
    try:
        await asyncio.to_thread(cluster.start)
        connection = Connection(settings(cluster.url, request_timeout_s=60.0), environment=no_environment)
        states = States(connection)
        await connection.start()
        mux = Mux(connection, timeout_s=60)
        await mux.start()
        await mux.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "num_replicas": 3})
        await mux.store("s.a", b"1")
        name = connection.server_info["server_name"]
        await asyncio.to_thread(next(s for s in cluster.servers if s.name == name).kill)
        await states.until("connected", "disconnected", "connected")
        assert connection.server_info["server_name"] != name
        async with asyncio.timeout(60):
            while True:
                try:
                    ack = await mux.store("s.a", b"2", headers={"Nats-Msg-Id": "2"}, timeout_s=5)
                    break
                except BusUnavailable:
                    await asyncio.sleep(0.1)
        assert ack.seq == 2
        await mux.close()
        await connection.close()
    finally:
        await asyncio.to_thread(cluster.stop)
