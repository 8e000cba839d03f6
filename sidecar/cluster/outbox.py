"""Operations on their way to the scheduler: in order, in batches, until it or its successor has taken them."""

import asyncio
import logging
from collections.abc import Callable

from sidecar.cluster import messages
from sidecar.errors import BusUnavailable, SidecarError
from sidecar.models.replica import Ops, OpsReply, ReservationOp
from sidecar.ports.bus import Clock
from sidecar.ports.cluster import ClusterBus
from sidecar.runtime.lifecycle import Tasks, within

log = logging.getLogger(__name__)

REQUEST_S = 2.0
RETRY_S = 0.25
BATCH = 500
# Beyond this the scheduler has been away for long: heartbeats tell its successor the same.
MOST = 20_000


class OpQueue:
    """What this replica's jobs have to say to the scheduler in another process."""

    def __init__(
        self, *, bus: ClusterBus, clock: Clock, own: str, on_crash: Callable[[BaseException], None]
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._own = own
        self._tasks = Tasks(on_crash)
        self._leader = ""
        self._term = 0
        self._waiting: list[ReservationOp] = []
        self._pump: asyncio.Task[None] | None = None

    def direct(self, leader: str, term: int) -> None:
        """From now on to this scheduler. What waited for an earlier one is dropped: the new one asks everybody."""
        if term > self._term:
            self._leader, self._term = leader, term
            self._waiting = []

    def post(self, op: ReservationOp) -> None:
        if not self._leader or self._leader == self._own:
            return
        if len(self._waiting) >= MOST:
            self._waiting = []
        self._waiting.append(op)
        if self._pump is None:
            self._pump = self._tasks.spawn(self._run(), name="outbox")

    async def close(self, timeout_s: float) -> None:
        """Wait for what is on its way, but no longer than `timeout_s`."""
        if self._pump is not None:
            try:
                await within(self._clock, timeout_s, self._tasks.wait(), what="the last operations")
            except BusUnavailable as e:
                log.info("some operations were not delivered", extra={"error": e.message})
        await self._tasks.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                # Everything of this moment goes into one message.
                await asyncio.sleep(0)
                await self._send(self._waiting[:BATCH])
        finally:
            self._pump = None

    async def _send(self, batch: list[ReservationOp]) -> None:
        waiting = self._waiting
        payload = messages.encode(Ops(member=self._own, ops=tuple(batch)))
        try:
            answer = await self._bus.request(messages.ops_to(self._leader), payload, timeout_s=REQUEST_S)
        except SidecarError as e:
            log.debug("operations were not taken", extra={"leader": self._leader, "error": e.message})
            is_taken = False
        else:
            reply = messages.decode(answer, OpsReply)
            is_taken = reply is not None and reply.is_leader
        if waiting is not self._waiting:
            return
        if is_taken:
            del waiting[: len(batch)]
        else:
            await self._clock.sleep(RETRY_S)
