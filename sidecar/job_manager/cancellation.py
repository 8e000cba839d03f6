"""Stopping one job without stopping the task that runs it."""

import asyncio
from types import TracebackType

from sidecar.errors import SidecarError


class CancelScope:
    """What runs inside can be stopped from outside with a reason: `scope.stop(JobCancelled(…))`.

    The reason is raised where the block ends; whoever may have been stopped before begins it with `check`. A
    cancellation of the task itself (the process stops) goes through as `CancelledError`, also when both happen at
    once. The pattern is that of `asyncio.timeout`.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelling_before = 0
        self._has_cancelled = False
        self.reason: SidecarError | None = None

    def stop(self, reason: SidecarError) -> None:
        """The first reason counts. Before and after the block it is only remembered."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._task is not None and asyncio.current_task() is not self._task:
            self._has_cancelled = self._task.cancel()

    def check(self) -> None:
        """Raise the reason if there is one: at a block's begin, and for the moments between two blocks."""
        if self.reason is not None:
            raise self.reason

    async def __aenter__(self) -> "CancelScope":
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an awaited coroutine always runs in a task
        self._task = task
        self._cancelling_before = task.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self.reason is None or task is None:
            return
        is_only_ours = False
        if self._has_cancelled:
            self._has_cancelled = False
            is_only_ours = task.uncancel() <= self._cancelling_before
        if kind is None or (is_only_ours and issubclass(kind, asyncio.CancelledError)):
            raise self.reason from error
