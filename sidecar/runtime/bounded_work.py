"""Work whose cost a stranger sets, done in other processes within a budget.

The event loop belongs to everybody. What one party's schema, text or document makes expensive runs in a worker
process instead. There are a few of them, started when first needed and ended when long idle; tenants share them by
what their work costs, each with one piece at a time. What takes more than its budget ends with its process, in an
error of its own.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple, ParamSpec, TypeVar, get_type_hints

import msgspec

from sidecar.errors import InvalidRequest, Permanent, SidecarError, TooCostly
from sidecar.models.base import FieldError
from sidecar.models.codec import without_surrogates
from sidecar.runtime.fair_queue import FairQueue
from sidecar.runtime.worker_main import WorkAnswer, WorkFailure, WorkRequest
from sidecar.runtime.worker_process import WorkerProcess, WorkerRetired

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MOST_WAITING = 512
"""Pieces of work of one tenant."""


class WorkLimits(NamedTuple):
    """`limit_s` is processor time of one piece of work, `memory_bytes` address space of one process."""

    processes: int = 2
    limit_s: float = 2.0
    memory_bytes: int = 256 * 1024 * 1024
    idle_s: float = 60.0


class WorkCounts(NamedTuple):
    """What metrics say: pieces done by kind, ended with their process by kind and reason, waiting now."""

    done: Mapping[str, int]
    killed: Mapping[tuple[str, str], int]
    queued: int


@dataclass(slots=True, eq=False)
class _Piece:
    """One piece of work on its way. `task` runs it, once its turn has come."""

    tenant: str
    kind: str
    frame: bytes
    answer: "asyncio.Future[bytes]"
    cost_s: float = field(default=0.0, init=False)
    task: asyncio.Task[bytes] | None = field(default=None, init=False)


class BoundedWork:
    """The worker processes of this process. Nothing is started before the first `run`."""

    def __init__(self, limits: WorkLimits | None = None) -> None:
        self.limits = limits or WorkLimits()
        self._queue: FairQueue[_Piece] = FairQueue(most=MOST_WAITING)
        self._idle: list[WorkerProcess] = []
        self._running: dict[str, _Piece] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.done: Counter[str] = Counter()
        """Pieces of work that were done away from the event loop, by kind."""
        self.killed: Counter[tuple[str, str]] = Counter()
        """Pieces of work that ended with their process, by kind and reason."""

    @property
    def counts(self) -> WorkCounts:
        return WorkCounts(dict(self.done), dict(self.killed), self.queued)

    @property
    def queued(self) -> int:
        """How many pieces of work wait for a worker."""
        return len(self._queue)

    @property
    def processes(self) -> int:
        """How many worker processes there are."""
        return len(self._idle) + len(self._running)

    async def run(self, tenant: str, function: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
        """What `function`, a module's own, gives; it runs in a worker process for at most `limits.limit_s`.

        What it takes and gives must be what its annotations say, and of the sort that msgspec can send.

        Raises TooCostly where it took more than its budget, Permanent (`queue_full`) where too much of this tenant
        waits already, whatever of SidecarError and FieldError the function raises, and SidecarError for a fault.
        """
        if self._is_closed:
            raise SidecarError("the process is about to end")
        kind = function.__name__
        frame = frame_of(function, self.limits.limit_s, args, named)
        piece = _Piece(tenant, kind, frame, asyncio.get_running_loop().create_future())
        self._queue.push(tenant, piece)
        self._dispatch()
        try:
            data = await piece.answer
        except asyncio.CancelledError:
            # Nobody waits for the answer: what is queued is not begun, what runs frees its process.
            if not self._queue.remove(tenant, piece) and piece.task is not None:
                piece.task.cancel()
            raise
        return result_of(data, function)

    async def close(self) -> None:
        """End all workers, whatever they do. Work that waits ends in an error."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for piece in [*self._queue, *self._running.values()]:
            if not piece.answer.done():
                piece.answer.set_exception(SidecarError("the process is about to end"))
        while self._queue.pop(()) is not None:
            pass
        for piece in self._running.values():
            if piece.task is not None:
                piece.task.cancel()
        for worker in self._idle:
            self._end(worker)
        self._idle.clear()
        while tasks := {*self._endings, *(p.task for p in self._running.values() if p.task is not None)}:
            await asyncio.wait(tasks)
            # What was waited for leaves by a callback.
            await asyncio.sleep(0)

    def _dispatch(self) -> None:
        """Give work to workers as long as there are both."""
        while len(self._running) < self.limits.processes and not self._is_closed:
            found = self._queue.pop(self._running)
            if found is None:
                break
            tenant, piece = found
            self._running[tenant] = piece
            piece.task = asyncio.get_running_loop().create_task(self._perform(piece), name="bounded work")
            # A callback, since a task that is cancelled before its first step never comes to its own last one.
            piece.task.add_done_callback(partial(self._ended, piece))
        self._rest()

    def _ended(self, piece: _Piece, task: "asyncio.Task[bytes]") -> None:
        del self._running[piece.tenant]
        self._queue.charge(piece.tenant, piece.cost_s)
        error = None if task.cancelled() else task.exception()
        if piece.answer.done() or task.cancelled():
            pass
        elif error is not None:
            piece.answer.set_exception(error)
        else:
            piece.answer.set_result(task.result())
        self._dispatch()

    async def _perform(self, piece: _Piece) -> bytes:
        loop = asyncio.get_running_loop()
        worker: WorkerProcess | None = None
        began = loop.time()
        try:
            while True:
                worker = await self._worker()
                began = loop.time()
                try:
                    data = await worker.call(piece.frame, limit_s=self.limits.limit_s)
                    break
                except WorkerRetired:
                    # It looked alive when it was chosen, and was leaving: this work was not begun.
                    self._end(worker)
        except asyncio.CancelledError:
            # Nobody waits for it any more, and nothing but its end stops what runs there.
            self._lost(piece, worker, "cancelled")
            raise
        except TooCostly as e:
            log.warning("costly work was ended", extra={"tenant": piece.tenant, "kind": piece.kind, "why": e.kind})
            self._lost(piece, worker, e.kind)
            raise
        except SidecarError as e:
            log.error("work could not be done away from the event loop", extra={"error": e.message})
            self._lost(piece, worker, "fault")
            raise
        finally:
            piece.cost_s = loop.time() - began
        self.done[piece.kind] += 1
        self._idle.append(worker)
        return data

    async def _worker(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._end(worker)
        return await WorkerProcess.start(memory_bytes=self.limits.memory_bytes)

    def _lost(self, piece: _Piece, worker: WorkerProcess | None, why: str) -> None:
        self.killed[piece.kind, why] += 1
        if worker is not None:
            self._end(worker)

    def _end(self, worker: WorkerProcess) -> None:
        # The end of a process is waited for beside the work: whoever lost it gets the next worker meanwhile.
        task = asyncio.get_running_loop().create_task(worker.end())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def _rest(self) -> None:
        """End the idle workers once nothing has wanted them for a while."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle and not self._running and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(self.limits.idle_s, self._retire)

    def _retire(self) -> None:
        self._timer = None
        while self._idle:
            self._end(self._idle.pop())


def frame_of(function: Callable[..., Any], limit_s: float, args: Any, named: Any) -> bytes:
    """A call as a worker process reads it."""
    encode = msgspec.msgpack.encode
    name = f"{function.__module__}:{function.__qualname__}"
    try:
        given, more = msgspec.Raw(encode(list(args))), msgspec.Raw(encode(dict(named)))
    except UnicodeEncodeError:
        args, named = (
            without_surrogates(msgspec.to_builtins(part, builtin_types=(bytes,))) for part in (args, named)
        )
        given, more = msgspec.Raw(encode(list(args))), msgspec.Raw(encode(dict(named)))
    return encode(WorkRequest(name, limit_s, given, more))


@cache
def _result_type(function: Callable[..., Any]) -> Any:
    return get_type_hints(function).get("return", Any)


def result_of(data: bytes, function: Callable[..., T]) -> T:
    """What a worker process answered. Raises what was raised there."""
    answer = msgspec.msgpack.decode(data, type=WorkAnswer)
    if answer.failure is not None:
        raise _error(answer.failure, function.__name__)
    value: T = msgspec.msgpack.decode(answer.value, type=_result_type(function))
    return value


def _error(failure: WorkFailure, kind: str) -> Exception:
    """What was raised there, for here."""
    if failure.kind == "FieldError":
        return FieldError(failure.message, path=failure.path)
    if failure.kind == "InvalidRequest":
        return InvalidRequest(failure.message, path=failure.path, code=failure.code)  # type: ignore[arg-type]
    if failure.kind == "Permanent":
        return Permanent(failure.message, code=failure.code, details=failure.details)  # type: ignore[arg-type]
    if failure.kind == "depth":
        return TooCostly("depth")
    if failure.kind == "memory":
        return TooCostly("memory")
    return SidecarError(f"{kind} failed: {failure.message}")
