"""The twins in memory, cancelled at each await: they keep nothing open, like the real adapters."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sidecar.adapters.memory.clock import MemoryClock
from sidecar.adapters.memory.faults import Fault
from sidecar.adapters.memory.tool_bus import MemoryToolBus
from sidecar.errors import Conflict
from sidecar.ports.bus import Lane
from sidecar.ports.tools import ToolCall
from tests.support.bus_world import MemoryWorld, Storage, event, job_state, result
from tests.support.scripted_connection import cancel_at_each_step

LANE = Lane("acme", "batch")


async def create(storage: Storage) -> None:
    try:
        await storage.jobs.create(job_state("j2"))
    except Conflict:
        return


async def replay(storage: Storage) -> None:
    async for _ in storage.publisher.replay("acme", "j1"):
        pass


async def wait_and_close(storage: Storage) -> None:
    waiter = await storage.publisher.wait_result("acme", "j1")
    await waiter.close()


OPERATIONS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "submit": lambda s: s.intake.submit(LANE, b"{}", {"Nats-Msg-Id": "one"}),
    "read": lambda s: s.intake.read(LANE, after_seq=0, limit=16),
    "delete": lambda s: s.intake.delete(1),
    "create": create,
    "list": lambda s: s.jobs.list("acme"),
    "publish": lambda s: s.publisher.publish(event(1), fence=1),
    "publish_result": lambda s: s.publisher.publish_result(event(1, result())),
    "replay": replay,
    "wait_result": wait_and_close,
    "read tools": lambda s: s.tools.snapshot(),
    "look for services": lambda s: s.tool_bus.services(wait_s=0),
    "acquire": lambda s: s.leases.acquire("scheduler", "r1", ttl_s=5),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_nothing_stays_behind_when_an_operation_is_cancelled(name: str) -> None:
    world = MemoryWorld()
    world.bus.faults = lambda _: Fault(delay_s=0)
    await world.first.jobs.create(job_state())
    operation = OPERATIONS[name]
    tasks = asyncio.all_tasks()

    async def start() -> object:
        return await operation(world.first)

    def check() -> None:
        assert world.clock.sleeping == 0
        assert not (asyncio.all_tasks() - tasks)

    await cancel_at_each_step(start, check)
    await world.first.publisher.publish(event(9), fence=1)


async def test_a_tool_call_that_is_cancelled_ends_its_provider_and_its_timer() -> None:
    world = MemoryWorld()
    bus = MemoryToolBus(world.bus)
    ended: list[str] = []

    async def provider(payload: bytes, _: object) -> bytes:
        try:
            await world.clock.sleep(100)
        finally:
            ended.append("ended")
        return payload

    bus.provide("tool", provider)
    call = asyncio.ensure_future(bus.call(ToolCall(subject="tool", payload=b"", headers={}, timeout_s=50)))
    await world.clock.settle()
    assert world.clock.sleeping == 2
    call.cancel()
    await asyncio.wait([call])
    assert ended == ["ended"]
    assert world.clock.sleeping == 0


async def test_a_sleeper_that_is_cancelled_is_forgotten() -> None:
    clock = MemoryClock()
    sleeper = asyncio.ensure_future(clock.sleep(5))
    await clock.settle()
    sleeper.cancel()
    await asyncio.wait([sleeper])
    assert clock.next_wake is None
    assert not await clock.step()
