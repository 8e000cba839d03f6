"""Watches that jobs do not wait while there are slots: what can only be a fault of ours is told, and mended."""

import logging
from collections.abc import Callable
from typing import Any

from sidecar.models.shown import shown
from sidecar.ports.bus import Clock, Lane
from sidecar.request_handler.reader import Reader
from sidecar.runtime.lifecycle import logged
from sidecar.scheduler.schedule import Scheduler

log = logging.getLogger(__name__)

LOOK_S = 0.5
STANDS_S = 1.0
MOST_LANES = 8


class StandstillWatch:
    """Looks twice a second. `on_found` is called where lanes stood for `STANDS_S` with free slots and no grant.

    A job that waits for quota, a cap or a retry does not stand still; one that nothing is in the way of does.
    """

    def __init__(
        self, scheduler: Scheduler, reader: Reader, *, clock: Clock, on_found: Callable[[], None]
    ) -> None:
        self._scheduler = scheduler
        self._reader = reader
        self._clock = clock
        self._on_found = on_found
        self._changes: tuple[int, int] = (0, 0)
        self._since: float | None = None

    async def watch(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            with logged("looking whether jobs stand still"):
                await self.look()

    async def look(self) -> None:
        """Compare with the last look; nothing is searched for while calls begin and end."""
        ledger, now = self._scheduler.ledger, self._clock.monotonic()
        changes, self._changes = self._changes, ledger.changes
        if changes != ledger.changes or ledger.slots_used >= ledger.slots:
            self._since = None
            return
        runnable, unread = self._scheduler.runnable_lanes(now=now), self._reader.unread_lanes()
        if not runnable and not unread:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= STANDS_S:
            self._since = None
            reason = self._reason([*runnable, *unread], now)
            # What is counted here may be wrong: the stream says whether anything is there to be read.
            found = (await self._reader.reconcile()).intersection(unread) if unread else set()
            if runnable or found:
                log.warning("jobs wait though slots are free and nothing is in their way", extra=reason)
                self._on_found()

    def _reason(self, standing: list[Lane], now: float) -> dict[str, Any]:
        """All that decides what runs, in one line: found once, such a fault is seldom found again."""
        stats = self._scheduler.stats(now=now, max_lanes=MOST_LANES)
        named = standing[:MOST_LANES]
        return {
            "lanes": {shown(".".join(lane)): self._reader.state_of(lane) for lane in named},
            "standing": len(standing),
            "queued": stats["queued"],
            "turns": stats["turns"],
            "slots": stats["slots"],
            "pools": {key: pool for key, pool in stats["pools"].items() if pool["is_waited_for"]},
            "next_wake_s": _in_s(self._scheduler.next_wake(now=now), now),
        }


def _in_s(at: float | None, now: float) -> float | None:
    return None if at is None else round(at - now, 3)
