"""What a measurement runs on, each a process: NATS with file storage, the emulator, the sidecar."""

import http.client
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import MODEL
from benchmarks.processes import Child, NotMeasured, cpu_s_of, python_module
from sidecar.adapters.nats.embedded import HOST, NatsServer, free_port

READY_S = 20.0
_POLL_S = 0.002

# Quotas that never limit: what is measured is the work, not the waiting.
_CONFIG = """\
[nats]
url = "{nats}"
[bedrock]
endpoint_url = "{bedrock}"
max_connections = 1024
[scheduler]
slots = 1024
[models."{model}"]
tokens_per_minute = 1_000_000_000
requests_per_minute = 10_000_000
[admin]
port = {admin}
[log]
level = "warning"
"""


@dataclass(frozen=True, slots=True)
class Base:
    """NATS and the emulator. `folder` holds logs and configuration and goes away at the end."""

    nats: NatsServer
    emulator: Child
    emulator_url: str
    folder: Path

    def nats_cpu_s(self) -> float:
        """Raises NotMeasured when the server has ended."""
        pid = self.nats.pid
        if pid is None or not self.nats.is_running:
            raise NotMeasured(f"nats-server has ended: {self.nats.log[-500:]}")
        return cpu_s_of(pid)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A ready sidecar. `ready_s` is the time from the start of its process, `ready_cpu_s` its CPU until then."""

    process: Child
    ready_s: float
    ready_cpu_s: float


@contextmanager
def base() -> Iterator[Base]:
    """Raises NotMeasured or StartupError when a process does not come up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-bench-")))
        server = NatsServer()
        server.start()
        stack.callback(server.stop)
        emulator = stack.enter_context(
            Child(python_module("sidecar.emulator", "--port", "0"), log=folder / "emulator.log", name="emulator")
        )
        yield Base(server, emulator, emulator.read(timeout_s=READY_S)["url"], folder)


@contextmanager
def sidecar(under: Base) -> Iterator[Sidecar]:
    """`sidecar run`, ready. Raises NotMeasured when it does not become ready within 20 s."""
    port = free_port()
    config = under.folder / f"sidecar-{port}.toml"
    config.write_text(
        _CONFIG.format(nats=under.nats.url, bedrock=under.emulator_url, admin=port, model=MODEL), "utf-8"
    )
    started = time.perf_counter()
    command = python_module("sidecar", "run", "--config", str(config))
    with Child(command, log=under.folder / f"sidecar-{port}.log", name="sidecar") as process:
        wait_ready(process, port)
        yield Sidecar(process, time.perf_counter() - started, process.cpu_s())


def wait_ready(process: Child, port: int, *, path: str = "/readyz", timeout_s: float = READY_S) -> None:
    """Wait until `path` answers 200. Raises NotMeasured when it does not, or when the process ends."""
    deadline = time.monotonic() + timeout_s
    while not answers(port, path):
        if not process.is_running:
            raise process.trouble("ended before it was ready")
        if time.monotonic() > deadline:
            raise process.trouble(f"was not ready after {timeout_s:g} s")
        time.sleep(_POLL_S)


def answers(port: int, path: str) -> bool:
    """Whether an HTTP GET of `path` gives 200 now."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def load_generator(under: Base) -> Iterator[Child]:
    """Connected and listening."""
    command = python_module("benchmarks.load", under.nats.url)
    with Child(command, log=under.folder / "load.log", name="load generator") as child:
        child.read(timeout_s=READY_S)
        yield child


@contextmanager
def boto3_anchor(under: Base) -> Iterator[Child]:
    """With a warm client."""
    command = python_module("benchmarks.anchor", under.emulator_url)
    with Child(command, log=under.folder / "anchor.log", name="boto3 anchor") as child:
        child.read(timeout_s=READY_S)
        yield child
