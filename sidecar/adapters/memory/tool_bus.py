"""Tool calls in memory: twin of `adapters.nats.tool_bus`."""

import asyncio

from sidecar.adapters.memory.bus import MemoryBus, Provider
from sidecar.adapters.memory.faults import Operation
from sidecar.errors import Permanent, SidecarError, Temporary
from sidecar.ports import ToolCall


class MemoryToolBus:
    """`ToolBus` twin. `provide` stands for a provider; what it raises becomes its error reply."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica
        self.calls: list[ToolCall] = []

    def provide(self, subject: str, provider: Provider) -> None:
        self._bus.providers[subject] = provider

    async def call(self, call: ToolCall) -> bytes:
        self.calls.append(call)
        await self._bus.perform(Operation(self._replica, "tools.call", call.subject), lambda: None)
        provider = self._bus.providers.get(call.subject)
        if provider is None:
            raise Temporary(f"no provider listens on {call.subject}", code="tool_failed")
        answering = asyncio.ensure_future(self._answer(provider, call))
        timing = asyncio.ensure_future(self._bus.clock.sleep(call.timeout_s))
        try:
            await asyncio.wait([answering, timing], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Temporary(f"no answer within {call.timeout_s} s", code="tool_failed")
            return answering.result()
        finally:
            for task in (answering, timing):
                task.cancel()
            await asyncio.gather(answering, timing, return_exceptions=True)

    @staticmethod
    async def _answer(provider: Provider, call: ToolCall) -> bytes:
        try:
            return await provider(call.payload, call.headers)
        except SidecarError as e:
            raise Permanent(e.message, code="tool_failed", details={"code": e.code}) from e
