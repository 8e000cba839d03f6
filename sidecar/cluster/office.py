"""Holding the scheduler's office: takes the lease, renews it, and stops in time when it cannot."""

import asyncio
import logging
from collections.abc import Callable

from sidecar.cluster.deference import Deference
from sidecar.cluster.lease import BELIEF_S, TTL_S, Lease
from sidecar.errors import Conflict, SidecarError
from sidecar.ports.bus import Cancellable, Clock
from sidecar.ports.cluster import LeaseStore
from sidecar.runtime.lifecycle import Tasks, Waker, logged, within

log = logging.getLogger(__name__)

LEASE = "scheduler"
REQUEST_S = 1.5
RELEASE_S = 1.0


class LeaseKeeper:
    """Performs what `Lease` decides. `on_term` is called with each new term, `on_end` whenever one may be over.

    `is_leader_heard` says whether another holder gives signs of life, `is_better_there` whether another replica
    has a better clock: then the lease is left to that one, or given up for it, for a bounded time; `on_left` is
    called when it was given up. `is_predecessor` says of a holder that it was this replica's process before this
    one, and is certainly gone: nobody waits for the end of its lease. `is_cut_off` while the bus does not answer;
    `on_back` is called when it does.
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
        is_better_there: Callable[[], bool],
        is_predecessor: Callable[[str], bool],
        on_left: Callable[[], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._own = own
        self._on_term = on_term
        self._on_end = on_end
        self._on_back = on_back
        self._is_leader_heard = is_leader_heard
        self._is_better_there = is_better_there
        self._is_predecessor = is_predecessor
        self._on_left = on_left
        self._lease = Lease()
        self._deference = Deference()
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
            # By the revision of our own last write: a lease that somebody else has by now is not taken from it.
            release = self._leases.release(LEASE, revision=revision)
            await within(self._clock, RELEASE_S, release, what="giving the lease back")
        return True

    async def _run(self) -> None:
        while not self._is_leaving:
            await self._try()
            if self._gives_up():
                await self._leave_to_better()
            wait_s = self._lease.wait_s(self._clock.monotonic(), is_leader_heard=self._is_leader_heard())
            await self._waker.wait(wait_s)

    async def _try(self) -> None:
        now = self._clock.monotonic()
        self._lease.sent(now)
        try:
            found = await within(self._clock, REQUEST_S, self._ask(now), what="asking for the lease")
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

    async def _ask(self, now: float) -> int | None:
        if self._lease.step() == "renew":
            return await self._leases.renew(LEASE, self._own, revision=self._lease.revision or 0, ttl_s=TTL_S)
        is_better_there = self._is_better_there()
        if not self._lease.term and self._deference.holds_back(now, is_better_there=is_better_there):
            # To look still tells whether the bus answers, and how long the lease has been free.
            self._deference.looked(now, is_free=await self._leases.holder(LEASE) is None)
            return None
        # A holder who is heard mends a lease that a stranger wrote over. One who is not may believe in it for a
        # while: taken before, there would be two schedulers.
        foreign_s = float("inf") if self._is_leader_heard() else BELIEF_S
        return await self._leases.acquire(
            LEASE, self._own, ttl_s=TTL_S, foreign_s=foreign_s, is_own=self._is_predecessor
        )

    def _gives_up(self) -> bool:
        if not self.term or self._is_leaving:
            return False
        return self._deference.gives_up(self._clock.monotonic(), is_better_there=self._is_better_there())

    async def _leave_to_better(self) -> None:
        """End the term, for a replica whose clock is better. If none takes the lease, this one does so again."""
        log.warning("the scheduling is left to a replica whose clock is nearer to the NATS server's")
        revision = self._lease.revision
        # Scheduling ends before the lease is free: another may begin the moment it is.
        self._lease.refused()
        self._on_end()
        if revision is not None:
            with logged("giving the lease up"):
                release = self._leases.release(LEASE, revision=revision)
                await within(self._clock, RELEASE_S, release, what="giving the lease up")
        self._on_left()

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
