"""One worker process, seen from the process that uses it: started, asked, ended."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from sidecar.errors import SidecarError, TooCostly
from sidecar.runtime.worker_main import HEADER, READY

log = logging.getLogger(__name__)

START_S = 30.0
# A worker that gets little of a busy processor may take so many times longer than the time it may use, and longer.
PATIENCE = 10.0
PATIENCE_S = 3.0
_REAP_S = 0.005
_MOST_REAPS = 400
_LARGEST_FRAME = 1 << 30

# What Python and its libraries need to start. Nothing secret: a worker has no business with credentials.
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from sidecar.runtime.worker_main import main; main(*map(int, sys.argv[2:]))"
)


class WorkerRetired(Exception):
    """The process had ended by itself after its last answer, grown too large for more: the frame was not begun."""


class WorkerProcess:
    """A child on the other end of a pair of sockets. It inherits nothing but its own end."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._is_ready = False

    @classmethod
    async def start(cls, *, memory_bytes: int) -> "WorkerProcess":
        """Returns before the child is ready: the first call waits for that. Raises SidecarError."""
        process, ours = _started(memory_bytes)
        try:
            ours.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            # Cancelled between the two: nobody else knows of the process.
            process.kill()
            ours.close()
            process.wait()
            raise
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None and not self._reader.at_eof()

    async def call(self, frame: bytes, *, limit_s: float) -> bytes:
        """The answer to a frame. Raises TooCostly where the process did not live to give it; it is of no use then.
        Raises WorkerRetired where it did not live to begin.

        `limit_s` is processor time, and is kept by the child itself; this side waits for several times as long.
        """
        try:
            if not self._is_ready:
                await asyncio.wait_for(self._reader.readexactly(len(READY)), START_S)
                self._is_ready = True
            return await asyncio.wait_for(self._asked(frame), PATIENCE * limit_s + PATIENCE_S)
        except TimeoutError:
            self._process.kill()
            if not self._is_ready:
                raise SidecarError("a worker process did not start in time") from None
            raise TooCostly("time", limit_s=limit_s) from None
        except (asyncio.IncompleteReadError, OSError) as e:
            raise await self._why_dead(limit_s) from e

    async def _asked(self, frame: bytes) -> bytes:
        self._writer.write(HEADER.pack(len(frame)) + frame)
        await self._writer.drain()
        (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        if size > _LARGEST_FRAME:
            raise OSError("the worker process speaks nonsense")
        return await self._reader.readexactly(size)

    async def _why_dead(self, limit_s: float) -> Exception:
        code = await self._reaped()
        if not self._is_ready:
            return SidecarError(f"a worker process did not start: it ended with {code}")
        if code == 0:
            return WorkerRetired(f"worker process {self.pid} had ended by itself")
        if code == -signal.SIGPROF:
            return TooCostly("time", limit_s=limit_s)
        log.warning("a worker process ended in the middle of work", extra={"pid": self.pid, "exit_code": code})
        return TooCostly("died")

    async def end(self) -> None:
        """Kill it, whatever it does, and leave nothing of it behind."""
        self._process.kill()
        self._writer.transport.abort()
        await self._reaped()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _reaped(self) -> int | None:
        """Its exit code. The process is dying: no more than a moment passes."""
        for _ in range(_MOST_REAPS):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(_REAP_S)
        return self._process.returncode


def _started(memory_bytes: int) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A new process and this side's end of its pair. Takes a few milliseconds: the kernel copies no memory."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            command(theirs.fileno(), memory_bytes),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(os.environ),
        )
    except OSError as e:
        ours.close()
        raise SidecarError(f"a worker process cannot be started: {e}") from e
    finally:
        theirs.close()
    return process, ours


def command(fd: int, memory_bytes: int) -> list[str]:
    """Isolated from the environment and the working directory; it finds modules where this process does."""
    where = json.dumps([path or os.getcwd() for path in sys.path])
    return [sys.executable, "-I", "-c", _PROGRAM, where, str(fd), str(os.getpid()), str(memory_bytes)]


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given[name] for name in _ENVIRONMENT if name in given}
