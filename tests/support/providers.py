"""Providers of tools for tests: functions that answer calls over a connection of their own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress

from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.service import error_reply
from sidecar.errors import BusUnavailable, SidecarError
from sidecar.models.subjects import HEADER_IDEMPOTENCY_KEY, call_cancelled
from sidecar.ports.bus import Reply

Provider = Callable[[bytes, Mapping[str, str]], Awaitable[bytes] | AsyncIterator[Reply]]
"""Answers a tool's call with its output, or with replies as they go over the wire: heartbeats, errors, output."""


class Providers:
    """What provides tools over a connection. `cancelled`: the headers of calls that nobody waits for any more.

    When the cancellation of a call is heard its provider is cancelled.
    """

    def __init__(self, mux: Mux) -> None:
        self._mux = mux
        self.cancelled: list[Mapping[str, str]] = []
        self._running: dict[asyncio.Task[None], Mapping[str, str]] = {}

    async def provide(self, subject: str, provider: Provider) -> None:
        def receive(message: BusMessage) -> None:
            task = asyncio.ensure_future(self._answer(message, provider))
            self._running[task] = message.headers
            task.add_done_callback(self._running.pop)

        await self._mux.subscribe(subject, receive, queue="tool")
        await self._mux.subscribe(call_cancelled(subject), self._on_cancelled)

    async def close(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_cancelled(self, message: BusMessage) -> None:
        self.cancelled.append(message.headers)
        for task, headers in list(self._running.items()):
            if headers.get(HEADER_IDEMPOTENCY_KEY) == message.headers.get(HEADER_IDEMPOTENCY_KEY):
                task.cancel()

    async def _answer(self, message: BusMessage, provider: Provider) -> None:
        answer = provider(message.payload, message.headers)
        try:
            if isinstance(answer, AsyncIterator):
                async for reply in answer:
                    self._say(message, reply)
            else:
                self._say(message, Reply(await answer))
        except SidecarError as e:
            self._say(message, error_reply(e))

    def _say(self, message: BusMessage, reply: Reply) -> None:
        # A provider whose connection is away has worked in vain, and nobody can be told.
        with suppress(BusUnavailable):
            self._mux.publish(message.reply, reply.payload, headers=reply.headers)


def heartbeat() -> Reply:
    return Reply(b"", {"Llm-Tool-Progress": "in_progress"})


async def answer_as_services(mux: Mux, said: Callable[[], list[bytes]]) -> None:
    """Stand for micro services: whoever asks which there are gets what `said` gives."""

    def receive(message: BusMessage) -> None:
        for payload in said():
            mux.publish(message.reply, payload)

    await mux.subscribe("$SRV.INFO", receive)
