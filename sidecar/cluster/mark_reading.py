"""Cancellations of queued jobs that nobody heard: left under the last term, or while the bus was away."""

from sidecar.cluster.request_service import RequestHandler
from sidecar.ports.bus import Clock, JobStore
from sidecar.runtime.lifecycle import Waker, logged

LOOK_S = 1.0


class MarkReading:
    """Reads all marks once a term, when the queue is known, and after each gap."""

    def __init__(self, requests: RequestHandler, store: JobStore, clock: Clock, waker: Waker) -> None:
        """`waker` wakes who looks after running jobs, too."""
        self._requests = requests
        self._store = store
        self._clock = clock
        self._waker = waker
        self._gaps = 0

    def missed(self) -> None:
        """Marks may have passed unheard."""
        self._gaps += 1
        self._waker.wake()

    async def run(self) -> None:
        known: tuple[int, int] | None = None
        while True:
            await self._clock.sleep(LOOK_S)
            leader, gaps = self._requests.leader, self._gaps
            if leader is None or (leader.term, gaps) == known or not leader.stored.is_complete:
                continue
            with logged("reading cancellations of queued jobs"):
                async for tenant, job in self._store.marks():
                    leader.cancel(tenant, job)
                known = (leader.term, gaps)
