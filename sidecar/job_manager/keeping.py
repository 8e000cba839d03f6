"""Keeping the requests of jobs that failed, so that an operator can run them again."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sidecar.errors import BusRefused, BusUnavailable, SidecarError
from sidecar.models.job import JobState
from sidecar.models.result import ErrorInfo
from sidecar.ports.bus import Clock, DeadLetters, Intake, JobStore, StoredState
from sidecar.runtime.lifecycle import within
from sidecar.runtime.retry import keep_trying

log = logging.getLogger(__name__)

# How long a job's end may wait for its request to be kept; after one that took longer, none waits for a while.
LETTER_S = 1.0
REST_S = 10.0
# What a guardrail stopped is not kept anywhere.
NEVER_KEPT = frozenset({"guardrail_blocked"})


class KeepRule(NamedTuple):
    """`dead_s`: how long requests of failed jobs are kept (s), 0 for not at all; crash loops have their own time.
    `of_tenant` says whether a tenant's requests may be kept.
    """

    dead_s: int
    of_tenant: Callable[[str], bool]


class RequestKeeper:
    """Puts the requests of failed jobs among the dead letters, before they leave the queue.

    Those of a crash loop are kept whatever it takes: another replica may go down with the job before somebody has
    looked at it. All others are kept if that takes a moment only. `counts` counts what became of them.
    """

    def __init__(
        self, *, dead: DeadLetters, intake: Intake, store: JobStore, clock: Clock, rule: KeepRule
    ) -> None:
        self._dead = dead
        self._intake = intake
        self._store = store
        self._clock = clock
        self._rule = rule
        self._rests_until = float("-inf")
        self.counts: Counter[str] = Counter()

    async def keep(self, state: JobState) -> None:
        """Keep the request of a job that has ended, where it is to be kept. Raises nothing for the bus's sake."""
        error = state.result.error if state.result is not None else None
        if state.state != "failed" or error is None or error.code in NEVER_KEPT:
            return
        if not self._rule.of_tenant(state.tenant):
            return
        if error.code == "crash_loop":
            await self._keep_for_certain(state, error)
        elif self._rule.dead_s:
            await self._keep_if_soon(state, error)

    async def _keep_for_certain(self, state: JobState, error: ErrorInfo) -> None:
        try:
            # Before the request is deleted, however long it takes: a crash loop cannot be looked into without it.
            await keep_trying("keeping a request", lambda: self._put(state, error, None), clock=self._clock)
        except BusRefused:
            log.exception("a request could not be kept in LLM_DEAD", extra={"job": state.job})

    async def _keep_if_soon(self, state: JobState, error: ErrorInfo) -> None:
        if self._clock.monotonic() < self._rests_until:
            self.counts["not_kept"] += 1
            return
        try:
            kept = self._put(state, error, self._rule.dead_s)
            await within(self._clock, LETTER_S, kept, what="keeping a request in LLM_DEAD")
        except BusUnavailable as e:
            self._rests_until = self._clock.monotonic() + REST_S
            self._not_kept(state, e)
        except BusRefused as e:
            self._not_kept(state, e)

    def _not_kept(self, state: JobState, error: SidecarError) -> None:
        self.counts["not_kept"] += 1
        log.warning(
            "the request of a failed job is not kept, so it cannot be run again from LLM_DEAD",
            extra={"tenant": state.tenant, "job": state.job, "error": error.message},
        )

    async def _put(self, state: JobState, error: ErrorInfo, keep_s: int | None) -> None:
        stored = await self._intake.get(state.request_seq)
        if stored is None:
            return
        history = history_of(await self._store.history(state.tenant, state.job)) if keep_s is None else ()
        await self._dead.put(
            state.job, stored, reason=error.message, error=error.code, history=history, keep_s=keep_s
        )
        self.counts["buried" if keep_s is None else "kept"] += 1


def history_of(revisions: Sequence[StoredState]) -> list[dict[str, Any]]:
    """What a job's documents tell of its attempts, one entry each: who, since when, how far."""
    attempts: dict[int, dict[str, Any]] = {}
    for stored in revisions:
        state = stored.state
        if state.is_terminal or state.owner is None:
            continue
        entry = attempts.setdefault(
            state.attempt, {"attempt": state.attempt, "owner": state.owner, "claimed": state.updated}
        )
        entry |= {"state": state.state, "updated": state.updated, "crashes": state.crashes}
    return list(attempts.values())
