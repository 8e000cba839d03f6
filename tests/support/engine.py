"""A container engine by its command line, podman or docker, and its socket for testcontainers."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILD_S = 900
LIMIT_S = 120


class Engine:
    """`podman` or `docker`. All that is started by `run` is removed by `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started: list[str] = []

    def command(self, *arguments: str, limit_s: float = LIMIT_S, is_checked: bool = True) -> str:
        """Its output. Raises CalledProcessError with what was said on stderr."""
        done = subprocess.run(
            [self.name, *arguments], capture_output=True, text=True, timeout=limit_s, check=False
        )
        if is_checked and done.returncode:
            raise AssertionError(f"{self.name} {' '.join(arguments)}: {done.stderr[-3000:]}")
        return done.stdout.strip()

    def build(self, context: Path, *, tag: str, arguments: dict[str, str]) -> None:
        flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self.command("build", "--tag", tag, *flags, str(context), limit_s=BUILD_S)

    def run(self, *arguments: str) -> str:
        """The id of a container that runs in the background."""
        made = self.command("run", "--detach", *arguments).splitlines()[-1]
        self._started.append(made)
        return made

    def log(self, container: str) -> str:
        done = subprocess.run([self.name, "logs", container], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def exit_code(self, container: str) -> int:
        """Waits for the container's end."""
        return int(self.command("wait", container))

    def close(self) -> None:
        while self._started:
            self.command("rm", "--force", self._started.pop(), is_checked=False)


def find_engine() -> str | None:
    """The engine that answers, else None. `SIDECAR_TEST_ENGINE` names one."""
    wanted = os.environ.get("SIDECAR_TEST_ENGINE")
    for name in (wanted,) if wanted else ("podman", "docker"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    return None


@contextmanager
def socket_of(engine: str) -> Iterator[dict[str, str]]:
    """The environment by which testcontainers finds the engine; podman's service is started for it."""
    if engine != "podman":
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="podman-socket-") as place:
        path = Path(place) / "podman.sock"
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{path}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + LIMIT_S
            while not path.exists():
                assert service.poll() is None, "podman's service ended"
                assert time.monotonic() < until, "podman's service does not listen"
                time.sleep(0.05)
            yield {
                "DOCKER_HOST": f"unix://{path}",
                "TESTCONTAINERS_RYUK_DISABLED": "true",
                "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
                "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
            }
        finally:
            service.terminate()
            service.wait()
