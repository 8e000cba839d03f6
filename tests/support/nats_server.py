"""Real NATS servers for tests: a child process, or a container with SIDECAR_TEST_NATS=container.

SIDECAR_TEST_NATS_BINARIES names other nats-servers than the environment's, one or more paths as in PATH: every
single server is the first of them, those of a cluster are taken from all in turn. `./dev test-servers` sets it.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from sidecar.adapters.nats import embedded
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import HOST, NatsCluster, NatsServer, free_port
from sidecar.adapters.nats.streams.levels import LEVEL_THAT_COUNTS, OLDEST_SERVER
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings

ACCOUNTS = 200
BINARIES = [Path(path) for path in os.environ.get("SIDECAR_TEST_NATS_BINARIES", "").split(os.pathsep) if path]
IMAGE = "nats:2.15-alpine"
_ENTRYPOINT = "printenv NATS_CONFIG >/tmp/c && exec nats-server -c /tmp/c"


class Server(Protocol):
    """What tests may do to a server, whatever it runs in."""

    @property
    def url(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self, *, force: bool = False) -> None: ...


@dataclass(frozen=True)
class Access:
    """A way to a server, as one account of it: streams of other accounts are not there."""

    server: Server
    url: str

    def settings(self, **more: Any) -> NatsSettings:
        return NatsSettings(**{"url": self.url, "request_timeout_s": 20.0, "watchdog_s": 20.0, **more})


def no_environment() -> NatsEnvironment:
    """For connections of tests: whatever the developer's shell says about NATS does not count."""
    return NatsEnvironment(config_dir=Path("/nonexistent"))


def make_server(*, config: str = "") -> Server:
    if os.environ.get("SIDECAR_TEST_NATS") == "container":
        return ContainerServer(config=config)
    return NatsServer(config=config)


def make_cluster() -> NatsCluster:
    return NatsCluster(binaries=BINARIES)


def use_binaries() -> None:
    """Let servers that tests make by themselves be of the version under test too."""
    if BINARIES:
        embedded.find_binary = lambda: BINARIES[0]


def is_too_old() -> bool:
    """Whether the servers under test are of a release that is refused."""
    if not BINARIES:
        return False
    shown = subprocess.run([str(BINARIES[0]), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v(\d+)\.(\d+)", shown)
    return found is not None and (int(found[1]), int(found[2])) < OLDEST_SERVER


async def api_level(mux: Mux) -> int:
    """JetStream's API level on the server under test."""
    level: int = (await mux.api("INFO"))["api"]["level"]
    return level


async def counters_needed(mux: Mux) -> None:
    """Skip a test that needs a stream that counts."""
    if await api_level(mux) < LEVEL_THAT_COUNTS:
        pytest.skip("this nats-server has no counters")


def accounts_config(count: int) -> str:
    """A configuration with `count` accounts `a<i>`, each with JetStream and one user of the same name."""
    accounts = "\n".join(
        f"a{i}: {{ jetstream: enabled, users: [{{ user: a{i}, password: p }}] }}" for i in range(count)
    )
    return f"accounts {{\n{accounts}\n}}"


class AccountPool:
    """One server for many tests: each gets an account that no test has used. Starts another when used up."""

    def __init__(self) -> None:
        self._servers: list[Server] = []
        self._unused: Iterator[Access] = iter(())

    def take(self) -> Access:
        access = next(self._unused, None)
        if access is None:
            server = make_server(config=accounts_config(ACCOUNTS))
            server.start()
            self._servers.append(server)
            self._unused = iter([self._access(server, i) for i in range(ACCOUNTS)])
            access = next(self._unused)
        return access

    @staticmethod
    def _access(server: Server, i: int) -> Access:
        return Access(server, server.url.replace("nats://", f"nats://a{i}:p@"))

    def close(self) -> None:
        for server in self._servers:
            server.stop()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class ContainerServer:
    """nats-server in a container, on a port of this machine that stays the same over restarts."""

    def __init__(self, *, config: str = "") -> None:
        from testcontainers.core.container import DockerContainer

        self._port = free_port()
        text = f"port: 4222\njetstream {{ store_dir: /tmp/store }}\n{config}\n"
        self._container = (
            DockerContainer(IMAGE)
            .with_bind_ports(4222, self._port)
            .with_env("NATS_CONFIG", text)
            .with_kwargs(
                entrypoint=["/bin/sh", "-c", "printenv NATS_CONFIG >/tmp/c && exec nats-server -c /tmp/c"]
            )
        )

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self._port}"

    def start(self) -> None:
        from testcontainers.core.waiting_utils import wait_for_logs

        self._container.start()
        wait_for_logs(self._container, "Server is ready", timeout=60)

    def stop(self) -> None:
        self._container.stop()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self, *, force: bool = False) -> None:
        self._container.get_wrapped_container().restart(timeout=0 if force else 10)
