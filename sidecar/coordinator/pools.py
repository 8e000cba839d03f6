"""The memory of the coordinator: each pool's breaker and speed, and where prompt caches are warm."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

from sidecar.coordinator import health
from sidecar.coordinator.health import CLOSED, Breaker, Caller, Phase, Speed, Success
from sidecar.errors import SidecarError

WARM_S = 300.0
MAX_WARM = 10_000
MAX_POOLS = 4_096


Observation = Success | SidecarError
Begun = Literal["", "call", "probe"]
_CALL: Begun = "call"


class Pools:
    """Mutable and bounded: a request may name any account's ARN, so the pools that were called longest ago go.

    `troubled` are those whose breaker is other than closed, or was when they were called last. All of it survives
    a reload of the policy.
    """

    def __init__(self) -> None:
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        self._speeds: dict[str, Speed] = {}
        self.troubled: set[str] = set()
        self._warm: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def begin(self, pool: str, *, now: float, caller: Caller | None = None) -> Begun:
        """Whether a call may go, and as what; takes a half-open breaker's probe. Empty: it may not."""
        breaker, begun = self._breakers.get(pool, CLOSED), _CALL
        if pool in self.troubled:
            phase = health.phase(breaker, now)
            if phase == "open" or (phase == "half_open" and self._leaves_probe(breaker, caller, now)):
                return ""
            if phase == "half_open":
                breaker, begun = health.probing(breaker, now), "probe"
        self._keep(pool, breaker)
        return begun

    def observe(self, pool: str, outcome: Observation, *, now: float, caller: Caller | None = None) -> None:
        """Learn from the end of a call."""
        breaker = self._breakers.get(pool, CLOSED)
        if isinstance(outcome, SidecarError):
            self._keep(pool, health.failed(breaker, outcome, now, caller))
            return
        self._keep(pool, health.succeeded(breaker, now, None if caller is None else caller.tenant))
        before = self._speeds.get(pool) or Speed()
        self._speeds[pool] = health.measured(
            before, first_token_s=outcome.first_token_s, tokens_per_s=outcome.tokens_per_s
        )

    def _keep(self, pool: str, breaker: Breaker) -> None:
        self._breakers[pool] = breaker
        self._breakers.move_to_end(pool)
        if breaker.until == 0.0:
            self.troubled.discard(pool)
        else:
            self.troubled.add(pool)
        if len(self._breakers) > MAX_POOLS:
            oldest, _ = self._breakers.popitem(last=False)
            self._speeds.pop(oldest, None)
            self.troubled.discard(oldest)

    def warm(self, prefixes: Iterable[bytes], pool: str, *, now: float) -> None:
        """Remember where prompts that begin so are cached now."""
        for prefix in prefixes:
            self._warm[prefix] = (pool, now + WARM_S)
            self._warm.move_to_end(prefix)
        while len(self._warm) > MAX_WARM:
            self._warm.popitem(last=False)

    def warm_pool(self, prefixes: Iterable[bytes], *, now: float) -> str | None:
        """Where the first of `prefixes` is cached that is cached anywhere; they come longest first."""
        for prefix in prefixes:
            pool, until = self._warm.get(prefix, ("", 0.0))
            if now < until:
                return pool
        return None

    def speed(self, pool: str) -> Speed:
        return self._speeds.get(pool, Speed())

    def phase(self, pool: str, now: float) -> Phase:
        breaker = self._breakers.get(pool)
        return "closed" if breaker is None else health.phase(breaker, now)

    def retry_at(self, pool: str, now: float, caller: Caller | None = None) -> float:
        """When to try a call, or to look again whether one may be tried; `now` where it may at once."""
        if pool not in self.troubled:
            return now
        breaker = self._breakers.get(pool, CLOSED)
        if health.phase(breaker, now) == "half_open" and self._leaves_probe(breaker, caller, now):
            return now + health.PROBE_LOOK_S
        return health.look_at(breaker, now)

    @staticmethod
    def _leaves_probe(breaker: Breaker, caller: Caller | None, now: float) -> bool:
        """Whether a job leaves the probe to others: its own request may be what fails."""
        return caller is not None and not caller.is_clean and now < breaker.until + health.UNCLEAN_WAIT_S

    def reason(self, pool: str) -> str:
        return self._breakers.get(pool, CLOSED).reason or "calls fail"

    def is_suspect(self, pool: str) -> bool:
        """Whether the last calls all failed, though that is not evidence enough to open the breaker."""
        return self._breakers.get(pool, CLOSED).failures >= health.CONSECUTIVE_FAILURES

    def phases(self, now: float) -> dict[str, Phase]:
        """Of every pool that was ever called."""
        return {pool: health.phase(breaker, now) for pool, breaker in sorted(self._breakers.items())}
