"""The one time that an orderly end may take, and that all parts share: nobody has a grace period of its own."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from sidecar.errors import SidecarError
from sidecar.runtime.clock import Clock

log = logging.getLogger(__name__)

FAREWELL_S = 1.5
"""How long after the grace an end may take at most: to hand jobs back, say the last words, close connections."""
# Also where all is over: what needs no more than a few turns of the event loop is done.
_LEAST_S = 0.05


class Grace:
    """`grace_s` for what is under way, counted from now, then `FAREWELL_S` for what has to be said.

    `hurry` ends the first part at once.
    """

    def __init__(self, clock: Clock, grace_s: float) -> None:
        self._clock = clock
        self._until = clock.monotonic() + grace_s
        self._over = asyncio.Event()
        self._timer = clock.call_later(grace_s, self._over.set) if grace_s > 0 else None
        if grace_s <= 0:
            self._over.set()

    @property
    def left_s(self) -> float:
        """What is left for work under way."""
        return 0.0 if self._over.is_set() else max(0.0, self._until - self._clock.monotonic())

    @property
    def farewell_left_s(self) -> float:
        """What is left of all."""
        return max(0.0, self._until + FAREWELL_S - self._clock.monotonic())

    def hurry(self) -> None:
        self._until = min(self._until, self._clock.monotonic())
        self._over.set()

    def close(self) -> None:
        """The end has come: nothing is timed any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def finish(self, work: Coroutine[Any, Any, object]) -> bool:
        """Wait for `work` under way while there is grace. False when it was cut off."""
        if self._over.is_set():
            work.close()
            return False
        return await self._either(work, self._over.wait())

    async def farewell(self, work: Coroutine[Any, Any, object], *, what: str) -> bool:
        """Do a part of the end. What is not done in time is left as it is, for the process ends: False then.

        Errors of the bus are logged: the other parts end all the same.
        """
        over = asyncio.Event()
        timer = self._clock.call_later(max(_LEAST_S, self.farewell_left_s), over.set)
        try:
            if await self._either(work, over.wait()):
                return True
            log.warning("%s was cut short: the grace period is over", what)
        except SidecarError as e:
            log.warning("%s failed", what, extra={"error": e.message, "code": e.code})
        finally:
            timer.cancel()
        return False

    @staticmethod
    async def _either(work: Coroutine[Any, Any, object], end: Coroutine[Any, Any, object]) -> bool:
        """Whether `work` came to its end first. Raises what it raised."""
        working, ending = asyncio.ensure_future(work), asyncio.ensure_future(end)
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            if not working.done():
                working.cancel()
                working.add_done_callback(_retrieve)
                # Hardly waited for: what does not heed its cancellation must not hold up the end either.
                await asyncio.wait({working}, timeout=_LEAST_S)
        if not working.done() or working.cancelled():
            return False
        working.result()
        return True


def _retrieve(task: "asyncio.Future[object]") -> None:
    if not task.cancelled():
        task.exception()
