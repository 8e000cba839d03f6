"""The service's quotas: one pool per model and region, by the rules that AWS documents.

At the start of a call, input + maxTokens are taken from the tokens a minute. At its end, that is given back and
input + cache writes + burndown x output is taken; cache reads are free. Requests a minute, calls at once and
tokens a day are optional limits beside it. A pool refills evenly and holds `burst_s` seconds of its quota.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from sidecar.emulator import exceptions
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.traits import strip_profile

_MINUTE_S = 60.0
_DAY_S = 86_400.0
_ROUNDING = 1e-6


class QuotaRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of each model and region that the globs match, every pair with a pool of its own. None: no limit."""

    model: str = "*"
    region: str = "*"
    tokens_per_minute: float | None = None
    requests_per_minute: float | None = None
    max_concurrency: int | None = None
    tokens_per_day: float | None = None
    burndown: float = 1.0
    burst_s: float = _MINUTE_S
    retry_after: float | None = None

    def is_match(self, model_id: str, region: str) -> bool:
        return fnmatchcase(region, self.region) and (
            fnmatchcase(model_id, self.model) or fnmatchcase(strip_profile(model_id), self.model)
        )


@dataclass(slots=True)
class _Bucket:
    per_second: float
    capacity: float
    level: float
    refilled_at: float

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.refilled_at) * self.per_second)
        self.refilled_at = now

    def has(self, amount: float) -> bool:
        return self.level >= amount - _ROUNDING


@dataclass(slots=True)
class Reservation:
    """What a call holds until it is settled."""

    pool: "Pool"
    tokens: float
    tenant: str
    is_open: bool = True


@dataclass(slots=True)
class PoolStats:
    calls: int = 0
    throttles: int = 0
    settled_tokens: float = 0.0
    active: int = 0
    max_active: int = 0
    by_tenant: dict[str, float] = field(default_factory=dict)
    by_second: dict[int, float] = field(default_factory=dict)


class Pool:
    """Quota of one model in one region. Time is the caller's, in seconds of one monotonic clock."""

    def __init__(self, rule: QuotaRule, now: float) -> None:
        self.rule = rule
        self.started_at = now
        self.stats = PoolStats()
        self._tokens = _make_bucket(rule.tokens_per_minute, rule.burst_s, now)
        self._requests = _make_bucket(rule.requests_per_minute, rule.burst_s, now)
        self._day_used = 0.0
        self._day_began = now

    def reserve(self, tokens: float, *, tenant: str, now: float) -> Reservation:
        """Take a request and `tokens` (input + maxTokens). Raises Refusal (429) and takes nothing."""
        refused = self._find_refusal(tokens, now)
        if refused:
            self.stats.throttles += 1
            raise Refusal("throttling", refused, retry_after=self.rule.retry_after)
        if self._tokens:
            self._tokens.level -= tokens
        if self._requests:
            self._requests.level -= 1
        stats = self.stats
        stats.calls += 1
        stats.active += 1
        stats.max_active = max(stats.max_active, stats.active)
        return Reservation(self, tokens, tenant)

    def settle(
        self,
        reservation: Reservation,
        *,
        input_tokens: int,
        cache_write_tokens: int,
        output_tokens: int,
        now: float,
    ) -> None:
        """Replace what was reserved by what was used. A second time does nothing."""
        if not reservation.is_open:
            return
        reservation.is_open = False
        used = input_tokens + cache_write_tokens + self.rule.burndown * output_tokens
        if self._tokens:
            self._tokens.refill(now)
            self._tokens.level = min(self._tokens.capacity, self._tokens.level + reservation.tokens - used)
        self._day_used += used
        stats = self.stats
        stats.active -= 1
        stats.settled_tokens += used
        stats.by_tenant[reservation.tenant] = stats.by_tenant.get(reservation.tenant, 0.0) + used
        second = int(now - self.started_at)
        stats.by_second[second] = stats.by_second.get(second, 0.0) + used

    def snapshot(self, now: float) -> dict[str, Any]:
        """Counters, JSON-able. `utilisation` is settled tokens over what was refilled since the pool began."""
        rule, stats = self.rule, self.stats
        elapsed_s = max(now - self.started_at, 1e-9)
        offered = (rule.tokens_per_minute or 0.0) / _MINUTE_S * elapsed_s
        if self._tokens:
            self._tokens.refill(now)
        return {
            "limits": {k: v for k, v in msgspec.to_builtins(rule).items() if v is not None},
            "calls": stats.calls,
            "throttles": stats.throttles,
            "settled_tokens": stats.settled_tokens,
            "active": stats.active,
            "max_active": stats.max_active,
            "available_tokens": self._tokens.level if self._tokens else None,
            "elapsed_s": elapsed_s,
            "utilisation": stats.settled_tokens / offered if offered else None,
            "by_tenant": dict(stats.by_tenant),
            "settled_by_second": [[second, tokens] for second, tokens in sorted(stats.by_second.items())],
        }

    def _find_refusal(self, tokens: float, now: float) -> str | None:
        rule = self.rule
        if rule.tokens_per_day is not None:
            if now - self._day_began >= _DAY_S:
                self._day_began, self._day_used = now, 0.0
            if self._day_used + tokens > rule.tokens_per_day:
                return exceptions.THROTTLED_DAY
        if rule.max_concurrency is not None and self.stats.active >= rule.max_concurrency:
            return exceptions.THROTTLED_CONNECTIONS
        for bucket, amount, message in (
            (self._requests, 1.0, exceptions.THROTTLED_REQUESTS),
            (self._tokens, tokens, exceptions.THROTTLED_TOKENS),
        ):
            if bucket:
                bucket.refill(now)
                if not bucket.has(amount):
                    return message
        return None


def _make_bucket(per_minute: float | None, burst_s: float, now: float) -> _Bucket | None:
    if per_minute is None:
        return None
    capacity = per_minute * burst_s / _MINUTE_S
    return _Bucket(per_minute / _MINUTE_S, capacity, capacity, now)


class Quotas:
    """All pools; the first rule that matches a model and a region makes their pool."""

    def __init__(self, rules: Sequence[QuotaRule], *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.load(rules)

    def load(self, rules: Sequence[QuotaRule]) -> None:
        """Start over, full, with other rules. Calls in flight settle with the pools they came from."""
        self._rules = list(rules)
        self._pools: dict[tuple[str, str], Pool | None] = {}

    def reserve(self, model_id: str, region: str, *, tokens: float, tenant: str) -> Reservation | None:
        """None where there is no limit. Raises Refusal."""
        if not self._rules:
            return None
        key = (model_id, region)
        if key not in self._pools:
            rule = next((r for r in self._rules if r.is_match(model_id, region)), None)
            self._pools[key] = Pool(rule, self._clock()) if rule else None
        pool = self._pools[key]
        return pool.reserve(tokens, tenant=tenant, now=self._clock()) if pool else None

    def settle(
        self, reservation: Reservation, *, input_tokens: int, cache_write_tokens: int, output_tokens: int
    ) -> None:
        """Settle a reservation with what the call used."""
        reservation.pool.settle(
            reservation,
            input_tokens=input_tokens,
            cache_write_tokens=cache_write_tokens,
            output_tokens=output_tokens,
            now=self._clock(),
        )

    def snapshot(self) -> dict[str, Any]:
        """All pools' counters under `model|region`."""
        now = self._clock()
        return {f"{model}|{region}": pool.snapshot(now) for (model, region), pool in self._pools.items() if pool}
