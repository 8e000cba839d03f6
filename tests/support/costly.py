"""Functions for worker processes to be tested with. Each is what a stranger could make of an honest one."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from sidecar.errors import InvalidRequest, Permanent
from sidecar.models.base import FieldError

_kept: list[bytearray] = []


def echo(text: str, *, times: int = 1) -> str:
    return text * times


def pid() -> int:
    return os.getpid()


def spin(seconds: float) -> int:
    """Use so much processor time. Returns the process that did."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return os.getpid()


def nap(seconds: float) -> int:
    """Hold the worker without using its processor."""
    time.sleep(seconds)
    return os.getpid()


def forever() -> None:
    """In one call of C, where no Python runs: nothing but the end of the process stops it."""
    sum(iter(int, 1))


def allocate(size: int) -> int:
    return len(bytearray(size))


def keep(size: int) -> int:
    """Leave so much address space in use behind."""
    _kept.append(bytearray(size))
    return os.getpid()


def recurse() -> int:
    return recurse() + 1


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def raise_one(kind: str) -> None:
    if kind == "invalid":
        raise InvalidRequest("is no good: send another", path="output.schema")
    if kind == "permanent":
        raise Permanent("does not fit", code="tool_failed", details={"path": "x"})
    if kind == "field":
        raise FieldError("is missing", path="variables.city")
    raise ZeroDivisionError("a fault of ours")


def open_files() -> list[str]:
    """What the process holds, besides the directory that lists it."""
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}") and "/proc/" not in os.readlink(f"/proc/self/fd/{fd}")


def environment() -> list[str]:
    return sorted(os.environ)


def path() -> list[str]:
    return sys.path


def value(given: Any) -> Any:
    return given


def total(numbers: Sequence[int]) -> int:
    return sum(numbers)
