"""Messages between replicas in memory: twin of `adapters.nats.cluster_bus`."""

from collections.abc import Callable

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.errors import BusUnavailable, InvalidRequest
from sidecar.models.subjects import is_name


class MemoryClusterBus:
    """`ClusterBus` twin over a shared bus. A message is a hint: the bus's delivery plan decides about it."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica
        self._stops: list[Callable[[], None]] = []

    def publish(self, topic: str, payload: bytes) -> None:
        subject = self._subject(topic)
        if self._bus.is_partitioned(self._replica):
            raise BusUnavailable(f"not connected: {subject} was not sent")
        self._bus.tell(Hint(subject, payload, {}, 0))

    async def subscribe(self, topic: str, hear: Callable[[bytes], None]) -> None:
        def deliver(hint: Hint) -> None:
            hear(hint.payload)

        self._stops.append(self._bus.listen(self._replica, self._subject(topic), deliver))

    async def serve(self, topic: str, answer: Callable[[bytes], bytes]) -> None:
        self._stops.append(self._bus.answer(self._replica, self._subject(topic), answer))

    async def request(self, topic: str, payload: bytes, *, timeout_s: float) -> bytes:
        subject = self._subject(topic)
        operation = Operation(self._replica, "cluster.request", subject)
        return await self._bus.ask(operation, payload, timeout_s=timeout_s)

    async def close(self) -> None:
        while self._stops:
            self._stops.pop()()

    def _subject(self, topic: str) -> str:
        tokens = topic.split(".")
        if not all(map(is_name, tokens)):
            raise InvalidRequest(f"{topic!r} is not a topic")
        return self._bus.subjects.sys(*tokens)
