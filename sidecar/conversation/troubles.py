"""What is in the way of this replica's calls: found by calls that fail, looked at without calls, told once."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sidecar.errors import ACCOUNT_CAUSES, HoldCause, SidecarError, StreamInterrupted, Temporary
from sidecar.models.holds import remedy_of, said_of
from sidecar.models.profile import Candidate
from sidecar.models.replica import Trouble
from sidecar.ports.bus import Clock

log = logging.getLogger(__name__)

LOOK_S = 1.0
# What a look says is over, and no call contradicts for so long, is over.
MENDED_S = 900.0
Look = Callable[[HoldCause, str | None], Awaitable[bool | None]]
RetryAt = Callable[[str], float]


class _Found:
    """One trouble. `is_trusted`: a look that says it is over is believed; not after a call has shown otherwise."""

    __slots__ = ("cause", "is_mended", "is_trusted", "mended_at", "retry_after_s", "scope", "since", "why")

    def __init__(self, cause: HoldCause, scope: str, *, since: float, why: str) -> None:
        self.cause = cause
        self.scope = scope
        self.since = since
        self.why = why
        self.is_mended = False
        self.mended_at = 0.0
        self.is_trusted = True
        self.retry_after_s: float | None = None


class Troubles:
    """See the module. `look` looks at a cause, `retry_at(pool)` is when its breaker lets a call through, both of
    this replica; `on_change` is called when `report` says something else than before.
    """

    def __init__(self, *, clock: Clock, look: Look, retry_at: RetryAt, on_change: Callable[[], None]) -> None:
        self._clock = clock
        self._look = look
        self._retry_at = retry_at
        self._on_change = on_change
        self.found: dict[str, _Found] = {}
        self._began: dict[str, float] = {}
        self.began: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def report(self) -> tuple[Trouble, ...]:
        """All there are, for the scheduler."""
        return tuple(
            Trouble(
                cause=found.cause,
                scope=found.scope,
                since=found.since,
                is_mended=found.is_mended,
                retry_after_s=found.retry_after_s,
            )
            for found in self.found.values()
        )

    @property
    def now(self) -> dict[str, float]:
        """Each cause there is, with the seconds since it was found."""
        return {cause: max(0.0, self._clock.now() - since) for cause, since in self._began.items()}

    @property
    def figures(self) -> tuple[dict[str, float], Counter[str], Counter[str]]:
        """By cause: for how long it has stood (s), how often it began, how long in all that have ended (s)."""
        return self.now, self.began, self.seconds

    def outage(self) -> str | None:
        """What of account and endpoints is in the way, in words for operators; None when nothing, or when a look
        says that it is over.
        """
        told = [
            f"{_named(found)}: {remedy_of(found.cause)}"
            for found in self.found.values()
            if found.scope[:1] in ("", "@") and not found.is_mended
        ]
        return "; ".join(dict.fromkeys(told)) or None

    def failed(self, candidate: Candidate, error: SidecarError) -> None:
        """A call failed: note what concerns more than the call, or that nothing of the kind is in the way."""
        if error.hold is not None:
            self.met(error, region=candidate.route.region)
        elif self.found and ("http_status" in error.details or isinstance(error, StreamInterrupted)):
            self._over("", "@" + candidate.route.region)

    def met(self, error: SidecarError, *, region: str) -> None:
        """Something of the account or of a region's endpoint is in the way of calls."""
        if error.hold is not None:
            scope = "" if error.hold in ACCOUNT_CAUSES else "@" + region
            after_s = error.retry_after if isinstance(error, Temporary) else None
            self._note(error.hold, scope, why=error.for_operator, retry_after_s=after_s)

    def shut(self, pool: str) -> None:
        """A job has nothing left to call, and the breaker of this pool is one reason."""
        self._note("model_unavailable", pool, why=f"the breaker of {pool} is open")

    def answered(self, candidate: Candidate) -> None:
        """A call was answered whole. Nothing changes while nothing is `found`."""
        self._over("", "@" + candidate.route.region, candidate.route.pool)

    async def watch(self) -> None:
        """Look every second at what can be looked at without a call."""
        while True:
            await self._clock.sleep(LOOK_S)
            if self.found:
                await asyncio.gather(*map(self._look_at, list(self.found.values())))

    async def _look_at(self, found: _Found) -> None:
        if found.is_mended and self._clock.now() - found.mended_at >= MENDED_S:
            self._over(found.scope)
            return
        if found.scope[:1] not in ("", "@"):
            self._look_at_breaker(found)
            return
        seen: bool | None = None
        with suppress(SidecarError):
            seen = await self._look(found.cause, found.scope[1:] or None)
        if self.found.get(found.scope) is not found or seen is None:
            return
        if not seen:
            found.is_trusted = True
        is_mended = seen and found.is_trusted
        if is_mended and not found.is_mended:
            self._mend(found)
        elif found.is_mended and not seen:
            found.is_mended = False
            self._on_change()

    def _look_at_breaker(self, found: _Found) -> None:
        if not found.is_mended and self._retry_at(found.scope) <= self._clock.now():
            self._mend(found)

    def _mend(self, found: _Found) -> None:
        found.is_mended, found.mended_at = True, self._clock.now()
        self._on_change()

    def _note(self, cause: HoldCause, scope: str, *, why: str, retry_after_s: float | None = None) -> None:
        found = self.found.get(scope)
        if found is None or found.cause != cause:
            if found is not None:
                self._end(self.found.pop(scope))
            is_first = all(other.cause != cause for other in self.found.values())
            found = self.found[scope] = _Found(cause, scope, since=self._clock.now(), why=why)
            found.retry_after_s = retry_after_s
            if is_first:
                self._began[cause] = found.since
                self.began[cause] += 1
                log.error(
                    "no calls can be made: jobs are held",
                    extra={"cause": cause, "scope": _shown(scope), "error": why, "remedy": remedy_of(cause)},
                )
            self._on_change()
        elif found.is_mended:
            found.is_mended, found.is_trusted = False, scope == ""
            self._on_change()

    def _over(self, *scopes: str) -> None:
        ended = [self.found.pop(scope) for scope in scopes if scope in self.found]
        for found in ended:
            self._end(found)
        if ended:
            self._on_change()

    def _end(self, found: _Found) -> None:
        """Once for each cause: when the last of what it concerned is over."""
        if any(other.cause == found.cause for other in self.found.values()):
            return
        held_s = max(0.0, self._clock.now() - self._began.pop(found.cause, found.since))
        self.seconds[found.cause] += round(held_s)
        log.warning(
            "calls can be made again: held jobs go on",
            extra={"cause": found.cause, "held_s": round(held_s, 1)},
        )


def _named(found: _Found) -> str:
    said = said_of(found.cause)
    return said if not found.scope else f"{said} ({_shown(found.scope)})"


def _shown(scope: str) -> str:
    return scope.removeprefix("@") or "account"
