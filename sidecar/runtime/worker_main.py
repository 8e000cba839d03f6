"""The other end of `worker_process`: a process that does one piece of work at a time, and has nothing to lose.

It reads frames from a socket and answers each. Its parent ends it where work takes too long; it ends itself where
the parent is gone, where the work's processor time is used up, and where its memory is. Started by
`worker_process.command`.
"""

import importlib
import logging
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, get_type_hints

import msgspec

from sidecar.errors import InvalidRequest, SidecarError
from sidecar.models.base import FieldError

log = logging.getLogger(__name__)

HEADER = struct.Struct(">I")
READY = b"\x01"
_PR_SET_PDEATHSIG = 1


class WorkRequest(msgspec.Struct, array_like=True):
    """`function` is `module:name`; `args` and `named` are what it takes, as its annotations say."""

    function: str
    limit_s: float
    args: msgspec.Raw
    named: msgspec.Raw


class WorkFailure(msgspec.Struct, array_like=True):
    """What was raised. `kind` says by which class it is raised again."""

    kind: str
    message: str
    code: str = "internal"
    path: str = ""
    details: dict[str, Any] = {}


class WorkAnswer(msgspec.Struct, array_like=True):
    failure: WorkFailure | None
    value: msgspec.Raw


class WorkSignature(msgspec.Struct):
    function: Callable[..., Any]
    named: dict[str, Any]
    positional: tuple[Any, ...]
    result: Any


@cache
def signature_of(name: str) -> WorkSignature:
    """A function of ours by `module:name`, with the types of what it takes and gives."""
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    hints = get_type_hints(function)
    result = hints.pop("return", Any)
    return WorkSignature(function, hints, tuple(hints.values()), result)


def main(fd: int, parent: int, memory_bytes: int) -> None:
    """Serve until the parent hangs up."""
    _follow_into_death(parent)
    _bound_memory(memory_bytes)
    # The processor time of a piece of work ends it by this signal, whatever runs then, without a word of Python.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=fd) as link:
        link.sendall(READY)
        while (frame := _read(link)) is not None:
            answer = _answer(frame)
            link.sendall(HEADER.pack(len(answer)) + answer)
            if _is_fat(memory_bytes):
                # What one tenant's work left behind must not be the end of the next one's.
                return


def _follow_into_death(parent: int) -> None:
    """Die with the parent, even in the middle of work; where the kernel cannot, the work's own limit ends it."""
    if sys.platform == "linux":
        import ctypes
        import os

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(0)


def _bound_memory(memory_bytes: int) -> None:
    with suppress(OSError, ValueError):  # macOS does not take every limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Where memory runs out for all together, this process is the one to lose.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _is_fat(memory_bytes: int) -> bool:
    """Whether more than half of the address space is in use already. Told on Linux, where it is bounded."""
    try:
        with open("/proc/self/statm", "rb") as counts:
            return int(counts.read().split()[0]) * resource.getpagesize() > memory_bytes / 2
    except OSError:
        return False


def _read(link: socket.socket) -> bytes | None:
    header = _exactly(link, HEADER.size)
    return None if header is None else _exactly(link, HEADER.unpack(header)[0])


def _exactly(link: socket.socket, size: int) -> bytes | None:
    """None where the other end has hung up."""
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = link.recv_into(view[at:])
        if not count:
            return None
        at += count
    return bytes(data)


def _answer(frame: bytes) -> bytes:
    request = msgspec.msgpack.decode(frame, type=WorkRequest)
    signal.setitimer(signal.ITIMER_PROF, request.limit_s)
    try:
        return perform(request)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def perform(request: WorkRequest) -> bytes:
    """The answer to a request, whatever comes of it."""
    try:
        value, failure = msgspec.msgpack.encode(_made(request)), None
    except (SidecarError, FieldError, RecursionError, MemoryError) as e:
        value, failure = msgspec.msgpack.encode(None), _failure(e)
    except Exception as e:
        # Told to whoever asked for the work; this process writes no log that anybody reads.
        log.exception("work failed")
        value, failure = msgspec.msgpack.encode(None), _failure(e)
    return msgspec.msgpack.encode(WorkAnswer(failure, msgspec.Raw(value)))


def _made(request: WorkRequest) -> Any:
    known = signature_of(request.function)
    given = msgspec.msgpack.decode(request.args, type=list[msgspec.Raw])
    named = msgspec.msgpack.decode(request.named, type=dict[str, msgspec.Raw])
    args = [msgspec.msgpack.decode(raw, type=kind) for raw, kind in zip(given, known.positional, strict=False)]
    more = {name: msgspec.msgpack.decode(raw, type=known.named[name]) for name, raw in named.items()}
    return known.function(*args, **more)


def _failure(error: Exception) -> WorkFailure:
    if isinstance(error, InvalidRequest):
        return WorkFailure("InvalidRequest", error.message, error.code, error.path, error.details)
    if isinstance(error, SidecarError):
        return WorkFailure("Permanent", error.message, error.code, "", error.details)
    if isinstance(error, FieldError):
        return WorkFailure("FieldError", error.message, path=error.path)
    if isinstance(error, RecursionError | MemoryError):
        return WorkFailure("depth" if isinstance(error, RecursionError) else "memory", "")
    return WorkFailure("crash", f"{type(error).__name__}: {error}"[:500])
