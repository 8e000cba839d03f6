"""Account limits as AWS may count them, in virtual time: by a bucket, by a sliding or a fixed minute, and shared.

`python -m benchmarks.accounts` prints, for each way of counting, how much of what others leave of the quota was
used, which share of calls was refused and the longest time in which none was granted.
"""

import random
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Literal, NamedTuple

from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Grant, Ticket

POOL = "model@us-east-1"
Counting = Literal["bucket", "sliding", "fixed"]
SECONDS_A_CALL = 2.0
OTHERS_EVERY_S = 0.2


class Account:
    """One account's tokens a minute: input + max_tokens taken at the start, the unused returned at the end."""

    def __init__(self, per_minute: float, counting: Counting) -> None:
        self.per_minute = per_minute
        self.counting = counting
        self._level = per_minute
        self._at = 0.0
        self._taken: deque[tuple[float, float]] = deque()

    def take(self, tokens: float, now: float) -> bool:
        self._pass(now)
        if self._level < tokens:
            return False
        self._level -= tokens
        if self.counting == "sliding":
            self._taken.append((now + 60, tokens))
        return True

    def give_back(self, tokens: float, now: float) -> None:
        self._pass(now)
        self._level = min(self._level + tokens, self.per_minute)
        if self.counting == "sliding":
            self._taken.append((now + 60, -tokens))

    def _pass(self, now: float) -> None:
        if self.counting == "bucket":
            self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        elif self.counting == "fixed":
            if now // 60 != self._at // 60:
                self._level = self.per_minute
        else:
            while self._taken and self._taken[0][0] <= now:
                self._level = min(self.per_minute, self._level + self._taken.popleft()[1])
        self._at = now


@dataclass(frozen=True, kw_only=True)
class Case:
    """`others`: the share of the account that others take. `is_known`: the whole account's quota is configured."""

    counting: Counting
    others: float = 0.0
    is_known: bool = True
    per_minute: int = 2_000_000
    seconds: float = 900.0
    warm_up_s: float = 300.0

    @property
    def name(self) -> str:
        known = "configured" if self.is_known else "unknown"
        return f"{self.counting}, {known}, others take {self.others:.0%}"


class Outcome(NamedTuple):
    """After the warm-up: the part of what was left that was used, of calls refused, the longest gap (s)."""

    used: float
    refused: float
    gap_s: float


CASES = tuple(
    Case(counting=counting, others=others, is_known=is_known)
    for counting in ("bucket", "sliding", "fixed")
    for others in (0.0, 0.5)
    for is_known in (True, False)
)


def simulate(case: Case, *, seed: int = 1) -> Outcome:
    """Two backlogged lanes against the account."""
    return _Run(case, seed).go()


class _Run:
    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.random = random.Random(seed)
        self.account = Account(case.per_minute, case.counting)
        limits = QuotaLimits(tokens_per_minute=case.per_minute if case.is_known else None)
        self.scheduler = Scheduler(classes={"standard": 1.0}, slots=2_000, limits=lambda pool: limits)
        self.seqs = count(1)
        self.used = 0.0
        self.calls = self.refused = 0
        self.last_at = case.warm_up_s
        self.gap_s = 0.0
        self.events: list[tuple[float, int, Grant | None]] = []
        self.numbers = count()

    def go(self) -> Outcome:
        case, now, others_at, woken_at = self.case, 0.0, 0.0, 0.0
        while now < case.seconds:
            self._dispatch(now)
            wake = self.scheduler.next_wake(now=now)
            woken_at = min(x for x in (wake, others_at) if x is not None)
            next_at = min(woken_at, self.events[0][0]) if self.events else woken_at
            now = max(next_at, now + 1e-4)
            while self.events and self.events[0][0] <= now:
                grant = heappop(self.events)[2]
                if grant is not None:
                    self._end(grant, now)
            if others_at <= now:
                others_at += OTHERS_EVERY_S
                self.account.take(case.others * case.per_minute * OTHERS_EVERY_S / 60, now)
        left = (1 - case.others) * case.per_minute * (case.seconds - case.warm_up_s) / 60
        return Outcome(self.used / left, self.refused / max(self.calls, 1), self.gap_s)

    def _dispatch(self, now: float) -> None:
        for tenant in ("a", "b"):
            lane = Lane(tenant, "standard")
            while self.scheduler.room(lane) > 0:
                seq = next(self.seqs)
                ticket = Ticket(
                    seq=seq,
                    lane=lane,
                    job_id=f"j{seq}",
                    size=1,
                    stored_at=now,
                    input_tokens=600,
                    max_tokens=400,
                    pools=(POOL,),
                )
                self.scheduler.push(ticket, now=now)
        while (grant := self.scheduler.grant(now=now)) is not None:
            is_counted = now >= self.case.warm_up_s
            self.calls += is_counted
            if self.account.take(grant.input_tokens + grant.max_tokens, now):
                if is_counted:
                    self.gap_s = max(self.gap_s, now - self.last_at)
                    self.last_at = now
                heappush(
                    self.events,
                    (now + SECONDS_A_CALL * self.random.uniform(0.7, 1.3), next(self.numbers), grant),
                )
            else:
                self.refused += is_counted
                self.scheduler.throttled(POOL, now=now, limit="tokens")
                self.scheduler.requeue(grant, now=now)
            for tenant in ("a", "b"):
                lane = Lane(tenant, "standard")
                if self.scheduler.room(lane) > 8:
                    return self._dispatch(now)

    def _end(self, grant: Grant, now: float) -> None:
        output = self.random.randint(120, 280)
        self.account.give_back(grant.max_tokens - output, now)
        if now >= self.case.warm_up_s:
            self.used += grant.input_tokens + output
        self.scheduler.succeeded(POOL, now=now)
        self.scheduler.settle(
            grant, input_tokens=grant.input_tokens, output_tokens=output, seconds=SECONDS_A_CALL, now=now
        )


def main() -> None:
    for case in CASES:
        found = simulate(case)
        print(
            f"{case.name:45} used {found.used:.3f}  refused {found.refused:.4%}  longest gap {found.gap_s:.1f} s"
        )


if __name__ == "__main__":
    main()
