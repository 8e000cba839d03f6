"""Real processes for tests: `sidecar run` and what stands around it, with bounded waits, ended by their pid."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

from sidecar.adapters.nats.embedded import free_port

ROOT = Path(__file__).parents[2]
MODEL = "claude-sonnet-4-5"
READY_S = 60.0
END_S = 60.0
POLL_S = 0.02
_NO_QUOTA = {"tokens_per_minute": 10**9, "requests_per_minute": 10**7}

_launcher: list[str] = []


def use_launcher(module: str) -> None:
    """What starts a sidecar of this checkout from now on: `python -m <module> sidecar run …`."""
    _launcher[:] = [module]


def clean_environment() -> dict[str, str]:
    """The environment without what a developer's shell says about NATS, AWS or the sidecar."""
    foreign = ("NATS_", "AWS_", "SIDECAR_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example-secret"}


def wait_until(is_true: Callable[[], bool], *, what: str, limit_s: float = READY_S) -> None:
    """Look again and again until it is so. Raises TimeoutError."""
    until = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > until:
            raise TimeoutError(f"not {what} within {limit_s:g} s")
        time.sleep(POLL_S)


def ended_pid() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    return process.pid


class Process:
    """A child process whose output goes to files. `with` ends it, whatever has happened."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="sidecar-process-")
        self._log_path = Path(self._directory.name) / "stderr"
        with self._log_path.open("wb") as log, (Path(self._directory.name) / "stdout").open("wb") as output:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=cwd,
                env=environment or clean_environment(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self._child.kill()
            self._child.wait(END_S)
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        return self._log_path.read_text("utf-8", "replace")

    @property
    def rss_bytes(self) -> int:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._child.kill()
        self._child.wait(END_S)

    def wait(self, limit_s: float = END_S) -> int:
        """Its exit code. Raises TimeoutExpired with the end of its log."""
        try:
            return self._child.wait(limit_s)
        except subprocess.TimeoutExpired as e:
            raise TimeoutError(f"still running after {limit_s:g} s: {self.log[-2000:]}") from e


class SidecarProcess(Process):
    """A running `sidecar run`. `settings` are nested like the configuration file.

    `module` takes the place of `sidecar` on the command line; `environment` comes on top of a clean one. `root` is
    the checkout whose code runs. Without `short_leases` all times are the product's, whatever the launcher.
    """

    def __init__(
        self,
        nats_url: str,
        bedrock_url: str,
        *,
        module: str = "sidecar",
        short_leases: bool = True,
        environment: dict[str, str] | None = None,
        root: Path = ROOT,
        **settings: Any,
    ) -> None:
        self.admin_port = free_port()
        given: dict[str, Any] = {
            "nats": {"url": nats_url},
            "bedrock": {"endpoint_url": bedrock_url},
            "admin": {"port": self.admin_port},
            "models": {MODEL: _NO_QUOTA},
            # The server sets it aside for each account; tests share one server.
            "retention": {"requests_bytes": 1 << 27},
        }
        for section, values in settings.items():
            given[section] = {**given.get(section, {}), **values}
        flags = [
            f"--set={section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for section, values in given.items()
            for key, value in values.items()
        ]
        surroundings = {**clean_environment(), "PYTHONPATH": str(root), **(environment or {})}
        launcher = _launcher if short_leases and root == ROOT else []
        super().__init__(
            sys.executable, "-m", *launcher, module, "run", *flags, environment=surroundings, cwd=root
        )

    def drain(self) -> int:
        """Ask for the drain; the status."""
        return self.get("/drain", method="POST")[0]

    def get(self, path: str, *, method: str = "GET") -> tuple[int, Any]:
        """Status and body of a page of the admin endpoint; 0 where nobody answers."""
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, HTTPException):
            return 0, None
        finally:
            connection.close()

    def wait_ready(self) -> Self:
        def is_ready() -> bool:
            if not self.is_running:
                raise AssertionError(f"it ended with {self.wait()}: {self.log[-2000:]}")
            return self.get("/readyz")[0] == 200

        wait_until(is_ready, what="ready")
        return self


@contextmanager
def spawn_sidecar(nats_url: str, bedrock_url: str, **settings: Any) -> Iterator[SidecarProcess]:
    """A sidecar that is ready to work; ended in order, else killed."""
    with SidecarProcess(nats_url, bedrock_url, **settings) as process:
        yield process.wait_ready()
        if process.is_running:
            process.signal(signal.SIGTERM)
            process.wait()


class EmulatorAt(Process):
    """A Bedrock emulator on a given port, so that another can follow it there."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(sys.executable, "-m", "sidecar.emulator", "--port", str(port))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> Self:
        wait_until(self._answers, what="listening")
        return self

    def counters(self) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/_emulator/counters")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            self.counters()
        except (OSError, HTTPException):
            return False
        return True
