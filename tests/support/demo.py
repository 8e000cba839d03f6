"""A live demo (NATS server, emulator, sidecar) as a process of its own, and commands run against it."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from sidecar.cli.main import main

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Demo:
    """Where a running demo listens."""

    nats: str
    bedrock: str
    admin: str
    dashboard: str = ""


def environment(**more: str) -> dict[str, str]:
    """This process's, without what a developer's shell says about NATS and AWS, with our commands on the PATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "AWS_", "SIDECAR_"))}
    path = f"{BIN}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "XDG_CONFIG_HOME": "/nonexistent", "COLUMNS": "200", **more}


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def sidecar(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """Run `sidecar` to its end, as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        env=environment(**(env or {})),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def command(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """The same inside this process: a start costs more than what most commands do."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
    logger = logging.getLogger("sidecar")
    level = logger.level
    try:
        with (
            mock.patch.dict(os.environ, environment(**(env or {})), clear=True),
            mock.patch.object(sys, "stdin", given),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main(arguments)
    finally:
        logger.setLevel(level)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Done(code, *texts)


@contextmanager
def started(arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A `sidecar` process that is ended by SIGTERM, then by SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", *arguments],
        env=environment(**(env or {})),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """Ask a process to end and wait for it. Returns its exit code."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode


@contextmanager
def running_demo() -> Iterator[Demo]:
    with started(["demo", "--serve", "--no-story", "--port", "0", "--json"]) as process:
        yield Demo(**first_line(process))


def first_line(process: subprocess.Popen[str]) -> Any:
    """The JSON that a process prints when it is ready. Fails with what it said when it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, errors = process.communicate(timeout=PATIENCE_S)
        raise AssertionError(f"the process ended with {process.returncode}: {errors}")
    return json.loads(line)


def wait_for(path: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    """Until a file that a process writes holds `text`."""
    deadline = time.monotonic() + PATIENCE_S
    while text not in path.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{path} does not hold {text!r}: {path.read_text()[-2000:]}")
        time.sleep(0.05)
