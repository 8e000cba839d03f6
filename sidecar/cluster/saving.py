"""The scheduler's checkpoint: written while it schedules, read by its successor."""

import asyncio
import logging

import msgspec

from sidecar.errors import SidecarError
from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown
from sidecar.ports.bus import Clock
from sidecar.ports.cluster import Checkpoints
from sidecar.runtime.lifecycle import logged
from sidecar.scheduler.schedule import Scheduler

log = logging.getLogger(__name__)

NAME = "scheduler"
EVERY_S = 1.0
# A snapshot of many lanes takes its time on the event loop: at most this share of it.
LARGEST_SHARE = 0.02


class Saver:
    """Saves and restores one scheduler after the other."""

    def __init__(self, checkpoints: Checkpoints, clock: Clock) -> None:
        self._checkpoints = checkpoints
        self._clock = clock

    async def load(self) -> bytes | None:
        """What the predecessor left; None when it cannot be had: then levels start empty."""
        try:
            return await self._checkpoints.load(NAME)
        except SidecarError as e:
            log.warning("the scheduler's checkpoint cannot be read", extra={"error": e.message})
            return None

    def restore(self, scheduler: Scheduler, payload: bytes) -> None:
        try:
            scheduler.restore(msgspec.json.decode(payload), now=self._clock.monotonic())
        except (ValueError, *UNREADABLE) as e:
            log.warning("the scheduler's checkpoint is of no use", extra={"error": shown(e, 200)})

    async def keep_saving(self, scheduler: Scheduler) -> None:
        """Save once a second while there is something new."""
        loop = asyncio.get_running_loop()
        saved: bytes | None = None
        seen: tuple[int, int] | None = None
        wait_s = EVERY_S
        while True:
            await self._clock.sleep(wait_s)
            changes = scheduler.ledger.changes
            if changes == seen:
                # With ten thousand lanes even to find out that nothing is new is work.
                continue
            began = loop.time()
            state = scheduler.snapshot(now=self._clock.monotonic())
            # Without its time, so that an idle scheduler writes nothing.
            content = msgspec.json.encode({**state, "epoch": 0})
            payload = msgspec.json.encode(state)
            wait_s = max(EVERY_S, (loop.time() - began) / LARGEST_SHARE)
            with logged("saving the scheduler's checkpoint"):
                if content != saved:
                    await self._checkpoints.save(NAME, payload)
                saved, seen = content, changes
