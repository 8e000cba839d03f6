"""Stopping one job without stopping its task: who is cancelled, and what is raised where."""

import asyncio

import pytest

from sidecar.errors import CallTimeout, JobCancelled
from sidecar.job_manager.cancellation import CancelScope


async def test_what_runs_inside_is_stopped_with_the_reason() -> None:
    scope = CancelScope()
    is_inside = asyncio.Event()

    async def job() -> str:
        try:
            async with scope:
                is_inside.set()
                await asyncio.Event().wait()
        except JobCancelled as e:
            await asyncio.sleep(0)  # the task itself goes on
            return e.message
        return "not stopped"

    task = asyncio.ensure_future(job())
    await is_inside.wait()
    scope.stop(JobCancelled("enough"))
    assert await task == "enough"
    assert task.cancelling() == 0


async def test_the_first_reason_counts() -> None:
    scope = CancelScope()
    scope.stop(CallTimeout("late", limit="total"))
    scope.stop(JobCancelled("enough"))
    with pytest.raises(CallTimeout):
        async with scope:
            scope.check()


async def test_a_block_that_stops_itself_ends_with_the_reason_all_the_same() -> None:
    scope = CancelScope()
    with pytest.raises(JobCancelled):
        async with scope:
            scope.stop(JobCancelled("by myself"))


async def test_a_stop_after_the_block_is_only_remembered() -> None:
    scope = CancelScope()
    async with scope:
        pass
    scope.stop(JobCancelled("late"))
    await asyncio.sleep(0)
    with pytest.raises(JobCancelled):
        scope.check()


@pytest.mark.parametrize("order", ["stop first", "cancel first"])
async def test_a_cancellation_of_the_task_goes_through_also_beside_a_stop(order: str) -> None:
    scope = CancelScope()
    is_inside = asyncio.Event()

    async def job() -> None:
        async with scope:
            is_inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(job())
    await is_inside.wait()
    if order == "stop first":
        scope.stop(JobCancelled("enough"))
        task.cancel()
    else:
        task.cancel()
        scope.stop(JobCancelled("enough"))
    await asyncio.wait([task])
    assert task.cancelled()


async def test_an_error_of_the_job_is_not_hidden_by_a_late_stop() -> None:
    scope = CancelScope()

    async def job() -> None:
        async with scope:
            scope.stop(JobCancelled("enough"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await job()
