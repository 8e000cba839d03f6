"""Waiting for results: a core subscription each, and a look into the stream after every reconnect."""

import asyncio
import logging
from collections.abc import Callable

from sidecar.adapters.nats.client.connection import State, Subscription
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.errors import SidecarError
from sidecar.models.believed import result_of

log = logging.getLogger(__name__)


class NatsResultWaiter:
    """`ResultWaiter` over a core subscription. `of_job` is tenant and job."""

    def __init__(
        self, stored_as: str, on_close: Callable[["NatsResultWaiter"], None], *, of_job: tuple[str, str]
    ) -> None:
        self.stored_as = stored_as
        self._tenant, self._job = of_job
        self._on_close = on_close
        self._heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._subscription: Subscription | None = None

    @property
    def is_waiting(self) -> bool:
        return not self._heard.done()

    async def listen(self, mux: Mux, subject: str) -> None:
        self._subscription = await mux.subscribe(subject, self._on_message)

    async def payload(self) -> bytes:
        return await asyncio.shield(self._heard)

    async def close(self) -> None:
        self._on_close(self)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    def fail(self, error: SidecarError) -> None:
        if not self._heard.done():
            self._heard.set_exception(error)
            # Whoever waits hears of it; where nobody does, nothing was missed.
            self._heard.exception()

    def hear(self, payload: bytes) -> None:
        if not self._heard.done() and result_of(payload, tenant=self._tenant, job=self._job) is not None:
            self._heard.set_result(payload)

    def _on_message(self, message: BusMessage) -> None:
        self.hear(message.payload)


class ResultWatch:
    """The open waiters of a process. A result that passed while the connection was away is read afterwards."""

    def __init__(self, mux: Mux, reader: StreamReader) -> None:
        self._mux = mux
        self._reader = reader
        self._waiters: set[NatsResultWaiter] = set()
        self._task: asyncio.Task[None] | None = None
        mux.connection.on_state(self._on_state)

    async def open(self, subject: str, *, stored_as: str, of_job: tuple[str, str]) -> NatsResultWaiter:
        waiter = NatsResultWaiter(stored_as, self._waiters.discard, of_job=of_job)
        self._waiters.add(waiter)
        try:
            await waiter.listen(self._mux, subject)
        except BaseException:
            self._waiters.discard(waiter)
            raise
        return waiter

    def _on_state(self, state: State) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if state == "connected" and self._waiters:
            self._task = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        for waiter in tuple(self._waiters):
            if not waiter.is_waiting:
                continue
            try:
                found = await self._reader.last(waiter.stored_as)
            except SidecarError as e:
                log.warning("looking for missed results failed: %s", e.message)
                return
            if found is not None:
                waiter.hear(found.payload)
