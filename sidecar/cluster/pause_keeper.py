"""Operators' pauses, from the bus into the scheduler: before a term grants anything, on a hint, every so often."""

import logging
from collections.abc import Callable

from sidecar.errors import BusRefused
from sidecar.models.pauses import Pause
from sidecar.ports.bus import Clock
from sidecar.ports.cluster import ClusterBus, PauseStore
from sidecar.runtime.lifecycle import Waker, logged
from sidecar.runtime.retry import keep_trying

log = logging.getLogger(__name__)

TOPIC = "pauses"
# A hint may be lost.
LOOK_S = 2.0


class PauseKeeper:
    """`on_change` is given the pauses whenever they are read and are others than before, while `is_scheduling`."""

    def __init__(
        self,
        store: PauseStore,
        bus: ClusterBus,
        *,
        clock: Clock,
        is_scheduling: Callable[[], bool],
        on_change: Callable[[tuple[Pause, ...]], None],
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._is_scheduling = is_scheduling
        self._on_change = on_change
        self._waker = Waker(clock)
        self.known: tuple[Pause, ...] = ()

    async def start(self) -> None:
        await self._bus.subscribe(TOPIC, lambda _: self._waker.wake())

    async def current(self) -> tuple[Pause, ...]:
        """The pauses as they are stored: nothing of theirs is to be granted, so they are waited for."""
        try:
            stored = await keep_trying("reading operators' pauses", self._store.load, clock=self._clock)
        except BusRefused as e:
            log.error("operators' pauses cannot be read: nothing is paused", extra={"error": e.message})
            return self.known
        self.known = stored.pauses
        return self.known

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._waker.wait(LOOK_S)
            if self._is_scheduling():
                with logged("reading operators' pauses"):
                    await self.look()

    async def look(self) -> None:
        """Read them now. Raises BusUnavailable, BusRefused."""
        found = (await self._store.load()).pauses
        if found != self.known:
            log.warning("operators' pauses have changed", extra={"pauses": len(found)})
            self.known = found
            self._on_change(found)
