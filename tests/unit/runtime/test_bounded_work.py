"""Work in other processes: done, bounded, shared out, and gone with whoever wanted it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar.errors import InvalidRequest, Permanent, SidecarError, TooCostly
from sidecar.models.base import FieldError
from sidecar.runtime.bounded_work import BoundedWork, WorkLimits
from sidecar.runtime.worker_process import WorkerProcess
from tests.support import costly

FOREVER_S = 60.0


@pytest.fixture
async def work() -> AsyncIterator[BoundedWork]:
    made = BoundedWork(WorkLimits(limit_s=5.0))
    yield made
    await made.close()


@pytest.fixture
async def strict() -> AsyncIterator[BoundedWork]:
    made = BoundedWork(WorkLimits(processes=1, limit_s=0.2))
    yield made
    await made.close()


async def until_dead(pid: int) -> None:
    async with asyncio.timeout(FOREVER_S):
        while is_alive(pid):  # noqa: ASYNC110 - another's child: nothing but looking tells
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return False


async def test_gives_what_the_function_gives(work: BoundedWork) -> None:
    assert await work.run("acme", costly.echo, "ab", times=2) == "abab"
    assert await work.run("acme", costly.total, (1, 2, 3)) == 6
    assert await work.run("acme", costly.value, {"a": [1, None, "ü", b"\x00"]}) == {"a": [1, None, "ü", b"\x00"]}
    assert work.done["echo"] == 1


async def test_starts_nothing_before_it_is_needed_and_keeps_what_it_started(work: BoundedWork) -> None:
    assert work.processes == 0
    first = await work.run("acme", costly.pid)
    assert first != os.getpid()
    assert await work.run("globex", costly.pid) == first
    assert work.processes == 1


async def test_ends_what_is_idle() -> None:
    work = BoundedWork(WorkLimits(idle_s=0.05))
    pid = await work.run("acme", costly.pid)
    await until_dead(pid)
    assert await work.run("acme", costly.pid) != pid
    await work.close()


async def test_work_that_takes_too_long_is_ended_and_its_process_replaced(strict: BoundedWork) -> None:
    pid = await strict.run("acme", costly.pid)
    with pytest.raises(TooCostly) as e:
        await strict.run("acme", costly.forever)
    assert e.value.kind == "time"
    assert "0.2 s" in e.value.message
    await until_dead(pid)
    assert await strict.run("acme", costly.echo, "x") == "x"
    assert strict.killed["forever", "time"] == 1


async def test_work_that_waits_instead_of_working_is_ended_too(strict: BoundedWork) -> None:
    with pytest.raises(TooCostly) as e:
        await strict.run("acme", costly.nap, FOREVER_S)
    assert e.value.kind == "time"


async def test_the_budget_is_processor_time_of_each_piece(work: BoundedWork) -> None:
    work.limits = work.limits._replace(limit_s=0.5)
    for _ in range(4):
        assert await work.run("acme", costly.spin, 0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS holds on Linux")
async def test_work_that_meets_a_worker_on_its_way_out_is_done_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that has grown large ends after its answer: for a moment it still looks alive."""
    monkeypatch.setattr(WorkerProcess, "is_alive", True)
    work = BoundedWork(WorkLimits(processes=1, limit_s=5.0))
    for n in range(5):
        grown = asyncio.create_task(work.run("acme", costly.keep, 150 << 20))
        next_one = asyncio.create_task(work.run(f"other{n}", costly.pid))
        assert await grown != await next_one
    assert not work.killed
    await work.close()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS holds on Linux")
async def test_work_that_takes_too_much_memory_ends_in_an_error_of_its_own(work: BoundedWork) -> None:
    with pytest.raises(TooCostly) as e:
        await work.run("acme", costly.allocate, 1 << 40)
    assert e.value.kind == "memory"
    assert await work.run("acme", costly.echo, "x") == "x"


async def test_recursion_is_a_typed_error(work: BoundedWork) -> None:
    with pytest.raises(TooCostly) as e:
        await work.run("acme", costly.recurse)
    assert e.value.kind == "depth"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
async def test_a_worker_that_dies_costs_its_own_work_alone(work: BoundedWork, number: signal.Signals) -> None:
    dying = asyncio.create_task(work.run("acme", costly.die, number))
    assert await work.run("globex", costly.echo, "x") == "x"
    with pytest.raises(TooCostly) as e:
        await dying
    assert e.value.kind == "died"
    assert work.killed["die", "died"] == 1
    assert await work.run("acme", costly.echo, "y") == "y"


async def test_one_that_died_while_idle_costs_nothing(work: BoundedWork) -> None:
    pid = await work.run("acme", costly.pid)
    os.kill(pid, signal.SIGKILL)
    await until_dead(pid)
    assert await work.run("acme", costly.echo, "x") == "x"


async def test_what_the_function_raises_is_raised_here(work: BoundedWork) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        await work.run("acme", costly.raise_one, "invalid")
    assert (invalid.value.path, invalid.value.message) == ("output.schema", "is no good: send another")
    with pytest.raises(Permanent) as permanent:
        await work.run("acme", costly.raise_one, "permanent")
    assert (permanent.value.code, permanent.value.details) == ("tool_failed", {"path": "x"})
    with pytest.raises(FieldError) as field:
        await work.run("acme", costly.raise_one, "field")
    assert field.value.path == "variables.city"
    with pytest.raises(SidecarError) as fault:
        await work.run("acme", costly.raise_one, "fault")
    assert (fault.value.code, "ZeroDivisionError" in fault.value.message) == ("internal", True)


async def test_of_one_tenant_one_piece_at_a_time(work: BoundedWork) -> None:
    """The other worker stays free for everybody else."""
    napping = [asyncio.create_task(work.run("greedy", costly.nap, FOREVER_S)) for _ in range(4)]
    assert await work.run("modest", costly.echo, "x") == "x"
    assert work.queued == 3
    assert work.processes == 2
    for task in napping:
        task.cancel()
    await asyncio.wait(napping)


async def test_cancelled_work_is_dropped_or_killed(work: BoundedWork) -> None:
    pids = [await work.run("acme", costly.pid)]
    running = asyncio.create_task(work.run("acme", costly.nap, FOREVER_S))
    waiting = asyncio.create_task(work.run("acme", costly.echo, "never"))
    await asyncio.sleep(0)
    assert work.queued == 1
    waiting.cancel()
    await asyncio.wait({waiting})
    assert work.queued == 0
    running.cancel()
    await asyncio.wait({running})
    await until_dead(pids[0])
    assert work.killed["nap", "cancelled"] == 1
    assert await work.run("acme", costly.echo, "x") == "x"


async def test_closing_ends_everything_and_refuses_more() -> None:
    work = BoundedWork()
    pid = await work.run("acme", costly.pid)
    running = asyncio.create_task(work.run("acme", costly.nap, FOREVER_S))
    waiting = asyncio.create_task(work.run("acme", costly.nap, FOREVER_S))
    await asyncio.sleep(0)
    await work.close()
    for task in (running, waiting):
        with pytest.raises(SidecarError):
            await task
    assert not is_alive(pid)
    assert work.processes == 0
    with pytest.raises(SidecarError):
        await work.run("acme", costly.echo, "x")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_worker_inherits_no_sockets_and_no_secrets(
    work: BoundedWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_NATS__PASSWORD", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        files = await work.run("acme", costly.open_files)
        names = await work.run("acme", costly.environment)
    sockets = [name for name in files if name.startswith("socket:")]
    assert len(sockets) == 1, files
    assert not [name for name in names if name.startswith(("SIDECAR", "AWS", "NATS"))]


_PARENT = """
import asyncio, sys
from sidecar.runtime.bounded_work import BoundedWork
from tests.support import costly

async def main():
    work = BoundedWork()
    print(await work.run("acme", costly.pid), flush=True)
    asyncio.create_task(work.run("acme", getattr(costly, sys.argv[1]), *map(float, sys.argv[2:])))
    await asyncio.sleep(0)
    print("begun", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word of a parent's death is Linux's")
@pytest.mark.parametrize("doing", [["forever"], ["spin", "0"]])
async def test_no_worker_outlives_its_parent(doing: list[str]) -> None:
    """In the middle of work in C, and idle."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PARENT, *doing, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await parent.stdout.readline()
    parent.kill()
    await parent.wait()
    await until_dead(pid)
