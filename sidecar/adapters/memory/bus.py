"""A bus in memory, shared by the twins of any number of replicas: streams, hints, requests, faults on demand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from itertools import count
from typing import Any, NamedTuple, NoReturn, TypeVar

from sidecar.adapters.memory.faults import Delivery, DeliveryPlan, FaultPlan, Operation, deliver_once, no_faults
from sidecar.adapters.memory.stream import REFUSED_HEADERS, Limits, MemoryStream, matches
from sidecar.errors import BusUnavailable
from sidecar.models.subjects import (
    CANCEL_BUCKET,
    CONFIG_BUCKET,
    CONTROL_BUCKET,
    JOB_BUCKET,
    PROMPT_BUCKET,
    TOOL_BUCKET,
    Subjects,
)
from sidecar.ports.bus import Clock, Reply

T = TypeVar("T")
Responder = Callable[[str, bytes, Mapping[str, str]], AsyncIterator[Reply]]
Provider = Callable[[bytes, Mapping[str, str]], Awaitable[bytes] | AsyncIterator[Reply]]
"""Answers a tool's call with its output, or with replies as they go over the wire: heartbeats, errors, output."""


class Hint(NamedTuple):
    subject: str
    payload: bytes
    headers: Mapping[str, str]
    seq: int


class _Listener(NamedTuple):
    replica: str
    pattern: str
    hear: Callable[[Hint], None]


class _Responder(NamedTuple):
    replica: str
    pattern: str
    respond: Responder
    is_broadcast: bool


class _Answerer(NamedTuple):
    replica: str
    subject: str
    answer: Callable[[bytes], bytes]


class MemoryBus:
    """What NATS is to the adapters. One object stands for the cluster, whatever happens to the replicas.

    `faults` decides about each operation, `deliveries` about each hint; both may be replaced at any time.
    `max_queue` is the server's cap of a lane, `max_payload` its message limit, `max_objects` the bytes of objects
    that a tenant's bucket takes, for `objects_s` each.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        subjects: Subjects | None = None,
        max_queue: int = 10_000,
        max_payload: int = 1024 * 1024,
        state_s: float = 86_400.0,
        events_s: float = 3_600.0,
        request_timeout_s: float = 5.0,
        objects_s: float = 172_800.0,
        max_objects: int = 256 * 1024 * 1024,
    ) -> None:
        self.clock = clock
        self.subjects = subjects or Subjects()
        self.events_s = events_s
        self.request_timeout_s = request_timeout_s
        self.objects_s = objects_s
        self.max_objects = max_objects
        self.objects: dict[tuple[str, str], tuple[bytes, str, float]] = {}
        self.uploads: dict[tuple[str, str], dict[int, bytes]] = {}
        self.faults: FaultPlan = no_faults
        self.deliveries: DeliveryPlan = deliver_once
        self.operations: list[Operation] = []
        common = Limits(max_bytes=max_payload)
        self.prompts = MemoryStream(clock.now, common._replace(per_subject=10))
        self.requests = MemoryStream(
            clock.now, common._replace(per_subject=max_queue, discard_new=True, refuse=REFUSED_HEADERS)
        )
        self.jobs = MemoryStream(clock.now, common._replace(per_subject=100_000, max_age_s=state_s))
        self.marks = MemoryStream(clock.now, common._replace(per_subject=1, max_age_s=state_s))
        self.dead = MemoryStream(clock.now, common)
        self.control = MemoryStream(clock.now, common._replace(per_subject=1))
        self.config = MemoryStream(clock.now, common._replace(per_subject=10))
        self.tools = MemoryStream(clock.now, common._replace(per_subject=1))
        self.foreign_writes: Counter[str] = Counter()
        self.providers: dict[str, Provider] = {}
        self.services: list[bytes] = []
        self._listeners: dict[int, _Listener] = {}
        self._responders: dict[int, _Responder] = {}
        self._answerers: dict[int, _Answerer] = {}
        self._ids = count()
        self._away: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def stream_of(self, subject: str) -> MemoryStream:
        """The stream that a subject belongs to."""
        root = self.subjects.root
        by_prefix = {
            f"$KV.{CONTROL_BUCKET}.": self.control,
            f"$KV.{CONFIG_BUCKET}.": self.config,
            f"$KV.{PROMPT_BUCKET}.": self.prompts,
            f"$KV.{TOOL_BUCKET}.": self.tools,
            f"$KV.{CANCEL_BUCKET}.": self.marks,
            f"$KV.{JOB_BUCKET}.": self.jobs,
            f"{root}.log.": self.jobs,
            f"{root}.dead.": self.dead,
            f"{root}.request.": self.requests,
        }
        return next(stream for prefix, stream in by_prefix.items() if subject.startswith(prefix))

    def partition(self, replica: str) -> None:
        """Cut a replica off: what it asks stays unanswered, what it should hear is lost."""
        self._away.add(replica)

    def heal(self, replica: str) -> None:
        self._away.discard(replica)

    def is_partitioned(self, replica: str) -> bool:
        return replica in self._away

    def disconnect(self, replica: str) -> None:
        """Forget what a replica listens to and answers, as when its process has died."""
        self._listeners = {i: x for i, x in self._listeners.items() if x.replica != replica}
        self._responders = {i: x for i, x in self._responders.items() if x.replica != replica}
        self._answerers = {i: x for i, x in self._answerers.items() if x.replica != replica}

    async def perform(self, operation: Operation, effect: Callable[[], T]) -> T:
        """Carry out `effect` as the server would, with the faults of the moment.

        Raises BusUnavailable after `request_timeout_s` when the replica hears nothing.
        """
        self.operations.append(operation)
        fault = self.faults(operation)
        await self.clock.sleep(fault.delay_s)
        if operation.replica in self._away or fault.lose == "request":
            await self._time_out(operation)
        if fault.lose == "late":
            self._spawn(self._carry_out_later(fault.late_s + self.request_timeout_s, effect))
            await self._time_out(operation)
        outcome = effect()
        await self.clock.sleep(0)
        if operation.replica in self._away or fault.lose == "ack":
            await self._time_out(operation)
        return outcome

    def listen(self, replica: str, pattern: str, hear: Callable[[Hint], None]) -> Callable[[], None]:
        """Hear hints on `pattern`. Returns what ends it."""
        key = next(self._ids)
        self._listeners[key] = _Listener(replica, pattern, hear)

        def stop() -> None:
            self._listeners.pop(key, None)

        return stop

    def tell(self, hint: Hint) -> None:
        """Send a hint to everybody who listens, as the delivery plan has it."""
        for key, listener in list(self._listeners.items()):
            if matches(listener.pattern, hint.subject):
                for delay_s in self.deliveries(Delivery(listener.replica, hint.subject, hint.seq)):
                    self._spawn(self._deliver(key, hint, delay_s))

    def serve(self, replica: str, pattern: str, respond: Responder, *, is_broadcast: bool) -> Callable[[], None]:
        """Answer requests on `pattern`, one replica of all unless `is_broadcast`. Returns what ends it."""
        key = next(self._ids)
        self._responders[key] = _Responder(replica, pattern, respond, is_broadcast)

        def stop() -> None:
            self._responders.pop(key, None)

        return stop

    def answer(self, replica: str, subject: str, answer: Callable[[bytes], bytes]) -> Callable[[], None]:
        """Answer another replica's questions on `subject`, at once. Returns what ends it."""
        key = next(self._ids)
        self._answerers[key] = _Answerer(replica, subject, answer)

        def stop() -> None:
            self._answerers.pop(key, None)

        return stop

    async def ask(self, operation: Operation, payload: bytes, *, timeout_s: float) -> bytes:
        """Ask another replica. Raises BusUnavailable: with status 503 when nobody answers there, else late."""
        self.operations.append(operation)
        fault = self.faults(operation)
        await self.clock.sleep(fault.delay_s)
        found = next((x for x in self._answerers.values() if x.subject == operation.subject), None)
        is_lost = operation.replica in self._away or fault.lose == "request"
        if found is None and not is_lost:
            raise BusUnavailable(f"nobody answers {operation.subject}", details={"status": 503})
        if found is None or is_lost or found.replica in self._away:
            return await self._silence(operation, timeout_s)
        reply = found.answer(payload)
        await self.clock.sleep(0)
        if operation.replica in self._away or fault.lose != "nothing":
            return await self._silence(operation, timeout_s)
        return reply

    async def request_many(
        self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Reply]:
        """All replies to a request, as a client would get them. Raises BusUnavailable when nobody answers."""
        found = [
            responder
            for responder in self._responders.values()
            if matches(responder.pattern, subject) and responder.replica not in self._away
        ]
        if not found:
            raise BusUnavailable(f"nobody answers on {subject}")
        queue = [responder for responder in found if not responder.is_broadcast][:1]
        for responder in [*queue, *(r for r in found if r.is_broadcast)]:
            async for reply in responder.respond(subject, payload, dict(headers or {})):
                yield reply

    async def request(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """The first reply to a request. Raises BusUnavailable when nobody answers."""
        async for reply in self.request_many(subject, payload, headers):
            return reply
        raise BusUnavailable(f"no reply on {subject}")

    async def close(self) -> None:
        """Drop what is still on its way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _time_out(self, operation: Operation) -> None:
        await self._silence(operation, self.request_timeout_s)

    async def _silence(self, operation: Operation, timeout_s: float) -> NoReturn:
        await self.clock.sleep(timeout_s)
        raise BusUnavailable(f"no answer to {operation.name} on {operation.subject}")

    async def _carry_out_later(self, delay_s: float, effect: Callable[[], object]) -> None:
        await self.clock.sleep(delay_s)
        effect()

    async def _deliver(self, key: int, hint: Hint, delay_s: float) -> None:
        await self.clock.sleep(delay_s)
        listener = self._listeners.get(key)
        if listener is not None and listener.replica not in self._away:
            listener.hear(hint)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
