"""Child processes that are measured: started, asked for their CPU and memory, stopped by their pid."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measures import cpu_seconds, status_bytes

ROOT = Path(__file__).resolve().parent.parent
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_LOG_TAIL = 1500
_STOP_S = 10.0


class NotMeasured(Exception):
    """A measurement could not be made; the text says why."""


def cpu_s_of(pid: int) -> float:
    """CPU seconds of a process so far, all threads, user and system. Raises OSError when it has ended."""
    return cpu_seconds(Path(f"/proc/{pid}/stat").read_text("utf-8"), ticks_a_second=_TICKS_A_SECOND)


class Child:
    """A process of its own. `log` takes its stderr; its stdout is read line by line as JSON."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        name: str,
        environment: Mapping[str, str] | None = None,
        is_clean: bool = False,
        cwd: Path = ROOT,
    ) -> None:
        """`environment` comes over this process's own, or, with `is_clean`, in its place."""
        self.name = name
        self._log = log
        self._rest = b""
        inherited = {} if is_clean else os.environ
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=cwd,
                env={**inherited, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )
        self.pid = self._process.pid

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """CPU seconds so far, all threads, user and system. Raises NotMeasured when it has ended."""
        try:
            return cpu_s_of(self.pid)
        except OSError as e:
            raise self.trouble("has ended") from e

    def rss_mb(self) -> float:
        """Resident memory now, in MB of 1,000,000 bytes."""
        try:
            return status_bytes(Path(f"/proc/{self.pid}/status").read_text("utf-8"), "VmRSS") / 1e6
        except (OSError, KeyError) as e:
            raise self.trouble("has ended") from e

    def ask(self, question: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send one JSON line and read one. Raises NotMeasured when none comes in time."""
        if self._process.stdin is None or not self.is_running:
            raise self.trouble("has ended")
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as e:
            raise self.trouble("takes no input") from e
        return self.read(timeout_s=timeout_s)

    def read(self, *, timeout_s: float) -> dict[str, Any]:
        """The next JSON object that it writes. Raises NotMeasured when none comes in time."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                raise self.trouble(f"said nothing for {timeout_s:g} s")
            data = os.read(stdout.fileno(), 65536)
            if not data:
                raise self.trouble("has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self.trouble(str(answer["error"]))
        return answer

    def trouble(self, what: str) -> NotMeasured:
        """The error for `what`, with the end of the process's log."""
        tail = self._log.read_text("utf-8", "replace")[-_LOG_TAIL:].strip()
        return NotMeasured(f"{self.name} {what}" + (f"; its log ends with:\n{tail}" if tail else ""))

    def stop(self) -> None:
        """End it by SIGTERM, after 10 s by SIGKILL. No error when it has ended."""
        process = self._process
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def python_module(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]
