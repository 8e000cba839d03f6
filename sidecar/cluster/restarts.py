"""When replicas started: kept on the bus, so that lost owners of a job can be held against all other restarts."""

import logging
from collections.abc import Sequence

import msgspec

from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown
from sidecar.ports.bus import Clock
from sidecar.ports.cluster import Checkpoints
from sidecar.runtime.lifecycle import logged

log = logging.getLogger(__name__)

NAME = "starts"
MOST_KEPT = 200
KEPT_S = 3600.0
# The last write wins: who finds that its own was written over writes again.
TRIES = 5
SETTLE_S = 0.5


class Start(msgspec.Struct, frozen=True, array_like=True):
    """`at` is in seconds since 1970."""

    at: float
    member: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Start, ...]).decode


def with_start(starts: Sequence[Start], own: Start) -> tuple[Start, ...]:
    """The list with one more, without those that are too old to matter."""
    kept = [start for start in starts if start.at >= own.at - KEPT_S]
    return (*kept[-(MOST_KEPT - 1) :], own)


class RestartLog:
    """The list of starts. `own` names this process."""

    def __init__(self, *, checkpoints: Checkpoints, clock: Clock, own: str) -> None:
        self._checkpoints = checkpoints
        self._clock = clock
        self._own = own

    async def enter(self) -> None:
        """Add this start. Best effort: one that is missing makes the judgement of a crash stricter, no more."""
        own = Start(self._clock.now(), self._own)
        for _ in range(TRIES):
            with logged("adding to the list of starts"):
                starts = await self._read()
                if any(start.member == self._own for start in starts):
                    return
                await self._checkpoints.save(NAME, _encode(with_start(starts, own)))
            await self._clock.sleep(SETTLE_S)

    async def since(self, epoch_s: float) -> int:
        """How many replicas have started since then. Raises BusUnavailable."""
        return sum(1 for start in await self._read() if start.at >= epoch_s)

    async def _read(self) -> tuple[Start, ...]:
        payload = await self._checkpoints.load(NAME)
        if payload is None:
            return ()
        try:
            return _decode(payload)
        except UNREADABLE as e:
            log.warning("the list of starts cannot be read", extra={"error": shown(e, 200)})
            return ()
