"""The queue of requests in memory: twin of `adapters.nats.intake`."""

from collections.abc import Callable, Mapping, Sequence

from sidecar.adapters.memory.bus import Hint, MemoryBus
from sidecar.adapters.memory.faults import Operation
from sidecar.adapters.memory.stream import Entry
from sidecar.errors import BusRefused
from sidecar.models.subjects import HEADER_JOB_ID, is_name
from sidecar.ports.bus import Doorbell, Lane, LaneCounts, StoredRequest


class MemoryIntake:
    """`Intake` twin over a shared bus."""

    def __init__(self, bus: MemoryBus, *, replica: str = "replica") -> None:
        self._bus = bus
        self._replica = replica
        self._root = f"{bus.subjects.root}.request."
        self._doorbell_root = f"{bus.subjects.root}.sys.doorbell."

    async def listen(self, on_doorbell: Callable[[Doorbell], None]) -> None:
        def hear(hint: Hint) -> None:
            lane = self._lane(hint.subject, self._doorbell_root)
            size = len(hint.payload)
            on_doorbell(Doorbell(hint.seq, lane, size, hint.headers.get(HEADER_JOB_ID)))

        self._bus.listen(self._replica, self._doorbell_root + ">", hear)

    async def backlog(self) -> LaneCounts:
        def count() -> LaneCounts:
            counts = self._bus.requests.counts(self._root + ">")
            return LaneCounts(
                {self._lane(s, self._root): n for s, n in counts.items()}, self._bus.requests.last_seq
            )

        return await self._bus.perform(self._operation("backlog", ">"), count)

    async def last_seq(self) -> int:
        return await self._bus.perform(self._operation("last_seq", ">"), lambda: self._bus.requests.last_seq)

    async def read(self, lane: Lane, *, after_seq: int, limit: int) -> Sequence[StoredRequest]:
        subject = self._subject(lane)
        return await self._bus.perform(
            self._operation("read", subject),
            lambda: [self._stored(entry) for entry in self._bus.requests.after(subject, after_seq, limit)],
        )

    async def get(self, seq: int) -> StoredRequest | None:
        def find() -> StoredRequest | None:
            entry = self._bus.requests.get(seq)
            return self._stored(entry) if entry else None

        return await self._bus.perform(self._operation("get", str(seq)), find)

    async def delete(self, seq: int) -> None:
        await self._bus.perform(self._operation("delete", str(seq)), lambda: self._bus.requests.delete(seq))

    async def submit(self, lane: Lane, payload: bytes, headers: Mapping[str, str]) -> int:
        if not (is_name(lane.tenant) and is_name(lane.job_class)):
            raise BusRefused(f"{lane.tenant}.{lane.job_class} is not a lane", code="invalid_request")
        subject = self._subject(lane)

        def store() -> int:
            ack = self._bus.requests.store(subject, payload, headers)
            if not ack.duplicate:
                bell = self._doorbell_root + subject.removeprefix(self._root)
                self._bus.tell(Hint(bell, payload, dict(headers), ack.seq))
            return ack.seq

        return await self._bus.perform(self._operation("submit", subject), store)

    def _operation(self, name: str, subject: str) -> Operation:
        return Operation(self._replica, f"intake.{name}", subject)

    def _subject(self, lane: Lane) -> str:
        return f"{self._root}{lane.tenant}.{lane.job_class}"

    @staticmethod
    def _lane(subject: str, root: str) -> Lane:
        tenant, _, job_class = subject.removeprefix(root).partition(".")
        return Lane(tenant, job_class)

    def _stored(self, entry: Entry) -> StoredRequest:
        lane = self._lane(entry.subject, self._root)
        return StoredRequest(entry.seq, lane, entry.payload, entry.headers, entry.stored_at)
