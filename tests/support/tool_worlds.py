"""Providers of tools on either bus, for tests: what stands for them in memory, and over a real connection."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from sidecar.adapters.memory.bus import Hint, Provider
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.service import error_reply
from sidecar.errors import SidecarError
from sidecar.models.subjects import call_cancelled
from sidecar.ports.bus import Reply
from tests.support.bus_world import MemoryWorld, NatsWorld, World

T = TypeVar("T")


class Providers:
    """What provides tools in a world. `cancelled` holds the headers of the calls that nobody waits for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cancelled: list[Mapping[str, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def provide(self, subject: str, provider: Provider) -> None:
        world = self._world
        if isinstance(world, MemoryWorld):
            world.bus.providers[subject] = provider

            def hear(hint: Hint) -> None:
                self.cancelled.append(hint.headers)

            world.bus.listen("provider", call_cancelled(subject), hear)
            return
        assert isinstance(world, NatsWorld)
        await self.serve(world.other, subject, provider)

    async def serve(self, mux: Mux, subject: str, provider: Provider) -> None:
        """Provide a tool over a connection of one's own."""

        def receive(message: BusMessage) -> None:
            task = asyncio.ensure_future(_answer(mux, message, provider))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        await mux.subscribe(subject, receive, queue="tool")
        await mux.subscribe(call_cancelled(subject), lambda message: self.cancelled.append(message.headers))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`, letting time pass where it is virtual."""
        world = self._world
        return await world.clock.run(work) if isinstance(world, MemoryWorld) else await work

    async def sleep(self, seconds: float) -> None:
        world = self._world
        await (world.clock.sleep(seconds) if isinstance(world, MemoryWorld) else asyncio.sleep(seconds))

    def now(self) -> float:
        import time

        return self._world.clock.now() if isinstance(self._world, MemoryWorld) else time.time()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _answer(mux: Mux, message: BusMessage, provider: Provider) -> None:
    answer = provider(message.payload, message.headers)
    try:
        if isinstance(answer, AsyncIterator):
            async for reply in answer:
                mux.publish(message.reply, reply.payload, headers=reply.headers)
        else:
            mux.publish(message.reply, await answer)
    except SidecarError as e:
        reply = error_reply(e)
        mux.publish(message.reply, reply.payload, headers=reply.headers)


def heartbeat() -> Reply:
    return Reply(b"", {"Llm-Tool-Progress": "in_progress"})
