"""Bounded work for tests that need none of its bounds."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import msgspec

from sidecar.errors import TooCostly
from sidecar.runtime.bounded_work import BoundedWork, frame_of, result_of
from sidecar.runtime.schema_checks import SchemaChecks
from sidecar.runtime.worker_main import WorkRequest, perform

P = ParamSpec("P")
T = TypeVar("T")


class WorkHere(BoundedWork):
    """Does all work in this process, on what would have gone to another and come back."""

    async def run(self, tenant: str, function: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
        request = msgspec.msgpack.decode(frame_of(function, self.limits.limit_s, args, named), type=WorkRequest)
        self.done[function.__name__] += 1
        return result_of(perform(request), function)


class TooDear(BoundedWork):
    """Every piece of work takes more than its budget."""

    async def run(self, tenant: str, function: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
        self.killed[function.__name__, "time"] += 1
        raise TooCostly("time", limit_s=2)


def checks_here() -> SchemaChecks:
    return SchemaChecks(WorkHere())


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """What comes of something that waits for nothing, in a test that is no coroutine itself."""
    return asyncio.run(coroutine)
