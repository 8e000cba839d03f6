"""The one time that a provider's end may take: its calls, its registrations and its connection share it."""

import asyncio

FAREWELL_S = 1.0
# Also where all is over: what was sent before is answered in this time by a bus that is well.
_LEAST_S = 0.1


class ProviderEnd:
    """`grace_s` for calls that run, counted from now; what has to be said may take `FAREWELL_S` more."""

    def __init__(self, grace_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + grace_s

    @property
    def calls_left_s(self) -> float:
        """What is left for calls."""
        return max(0.0, self._until - self._loop.time())

    def limit_s(self, most_s: float) -> float:
        """A limit for one step of the end, `most_s` where there is time for it."""
        return min(most_s, max(_LEAST_S, self._until + FAREWELL_S - self._loop.time()))
