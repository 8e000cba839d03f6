"""`ministack`, a Bedrock stand-in that others wrote, in an environment of its own: it pins another botocore.

The environment is made once, from `ministack.txt` with hashes, in `.uv/` (outside of git) under a name that
changes with that file.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_suffix(".txt")
INSTALL_TIMEOUT_S = 300.0
START_TIMEOUT_S = 60.0


class MinistackUnavailable(Exception):
    """It cannot be installed or started here; the message says why."""


def install() -> Path:
    """The environment's folder, made if it is not there. Raises MinistackUnavailable."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = ROOT / ".uv"
    home.mkdir(exist_ok=True)
    environment = home / f"ministack-{digest}"
    done = environment / ".installed"
    with (home / f"ministack-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(environment, ignore_errors=True)
            for command in _commands(environment):
                _run(command)
            done.touch()
    return environment


def _commands(environment: Path) -> list[list[str]]:
    uv = ROOT / ".uv" / "bin" / "uv"
    found = str(uv) if uv.exists() else shutil.which("uv")
    python = str(environment / "bin" / "python")
    if found:
        return [
            [found, "venv", "--quiet", "--python", sys.executable, str(environment)],
            [found, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(REQUIREMENTS)],
        ]
    return [
        [sys.executable, "-m", "venv", str(environment)],
        [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(REQUIREMENTS)],
    ]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as e:
        raise MinistackUnavailable(f"ministack cannot be installed: {e.stderr.strip()[-300:]}") from e
    except (OSError, subprocess.TimeoutExpired) as e:
        raise MinistackUnavailable(f"ministack cannot be installed: {e}") from e


@contextmanager
def running_ministack() -> Iterator[str]:
    """The url of a running ministack, stopped by its pid at the end. Raises MinistackUnavailable."""
    program = install() / "bin" / "ministack"
    port = _free_port()
    variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SFTP_ENABLED": "0"}
    process = subprocess.Popen(
        [str(program)],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MinistackUnavailable(f"ministack ended with {process.returncode}")
        try:
            with urlopen(f"{url}/_ministack/health", timeout=5):  # noqa: S310
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise MinistackUnavailable(f"ministack did not answer within {START_TIMEOUT_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
