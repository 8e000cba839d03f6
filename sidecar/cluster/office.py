"""Holding the scheduler's office: takes the lease, renews it, and stops in time when it cannot."""

import asyncio
import logging
from collections.abc import Callable

from sidecar.cluster.lease import BELIEF_S, TTL_S, Lease
from sidecar.errors import Conflict, SidecarError
from sidecar.ports.bus import Cancellable, Clock
from sidecar.ports.cluster import LeaseStore
from sidecar.runtime.lifecycle import Tasks, Waker, logged, within

log = logging.getLogger(__name__)

LEASE = "scheduler"
REQUEST_S = 1.5
FAREWELL_S = 2.0


class LeaseKeeper:
    """Performs what `Lease` decides. `on_term` is called with each new term, `on_end` whenever one may be over.

    `is_leader_heard` says whether another holder gives signs of life. `is_cut_off` while the bus does not answer;
    `on_back` is called when it does again.
    """

    def __init__(
        self,
        *,
        leases: LeaseStore,
        clock: Clock,
        own: str,
        on_term: Callable[[int], None],
        on_end: Callable[[], None],
        on_back: Callable[[], None],
        is_leader_heard: Callable[[], bool],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._own = own
        self._on_term = on_term
        self._on_end = on_end
        self._on_back = on_back
        self._is_leader_heard = is_leader_heard
        self._lease = Lease()
        self._waker = Waker(clock)
        self._tasks = Tasks(on_crash)
        self._duty: asyncio.Task[None] | None = None
        self._fence: Cancellable | None = None
        self._is_leaving = False
        self.is_cut_off = False

    @property
    def term(self) -> int:
        """The term of the lease as it stands now; 0 without one that is sure."""
        return self._lease.term if self._lease.is_held(self._clock.monotonic()) else 0

    def start(self) -> None:
        self._duty = self._tasks.spawn(self._run(), name="lease")

    def wake(self) -> None:
        """The lease may be free: try at once."""
        self._waker.wake()

    async def give_up(self) -> bool:
        """Give the lease back. True when there was one. Bounded, whatever the bus does."""
        self._is_leaving = True
        self._waker.wake()
        if self._duty is not None:
            # A request under way may still win the lease: it has to end before the lease can be given back.
            await asyncio.wait({self._duty})
        revision = self._lease.give_up()
        if revision is None:
            return False
        with logged("giving the lease back"):
            release = self._leases.release(LEASE, revision=revision)
            await within(self._clock, FAREWELL_S, release, what="giving the lease back")
        return True

    async def _run(self) -> None:
        while not self._is_leaving:
            await self._try()
            wait_s = self._lease.wait_s(self._clock.monotonic(), is_leader_heard=self._is_leader_heard())
            await self._waker.wait(wait_s)

    async def _try(self) -> None:
        step = self._lease.step()
        self._lease.sent(self._clock.monotonic())
        try:
            found = await within(self._clock, REQUEST_S, self._ask(step == "renew"), what="asking for the lease")
        except Conflict:
            found = None
        except SidecarError as e:
            log.debug("the lease was not answered", extra={"error": e.message})
            self._lease.unanswered()
            self.is_cut_off = True
            return
        if self.is_cut_off:
            self.is_cut_off = False
            self._on_back()
        self._answered(found)

    async def _ask(self, is_renewal: bool) -> int | None:
        if is_renewal:
            return await self._leases.renew(LEASE, self._own, revision=self._lease.revision or 0, ttl_s=TTL_S)
        # A holder who is heard mends a lease that a stranger wrote over. One who is not may believe in it for a
        # while: taken before, there would be two schedulers.
        foreign_s = float("inf") if self._is_leader_heard() else BELIEF_S
        return await self._leases.acquire(LEASE, self._own, ttl_s=TTL_S, foreign_s=foreign_s)

    def _answered(self, revision: int | None) -> None:
        if revision is None:
            self._lease.refused()
            self._on_end()
            return
        self._end_if_over()
        now = self._clock.monotonic()
        if self._lease.granted(revision, now):
            self._on_term(self._lease.term)
        if self._fence is not None:
            self._fence.cancel()
        self._fence = self._clock.call_later(max(0.0, self._lease.held_until - now), self._end_if_over)

    def _end_if_over(self) -> None:
        if self._lease.fence(self._clock.monotonic()):
            self._on_end()
