"""The admin endpoint of a real process among strangers: probes are answered, and nobody else drains it."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection

import pytest

from tests.acceptance.conftest import World
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import AccountPool, Server
from tests.support.process import SidecarProcess, clean_environment, spawn_sidecar, wait_until
from tests.support.stranger import asks, check_story, stranger

PROBES = 27
PROBE_S = 5.0
"""The chart's timeout of a probe."""
HEAD = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


def silent(connection: socket.socket, turn: int) -> None:
    return


def half_open(connection: socket.socket, turn: int) -> None:
    if turn == 0:
        connection.sendall(HEAD)


def trickling(connection: socket.socket, turn: int) -> None:
    connection.sendall(HEAD[turn : turn + 1])


def with_a_giant_head(connection: socket.socket, turn: int) -> None:
    connection.sendall(HEAD + b"X: " + b"x" * 20_000)


def pipelining(connection: socket.socket, turn: int) -> None:
    connection.sendall((HEAD + b"\r\n") * 100)


@contextmanager
def held_open(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            connection = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), PROBE_S)))
            connection.setblocking(False)
            made.append(connection)
        yield made


def probe(sidecar: SidecarProcess) -> int:
    connection = HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=PROBE_S)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("strangers", [64, 500])
@pytest.mark.parametrize("act", [silent, half_open, trickling, with_a_giant_head, pipelining])
def test_probes_are_answered_among_strangers(
    world: World, act: Callable[[socket.socket, int], None], strangers: int
) -> None:
    with held_open(world.sidecar.admin_port, strangers) as connections:
        answers = []
        for turn in range(PROBES):
            for connection in connections:
                # One that was dropped is what becomes of strangers.
                with suppress(OSError):
                    act(connection, turn)
            answers.append(probe(world.sidecar))
        assert answers == [200] * PROBES


FOREIGN = [
    ("GET", {}),
    ("POST", {"Host": "evil.example"}),
    ("POST", {"Origin": "http://evil.example"}),
    ("POST", {"Origin": "null"}),
    ("POST", {"X-Forwarded-For": "10.0.0.9"}),
    ("PUT", {}),
]


def refused(sidecar: SidecarProcess, method: str, headers: dict[str, str]) -> int:
    connection = HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=PROBE_S)
    try:
        connection.request(method, "/drain", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_what_is_no_drain_changes_nothing_and_sigterm_still_loses_nothing(
    own_nats_server: Server, bedrock: EmulatorProcess
) -> None:
    """A pod of the chart of 0.1.0 asks by GET from outside: it is refused, and ends by SIGTERM as ever."""
    async with stranger(own_nats_server.url, "acme") as client:
        with spawn_sidecar(own_nats_server.url, bedrock.url) as sidecar:
            feed = await client.submit(asks("[[tokens=100 tps=50]] go", stream=True), job="running")
            await feed.first_delta()
            for method, headers in FOREIGN:
                assert await asyncio.to_thread(refused, sidecar, method, headers) in (403, 405)
            assert (await asyncio.to_thread(sidecar.get, "/readyz"))[1]["status"] == "ready"
            assert (await client.run(asks("[[tokens=2]] hi"), job="new"))["state"] == "succeeded"
            sidecar.signal(signal.SIGTERM)
            assert await asyncio.to_thread(sidecar.wait, 60) == 0
            await feed.result()
        with spawn_sidecar(own_nats_server.url, bedrock.url):
            assert check_story(await client.replay("running"))["state"] == "succeeded"


def drain(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "drain", *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("token", [None, "a-token-of-sixteen"])
def test_the_command_drains_what_runs_on_this_machine(
    nats_server: AccountPool, bedrock: EmulatorProcess, token: str | None
) -> None:
    secret = {} if token is None else {"SIDECAR_ADMIN__TOKEN": token}
    everywhere = {"SIDECAR_ADMIN__HOST": "0.0.0.0", **secret}
    with spawn_sidecar(
        nats_server.take().url, bedrock.url, environment=everywhere, jobs={"linger_s": 600}
    ) as sidecar:
        port = str(sidecar.admin_port)
        if token is not None:
            assert drain("--port", port).returncode == 1
            assert sidecar.get("/readyz")[0] == 200
            assert sidecar.get("/metrics")[0] == sidecar.get("/info")[0] == 401
        # Only the environment, as in the chart's pod.
        done = drain("--json", SIDECAR_ADMIN__PORT=port, **everywhere)
        assert (done.returncode, done.stdout) == (0, '{"status":"draining","running":0}\n'), done.stderr
        wait_until(lambda: sidecar.get("/readyz")[0] == 503, what="draining")


def test_the_command_says_where_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = drain("--port", str(taken.getsockname()[1]))
    assert done.returncode == 3
    assert "admin.port" in done.stderr
    assert "Traceback" not in done.stderr
