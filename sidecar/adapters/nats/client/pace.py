"""How much of the event loop the reading of one connection may take, where others need it.

What comes over a connection is read, parsed and handed out in one go, and the rest of the process waits meanwhile.
So a connection on which strangers decide how much comes must not be read as fast as it can be. While it rests its
socket fills and the server holds back: first what it sends, then those who send so much.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from sidecar.wire.parser import Parser, Receiver

SHARE = 0.25
"""The part of the event loop's time that reading may take while there is other work."""

BURST_S = 0.002
"""So much may be read without a rest: ordinary traffic never has one."""

IDLE_S = 0.0001
IDLE_TURNS = 3
"""So many turns of the event loop, each shorter than that, and it has nothing else to do. An empty turn takes 10
to 30 microseconds; one alone may only be a step between two parts of a job's work."""

HOLD_S = 0.2
"""So long a piece waits at most for room where all places are taken; then those who come are refused."""

_NEXT_TURN = partial(asyncio.sleep, 0)
_MOMENT = partial(asyncio.sleep, 0.001)

Turn = Callable[[], Awaitable[None]]


class Pace:
    """Counts seconds of reading, and rests when they are more than `share` of what has passed.

    `clock` in seconds; `turn` returns when the event loop has done whatever else was ready, `moment` a little
    later.
    """

    def __init__(
        self,
        *,
        share: float = SHARE,
        clock: Callable[[], float] = time.perf_counter,
        turn: Turn = _NEXT_TURN,
        moment: Turn = _MOMENT,
    ) -> None:
        self._share = share
        self._turn = turn
        self._moment = moment
        self._left_s = BURST_S
        self._at = clock()
        self.clock = clock
        self.is_full: Callable[[], bool] = _never
        """Whether nobody new could be taken in now: then there is no use in reading on."""
        self.read_s = 0.0
        """How long reading has taken in all."""
        self.rested_s = 0.0
        """How long it has let others go first, in all."""

    async def spent(self, seconds: float) -> None:
        """Reading took so long just now. Returns when it may go on."""
        now = self.clock()
        self.read_s += seconds
        passed = max(0.0, now - self._at - seconds)
        self._at = now
        self._left_s = min(BURST_S, self._left_s + passed * self._share) - seconds * (1.0 - self._share)
        if self._left_s < 0.0:
            await self._rest()
        if self.is_full():
            await self._hold()

    async def _hold(self) -> None:
        """Wait for room, for a while: what stands in the socket is answered later, what is refused never."""
        until = self.clock() + HOLD_S
        while self.is_full() and self.clock() < until:
            await self._moment()

    async def _rest(self) -> None:
        """Let turns of the loop pass until others have had their part of it, or want nothing."""
        idle = 0
        while self._left_s < 0.0 and idle < IDLE_TURNS:
            await self._turn()
            now = self.clock()
            passed, self._at = now - self._at, now
            idle = idle + 1 if passed < IDLE_S else 0
            self.rested_s += passed
            self._left_s += passed * self._share
        # Where nobody was kept waiting nothing is owed, or an idle process would read slowly.
        self._left_s = max(0.0, self._left_s)


def _never() -> bool:
    return False


class PacedParser(Parser):
    """A parser that rests between pieces, as `pace` has it. The reading loop does not go on before."""

    def __init__(self, receiver: Receiver, pace: Pace) -> None:
        super().__init__(receiver)
        self._pace = pace
        self.pieces = 0

    async def parse(self, data: bytes = b"") -> None:
        self.pieces += 1
        clock = self._pace.clock
        begun = clock()
        await super().parse(data)
        await self._pace.spent(clock() - begun)
