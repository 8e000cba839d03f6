"""What keeps calls from being made though there is quota, and when one may be tried. Pure: `now` is monotonic s.

A cause concerns a scope: the account (""), an endpoint ("@region"), or a quota pool by its key. Replicas tell what
is in their way; a scope that is in every one's way is on hold: nothing is granted there but probes, one at a time
over all replicas. A scope that is in the way of some takes these out of the granting there.

    held ──probe answered, or the replica says it is over──▶ released, a few at a time ──▶ as if it had never been
      ▲───probe failed: the interval doubles───┘
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sidecar.models.replica import Trouble

FIRST_S = 1.0
LONGEST_S = 30.0
HOUR_S = 3600.0
MOST_AN_HOUR = 130
# Of these so many may come before their time: for a Retry-After, or a look that finds something changed.
EARLY_AN_HOUR = 8
# What is released comes back a few at a time: after so long as many at once as there is room for.
RAMP_S = 4.0
RAMP_STARTS = 128
LOOK_AGAIN_S = 0.05


def scopes_of(pool: str) -> tuple[str, str, str]:
    """What can be in the way of a call on a pool: the account, the region's endpoint, the pool itself."""
    return "", "@" + pool.rpartition("@")[2], pool


class Hold:
    """A scope's trouble. `workers` are the replicas that have it, with whether their own look says it is over."""

    __slots__ = (
        "_early",
        "_probes",
        "cause",
        "interval_s",
        "is_inherited",
        "next_at",
        "probe",
        "prober",
        "scope",
        "since",
        "workers",
    )

    def __init__(self, scope: str, cause: str, now: float) -> None:
        self.scope = scope
        self.cause = cause
        self.since = now
        self.workers: dict[str, bool] = {}
        self.interval_s = FIRST_S
        self.next_at = now + FIRST_S
        self.probe: int | None = None
        self.prober: str | None = None
        self.is_inherited = False
        self._probes: deque[float] = deque(maxlen=MOST_AN_HOUR)
        self._early: deque[float] = deque(maxlen=EARLY_AN_HOUR)

    def is_due(self, now: float) -> bool:
        """Whether a call may be tried now."""
        return self.probe is None and now >= self.next_at and not self._is_spent(now) and self._may_be_asked

    @property
    def is_looked_at(self) -> bool:
        """Whether replicas can look without a call: at the account's credentials, at an endpoint."""
        return self.scope[:1] in ("", "@")

    @property
    def _may_be_asked(self) -> bool:
        # A breaker says itself when it lets a call through; nobody's call gets past it before.
        return self.is_looked_at or any(self.workers.values()) or self.is_inherited

    def _is_spent(self, now: float) -> bool:
        return len(self._probes) == MOST_AN_HOUR and now - self._probes[0] < HOUR_S

    def begin(self, seq: int, now: float) -> None:
        self.probe = seq
        self._probes.append(now)

    def fail(self, now: float, *, retry_after_s: float | None = None) -> None:
        """The probe met the same, or nobody knows: the next one comes later."""
        self.probe = self.prober = None
        self.interval_s = min(2 * self.interval_s, LONGEST_S)
        self.next_at = now + self.interval_s
        for worker in self.workers:
            self.workers[worker] = False
        if retry_after_s is not None:
            self.end_interval(now, at=now + max(FIRST_S, retry_after_s))

    def end_interval(self, now: float, *, at: float) -> None:
        """Something says that a call may work from `at` on. Not often: whoever says so may be wrong each time."""
        if at >= self.next_at or (len(self._early) == EARLY_AN_HOUR and now - self._early[0] < HOUR_S):
            return
        self._early.append(now)
        self.next_at = at

    def worker_to_ask(self, among: Collection[str]) -> str | None:
        """Whom to give the probe: who believes that it is over first, then each in turn."""
        asked = [worker for worker in self.workers if worker in among]
        return next((worker for worker in asked if self.workers[worker]), asked[0] if asked else None)

    def rotate(self, worker: str) -> None:
        if worker in self.workers:
            self.workers[worker] = self.workers.pop(worker)


class Holds:
    """All scopes in trouble. `version` changes when what is on hold does; `is_quiet`: nothing is or was lately."""

    def __init__(self) -> None:
        self.by_scope: dict[str, Hold] = {}
        self.version = 0
        self.is_quiet = True
        self._workers: frozenset[str] = frozenset()
        self._on: dict[str, Hold] = {}
        self._ramps: dict[str, tuple[float, int]] = {}

    # What replicas say.

    def set_workers(self, workers: Iterable[str], *, now: float) -> None:
        """The replicas that take jobs and tell of their troubles."""
        known = frozenset(workers)
        for hold in self.by_scope.values():
            if hold.is_inherited:
                # What a predecessor knew holds for everybody until a call says otherwise.
                for worker in known - self._workers:
                    hold.workers.setdefault(worker, False)
        self._workers = known
        for hold in list(self.by_scope.values()):
            gone = [worker for worker in hold.workers if worker not in known]
            for worker in gone:
                del hold.workers[worker]
                if hold.prober == worker:
                    hold.fail(now)
            if not hold.workers and not hold.is_inherited:
                del self.by_scope[hold.scope]
        self._refresh(now)

    def heard(self, worker: str, troubles: Sequence[Trouble], *, now: float) -> None:
        """All that is in a replica's way now."""
        told = {trouble.scope: trouble for trouble in troubles}
        for scope, trouble in told.items():
            hold = self.by_scope.get(scope)
            if hold is None:
                hold = self.by_scope[scope] = Hold(scope, trouble.cause, now)
                if trouble.retry_after_s is not None:
                    hold.end_interval(now, at=now + max(FIRST_S / 2, trouble.retry_after_s))
            hold.cause = trouble.cause
            was_ready = hold.workers.get(worker, False)
            if trouble.is_mended and not was_ready and hold.probe is None:
                hold.workers[worker] = True
                if hold.is_looked_at:
                    hold.end_interval(now, at=now)
            elif worker not in hold.workers or not trouble.is_mended:
                hold.workers[worker] = False
        for scope, hold in list(self.by_scope.items()):
            if worker in hold.workers and scope not in told and not hold.is_inherited:
                self._recovered(hold, worker, now)
        self._refresh(now)

    def answered(self, worker: str, pool: str, *, now: float) -> None:
        """A call of a replica's was answered: nothing of the pool is in its way."""
        for scope in scopes_of(pool):
            hold = self.by_scope.get(scope)
            if hold is not None and (worker in hold.workers or hold.is_inherited):
                hold.is_inherited = False
                self._recovered(hold, worker, now)
        self._refresh(now)

    def probe_over(self, seq: int, *, is_held: bool, now: float, retry_after_s: float | None = None) -> None:
        """The job that was the probe has left its worker; where a call was answered that has been told before."""
        for hold in list(self.by_scope.values()):
            if hold.probe != seq:
                continue
            prober = hold.prober
            hold.fail(now, retry_after_s=retry_after_s)
            if not is_held and hold.is_inherited and prober is not None:
                hold.is_inherited = False
                self._recovered(hold, prober, now)
        self._refresh(now)

    def _recovered(self, hold: Hold, worker: str, now: float) -> None:
        hold.workers.pop(worker, None)
        # Where it works for one it may well for the others: they are asked soon.
        hold.probe = hold.prober = None
        hold.interval_s, hold.next_at = FIRST_S, min(hold.next_at, now + FIRST_S)
        if not hold.workers:
            del self.by_scope[hold.scope]

    def _refresh(self, now: float) -> None:
        on = {scope: hold for scope, hold in self.by_scope.items() if self._workers <= hold.workers.keys()}
        if not self._workers:
            on = {}
        if on.keys() == self._on.keys():
            return
        for scope in self._on.keys() - on.keys():
            self._ramps[scope] = (now, 0)
        for scope in on:
            self._ramps.pop(scope, None)
        self._on = on
        self.is_quiet = False
        self.version += 1

    # What the scheduler asks.

    @property
    def is_total(self) -> bool:
        """Whether no pool at all is open: then there is no use in reading further."""
        return "" in self._on

    def hold_on(self, pool: str) -> Hold | None:
        """What a pool is held for, the widest scope first; None where it is open."""
        return next((hold for scope in scopes_of(pool) if (hold := self._on.get(scope)) is not None), None)

    def hold_of(self, pools: Iterable[str]) -> Hold | None:
        """Why a call that any of the pools could make is held; None where one is open."""
        if not self._on:
            return None
        found: Hold | None = None
        for pool in pools:
            hold = self.hold_on(pool)
            if hold is None:
                return None
            found = found or hold
        return found

    def admits(self, pool: str, now: float) -> bool:
        """Whether a call may begin on the pool: it is open, and what was released is not too much at once."""
        if self._on and self.hold_on(pool) is not None:
            return False
        for scope in scopes_of(pool) if self._ramps else ():
            since, started = self._ramps.get(scope, (now, -1))
            passed_s = now - since
            if started >= 0 and passed_s >= RAMP_S:
                del self._ramps[scope]
                self.is_quiet = not (self._on or self._ramps)
            elif started > RAMP_STARTS * (passed_s / RAMP_S) ** 2:
                return False
        return True

    def started(self, pool: str) -> None:
        """A call begins on the pool."""
        for scope in scopes_of(pool) if self._ramps else ():
            if scope in self._ramps:
                since, started = self._ramps[scope]
                self._ramps[scope] = (since, started + 1)

    def is_any_due(self, now: float) -> bool:
        return any(hold.is_due(now) for hold in self._on.values())

    def pool_to_probe(self, pools: Iterable[str], now: float) -> str | None:
        """The first of the pools that are on hold whose every hold may be tried now."""
        for pool in pools:
            holds = self._holds_on(pool)
            if holds and all(hold.is_due(now) for hold in holds):
                return pool
        return None

    def begin_probe(self, pool: str, seq: int, now: float) -> None:
        """The job of the request `seq` is the probe of all that the pool is held for."""
        for hold in self._holds_on(pool):
            hold.begin(seq, now)

    def _holds_on(self, pool: str) -> list[Hold]:
        return [self._on[scope] for scope in scopes_of(pool) if scope in self._on] if self._on else []

    def next_wake(self, now: float) -> float | None:
        """When something may be tried, or more of what was released may go on; None: not by itself."""
        if self._ramps:
            return now + LOOK_AGAIN_S
        times = [hold.next_at for hold in self._on.values() if hold.probe is None and hold.next_at > now]
        return min(times, default=None)

    # What the leader asks.

    def worker_for(self, seq: int, pool: str, *, now: float) -> str | None:
        """Who gets the call as a probe: of a hold, or of what is in a single replica's way. None: it is none."""
        for scope in scopes_of(pool) if self.by_scope else ():
            hold = self.by_scope.get(scope)
            if hold is None:
                continue
            if hold.probe != seq:
                if scope in self._on or not hold.is_due(now):
                    continue
                hold.begin(seq, now)
            worker = hold.worker_to_ask(self._workers)
            if worker is not None:
                hold.rotate(worker)
                for other in scopes_of(pool):
                    if (also := self.by_scope.get(other)) is not None and also.probe == seq:
                        also.prober = worker
            return worker
        return None

    def avoided(self, pool: str) -> set[str]:
        """Replicas that cannot call the pool."""
        found: set[str] = set()
        for scope in scopes_of(pool) if self.by_scope else ():
            if (hold := self.by_scope.get(scope)) is not None:
                found.update(hold.workers)
        return found

    def shown(self, *, now: float) -> list[tuple[str, str, float, bool]]:
        """Scope, cause, seconds since, and whether it is everybody's, of all there are."""
        return [(h.scope, h.cause, now - h.since, h.scope in self._on) for h in self.by_scope.values()]

    # What a successor needs.

    def snapshot(self, *, now: float) -> list[list[Any]]:
        return [[hold.scope, hold.cause, round(now - hold.since, 3)] for hold in self._on.values()]

    def restore(self, saved: Sequence[Any], *, now: float, age_s: float) -> None:
        """Go on from a predecessor's holds. What is none is passed over: the first call will tell."""
        for entry in saved:
            if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], int | float)):
                continue
            hold = self.by_scope[str(entry[0])] = Hold(str(entry[0]), str(entry[1]), now)
            hold.since, hold.is_inherited = now - float(entry[2]) - age_s, True
            hold.next_at = now
        self._refresh(now)


def by_cause(holds: Mapping[str, Hold]) -> dict[str, int]:
    """How many scopes are in trouble for each cause."""
    counts: dict[str, int] = {}
    for hold in holds.values():
        counts[hold.cause] = counts.get(hold.cause, 0) + 1
    return counts
