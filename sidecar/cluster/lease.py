"""The scheduler's lease, as its holder may believe in it. Pure: `now` is monotonic seconds.

The store promises that a lease lives at least `TTL_S` from the moment it was stored, which is not before the
moment its request was sent. So a holder counts from the send of the last confirmed request, and stops `GUARD_S`
before the end: nobody else can hold the lease while it believes that it does.
"""

from typing import Literal

TTL_S = 5
RENEW_S = 1.0
GUARD_S = 0.5
# From the last sign of a holder until it certainly believes in its lease no longer.
BELIEF_S = TTL_S + RENEW_S
# How often a rival tries: while the holder is heard, and once it is silent.
CALM_TRY_S = 1.0
EAGER_TRY_S = 0.25

Step = Literal["acquire", "renew"]


class Lease:
    """One replica's side of the lease. `term` is above 0 while it is held, and higher than all terms before.

    Ask `step` what to do, tell `sent` before and one of `granted`, `refused` and `unanswered` after each request.
    """

    def __init__(self) -> None:
        self.revision: int | None = None
        self.term = 0
        self.held_until = 0.0
        self._sent_at = 0.0
        self._is_unsure = False
        self._is_wanted = True

    def is_held(self, now: float) -> bool:
        return self.term > 0 and now < self.held_until

    def step(self) -> Step:
        """The next request: after one without an answer only `acquire` can tell who holds the lease."""
        return "renew" if self.term and self.revision is not None and not self._is_unsure else "acquire"

    def sent(self, now: float) -> None:
        self._sent_at = now

    def granted(self, revision: int, now: float) -> bool:
        """The request was confirmed. True when a new term has begun.

        An answer that comes after the end of what it confirms is of no use: the next request will tell.
        """
        self.revision = revision
        held_until = self._sent_at + TTL_S - GUARD_S
        if now >= held_until or not self._is_wanted:
            self._is_unsure = True
            return False
        is_new = not self.is_held(now)
        if is_new:
            self.term = revision
        self._is_unsure = False
        self.held_until = held_until
        return is_new

    def refused(self) -> None:
        """Somebody else holds the lease, or ours has ended."""
        self.revision = None
        self.term = 0
        self._is_unsure = False

    def unanswered(self) -> None:
        """Nothing is known about the last request. What was confirmed before still holds until its end."""
        self._is_unsure = True

    def fence(self, now: float) -> bool:
        """End a term whose time is over. True when there was one."""
        if self.term == 0 or now < self.held_until:
            return False
        self.term = 0
        self._is_unsure = True
        return True

    def give_up(self) -> int | None:
        """Want it no more. Returns the revision to release, if any."""
        revision, self.revision = self.revision, None
        self.term = 0
        self._is_wanted = False
        return revision

    def wait_s(self, now: float, *, is_leader_heard: bool) -> float:
        """Until the next request."""
        if self.term and not self._is_unsure:
            return max(0.0, self._sent_at + RENEW_S - now)
        return EAGER_TRY_S if self.term or not is_leader_heard else CALM_TRY_S
