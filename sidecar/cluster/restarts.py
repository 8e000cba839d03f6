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
        self._own = Start(clock.now(), own)

    async def enter(self) -> None:
        """Add this start. Best effort: one that is missing makes the judgement of a crash stricter, no more."""
        for _ in range(TRIES):
            with logged("adding to the list of starts"):
                if not await self._add(await self._read()):
                    return
            await self._clock.sleep(SETTLE_S)

    async def since(self, epoch_s: float) -> int:
        """How many replicas have started since then. Raises BusUnavailable."""
        starts = await self._read()
        with logged("adding to the list of starts"):
            # Whoever wrote over the list took it from everybody: each adds itself again when it next looks.
            await self._add(starts)
        others = sum(1 for start in starts if start.at >= epoch_s and start.member != self._own.member)
        return others + (self._own.at >= epoch_s)

    async def _add(self, starts: Sequence[Start]) -> bool:
        """Add this start to the list, if it lacks it and it is not too old. Whether it was."""
        is_there = any(start.member == self._own.member for start in starts)
        if is_there or self._clock.now() - self._own.at > KEPT_S:
            return False
        await self._checkpoints.save(NAME, _encode(with_start(starts, self._own)))
        return True

    async def _read(self) -> tuple[Start, ...]:
        payload = await self._checkpoints.load(NAME)
        if payload is None:
            return ()
        try:
            return _decode(payload)
        except UNREADABLE as e:
            log.warning("the list of starts cannot be read", extra={"error": shown(e, 200)})
            return ()
