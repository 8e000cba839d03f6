"""Messages between replicas: core NATS, over the connection's mux."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sidecar.adapters.nats.client.connection import Subscription
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.errors import InvalidRequest, SidecarError
from sidecar.models.subjects import Subjects, is_name

log = logging.getLogger(__name__)


class NatsClusterBus:
    """`ClusterBus` over NATS. Subscriptions survive reconnects; what is sent meanwhile is lost."""

    def __init__(self, mux: Mux, subjects: Subjects) -> None:
        self._mux = mux
        self._subjects = subjects
        self._subscriptions: list[Subscription] = []
        self._answering: set[asyncio.Task[None]] = set()

    def publish(self, topic: str, payload: bytes) -> None:
        self._mux.publish(self._subject(topic), payload)

    async def subscribe(self, topic: str, hear: Callable[[bytes], None]) -> None:
        def deliver(message: BusMessage) -> None:
            hear(message.payload)

        self._subscriptions.append(await self._mux.subscribe(self._subject(topic), deliver))

    async def serve(self, topic: str, answer: Callable[[bytes], bytes]) -> None:
        def deliver(message: BusMessage) -> None:
            reply = answer(message.payload)
            if message.reply:
                self._mux.publish(message.reply, reply)

        self._subscriptions.append(await self._mux.subscribe(self._subject(topic), deliver))

    async def serve_later(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]], *, most: int) -> None:
        async def reply(message: BusMessage) -> None:
            try:
                payload = await answer(message.payload)
                self._mux.publish(message.reply, payload)
            except SidecarError as e:
                log.info("a question of another replica was not answered", extra={"error": e.message})
            except Exception:
                log.exception("answering another replica failed")

        def deliver(message: BusMessage) -> None:
            if message.reply and len(self._answering) < most:
                # Answered beside the reading: this callback runs in the connection's read loop, which must not
                # wait.
                task = asyncio.get_running_loop().create_task(reply(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

        self._subscriptions.append(await self._mux.subscribe(self._subject(topic), deliver))

    async def request(self, topic: str, payload: bytes, *, timeout_s: float) -> bytes:
        return (await self._mux.request(self._subject(topic), payload, timeout_s=timeout_s)).payload

    async def close(self) -> None:
        while self._subscriptions:
            await self._subscriptions.pop().unsubscribe()
        for task in tuple(self._answering):
            task.cancel()

    def _subject(self, topic: str) -> str:
        tokens = topic.split(".")
        if not all(map(is_name, tokens)):
            raise InvalidRequest(f"{topic!r} is not a topic")
        return self._subjects.sys(*tokens)
