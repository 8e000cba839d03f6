"""Tool calls in memory: twin of `adapters.nats.tool_bus`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from sidecar.adapters.memory.bus import Hint, MemoryBus, Provider
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.nats.service import error_reply
from sidecar.adapters.nats.tool_outcome import (
    MOST_REPLY_BYTES,
    is_heartbeat,
    left_s,
    lost,
    nobody,
    output,
    overdue,
    silent,
)
from sidecar.errors import BusUnavailable, SidecarError
from sidecar.models.subjects import call_cancelled
from sidecar.ports.bus import Reply
from sidecar.ports.tools import ToolCall


class MemoryToolBus:
    """`ToolBus` twin. `provide` stands for a provider; what it raises becomes its error reply."""

    def __init__(
        self, bus: MemoryBus, *, replica: str = "replica", most_reply_bytes: int = MOST_REPLY_BYTES
    ) -> None:
        self._bus = bus
        self._replica = replica
        self._most_reply_bytes = most_reply_bytes
        self.calls: list[ToolCall] = []

    def provide(self, subject: str, provider: Provider) -> None:
        self._bus.providers[subject] = provider

    async def call(self, call: ToolCall) -> bytes:
        self.calls.append(call)
        try:
            await self._bus.perform(Operation(self._replica, "tools.call", call.subject), lambda: None)
        except BusUnavailable as e:
            raise lost(e) from e
        provider = self._bus.providers.get(call.subject)
        if provider is None:
            raise nobody(call)
        replies: asyncio.Queue[Reply] = asyncio.Queue()
        answering = asyncio.ensure_future(_answer(provider, call, replies))
        try:
            reply = await self._reply(call, replies)
        except (SidecarError, asyncio.CancelledError):
            self._bus.tell(Hint(call_cancelled(call.subject), b"", call.headers, 0))
            raise
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        return output(reply.payload, reply.headers, most_bytes=self._most_reply_bytes)

    async def services(self, *, wait_s: float) -> Sequence[bytes]:
        await self._bus.perform(Operation(self._replica, "tools.services", "$SRV.INFO"), lambda: None)
        await self._bus.clock.sleep(wait_s)
        return list(self._bus.services)

    async def _reply(self, call: ToolCall, replies: "asyncio.Queue[Reply]") -> Reply:
        """The first reply that is no heartbeat. Raises Temporary when the wait for the next is over."""
        clock = self._bus.clock
        end = clock.now() + left_s(call, clock.now())
        while True:
            left = end - clock.now()
            reply = await self._next(replies, min(call.timeout_s, left))
            if reply is None:
                raise silent(call) if call.timeout_s < left else overdue(call)
            if not is_heartbeat(reply.headers):
                return reply

    async def _next(self, replies: "asyncio.Queue[Reply]", seconds: float) -> Reply | None:
        getting = asyncio.ensure_future(replies.get())
        timing = asyncio.ensure_future(self._bus.clock.sleep(seconds))
        try:
            await asyncio.wait([getting, timing], return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            for task in (getting, timing):
                task.cancel()
            await asyncio.gather(getting, timing, return_exceptions=True)


async def _answer(provider: Provider, call: ToolCall, replies: "asyncio.Queue[Reply]") -> None:
    answer = provider(call.payload, call.headers)
    try:
        if not isinstance(answer, AsyncIterator):
            replies.put_nowait(Reply(await answer))
            return
        async for reply in answer:
            replies.put_nowait(reply)
    except SidecarError as e:
        replies.put_nowait(error_reply(e))
    finally:
        if isinstance(answer, AsyncGenerator):
            await answer.aclose()
