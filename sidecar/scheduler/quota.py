"""Quota pools: what Bedrock lets one account call of one model or profile in one region, and how it counts.

Tokens are deducted at the start of a call (input + max_tokens) and corrected at its end (input + cache writes +
burndown × output; cache reads are free); requests and concurrent calls are bounded beside them, tokens a day
where the limits say so. A pool runs at 98 % of its quota with a burst of 15 s. Refusals teach: a 429 takes the
rate × 0.9 at most once a second and pauses the pool, sustained 503 × 0.5; both grow back by equal steps. A pool
without a known quota starts at a level typical of accounts and doubles each second while it is the limit, until
the first refusal: that one, and each further, takes it to 0.9 of what was served of late (within 0.5 and 0.9 of
where it was), and from there it grows by equal steps. Times are monotonic seconds, except where they say epoch.
Source: the Bedrock user guide's pages on token burndown and quotas.
"""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

from sidecar.models.profile import QuotaLimits
from sidecar.scheduler.buckets import Bucket, Recent
from sidecar.scheduler.refusals import NAMED_SHARE, STRAY_SHARE, WINDOW_S, LearnedBound, Limit, RecentCalls

UTILISATION = 0.98
BURST_S = 15.0
START_TOKENS_PER_MINUTE = 1_000_000.0
MOST_TOKENS_PER_MINUTE = 1e9
LEAST_TOKENS_PER_MINUTE = 600.0
SERVED_WINDOW_S = 10
LARGEST_FALL = 0.5
RECOVERY_PER_S = 0.1 / 60
REGION_HOLD_S = 15.0
REGION_ERRORS = 3
REGION_WINDOW_S = 10.0
MIN_FACTOR = 0.02
MAX_RETRY_AFTER_S = 900.0
NOT_READY_S = 5.0
PAUSE_S = 0.5
MAX_DOUBLINGS = 5
CALM_S = 20.0
KEPT_OF_MINUTE = 0.9
DAILY_PROBE_S = 3_600.0
DAY_S = 86_400.0
SECONDS_STEP = 0.1
_ROUNDING = 1e-6
SETUP_TOKENS = 50

Throttle = Literal["quota", "region", "daily", "not_ready"]


class Pool:
    """One quota pool. `fits` asks, `reserve` debits, then exactly one of `settle` and `undo`."""

    __slots__ = (
        "bound_calls",
        "bound_requests",
        "burndown",
        "closed_until",
        "concurrency",
        "day_ends",
        "day_used",
        "errors",
        "factor",
        "has_refused",
        "hold_until",
        "in_flight",
        "is_learning",
        "is_probing",
        "key",
        "largest",
        "learned",
        "limited_at",
        "limits",
        "minute_at",
        "minute_before",
        "minute_used",
        "opened_at",
        "per_day",
        "prices",
        "recent",
        "recovered_at",
        "refused_in_a_row",
        "requests",
        "seconds_per_token",
        "served",
        "slots",
        "slowed_at",
        "step",
        "throttled_lately",
        "throttles",
        "timed",
        "tokens",
        "used",
        "wanted",
        "wanted_by",
    )

    prices: tuple[float, float, float]
    """What a token, a request and a second in a slot cost, in pool-seconds."""

    def __init__(self, key: str, limits: QuotaLimits, *, now: float, epoch: float = 0.0) -> None:
        self.key = key
        self.slots = 1
        self.is_learning = False
        self.learned = START_TOKENS_PER_MINUTE
        self.has_refused = False
        self.step = 0.0
        self.served = Recent(SERVED_WINDOW_S)
        self.recent = RecentCalls()
        self.bound_requests = LearnedBound()
        self.bound_calls = LearnedBound()
        self.factor = 1.0
        self.in_flight = 0
        self.closed_until = self.hold_until = self.slowed_at = self.limited_at = -inf
        self.recovered_at = now
        self.errors: list[float] = []
        self.is_probing = False
        self.refused_in_a_row = 0
        self.day_ends = now + DAY_S - epoch % DAY_S
        self.day_used = 0.0
        self.used = self.minute_used = self.minute_before = 0.0
        self.minute_at = now - now % 60
        self.opened_at = now
        self.wanted = self.wanted_by = 0.0
        self.throttles = 0
        self.throttled_lately = Recent(60)
        # Before any call was seen, time costs nothing: a guess that is too high would lift newcomers above the
        # jobs that run, whose charges then shrink; one too low corrects itself when they end.
        self.seconds_per_token = 0.0
        self.timed = 0
        self.tokens = Bucket(0.0, 0.0, now=now)
        self.requests: Bucket | None = None
        self.set_limits(limits, now=now)
        self.tokens.level = self.tokens.cap

    def set_limits(self, limits: QuotaLimits, *, now: float) -> None:
        """Take new limits; what is reserved stays reserved."""
        self.limits = limits
        self.burndown = limits.burndown
        self.per_day = float(limits.tokens_per_day or inf)
        self.largest = float(limits.tokens_per_minute or inf)
        self.is_learning = limits.tokens_per_minute is None or self._is_lowered
        self._set_bounds(now)
        self._set_rates()

    @property
    def _is_lowered(self) -> bool:
        return self.factor < 1.0 or self.bound_requests.value < inf or self.bound_calls.value < inf

    @property
    def requests_per_minute(self) -> float:
        """As configured, or lower where refusals named it; infinite where neither."""
        return min(float(self.limits.requests_per_minute or inf), self.bound_requests.value)

    def _set_bounds(self, now: float) -> None:
        """What requests and concurrent calls are bounded by now."""
        concurrency = min(self.limits.max_concurrency or inf, self.bound_calls.value)
        self.concurrency = concurrency if concurrency == inf else max(1, int(concurrency))
        if self.requests_per_minute == inf:
            self.requests = None
        elif self.requests is None:
            burst = max(1.0, self.requests_per_minute * UTILISATION * BURST_S / 60)
            self.requests = Bucket(0.0, burst, now=now)

    @property
    def tokens_per_minute(self) -> float:
        """The quota as configured, or as learned so far."""
        return float(self.limits.tokens_per_minute or self.learned)

    def _set_rates(self) -> None:
        self._set_prices()
        rate = self.tokens_per_minute * UTILISATION * self.factor / 60
        self.tokens.rate = rate
        self.wanted = min(self.wanted, rate * 60)
        self.tokens.cap = max(rate * BURST_S, self.wanted, 1.0)
        if self.requests is not None:
            requests = self.requests_per_minute * UTILISATION / 60
            self.requests.rate = requests
            self.requests.cap = max(requests * BURST_S, 1.0)
            self.requests.level = min(self.requests.level, self.requests.cap)

    def set_slots(self, slots: int) -> None:
        """How many slots there are. The scarcer of slots and the pool's concurrent calls is what counts."""
        self.slots = slots
        self._set_prices()

    def _set_prices(self) -> None:
        concurrency = min(self.concurrency, self.slots) or 1
        self.prices = (60 / self.tokens_per_minute, 60 / self.requests_per_minute, 1 / concurrency)

    def need(self, *, input_tokens: int, max_tokens: int, predicted_output: float) -> float:
        """Tokens to reserve: AWS deducts input + max_tokens, but the end can cost more than that."""
        return input_tokens + max(max_tokens, self.burndown * predicted_output)

    def fits(self, need: float, now: float) -> bool:
        """Whether a call that reserves `need` tokens may start now. If not, the bucket fills up to it."""
        if now < self.closed_until or self.in_flight >= (1 if self.is_probing else self.concurrency):
            return False
        tokens = self.tokens
        if now > tokens.at:
            if self.is_learning or self.requests is not None or now >= self.day_ends:
                self.refill(now)
            else:
                tokens.refill(now)
        if tokens.level < need - _ROUNDING:
            self.limited_at = now
            if tokens.level < self._target(need) - _ROUNDING:
                return False
        if self.day_used + need > self.per_day:
            return False
        return self.requests is None or self.requests.level >= 1 - 1e-9

    def _target(self, need: float) -> float:
        """What the bucket has to hold before a call of `need` starts; it grows to that for the head that waits.

        Less than `need` where that is more than a minute brings: the rest becomes a debt. Fixed at the first
        question, since a target that moves with a learned rate might never be reached.
        """
        if need != self.wanted_by:
            self.wanted_by = need
            self.wanted = min(need, max(self.tokens.rate * 60, 1.0))
            self.tokens.cap = max(self.tokens.rate * BURST_S, self.wanted, 1.0)
        return self.wanted

    def wait_s(self, need: float, *, now: float) -> float:
        """Seconds until `fits` can become true by itself; infinite when only an end of a call can help."""
        if self.in_flight >= (1 if self.is_probing else self.concurrency):
            return inf
        self.refill(now)
        wait = self.tokens.wait_s(self._target(need))
        if self.requests is not None:
            wait = max(wait, self.requests.wait_s(1.0))
        if self.day_used + need > self.per_day:
            wait = max(wait, self.day_ends - now)
        return max(wait, self.closed_until - now, 0.0)

    def refill(self, now: float) -> None:
        """Let flow in what the time since the last call has brought."""
        if self.is_learning:
            self._recover(now)
        if now >= self.day_ends:
            self.day_used = 0.0
            self.day_ends += DAY_S * (1 + (now - self.day_ends) // DAY_S)
        self.tokens.refill(now)
        if self.requests is not None:
            self.requests.refill(now)

    def reserve(self, need: float, now: float) -> None:
        """Debit the start of a call."""
        tokens = self.tokens
        if now > tokens.at:
            self.refill(now)
        tokens.level -= need
        if self.wanted:
            self.wanted = self.wanted_by = 0.0
            tokens.cap = max(tokens.rate * BURST_S, 1.0)
            tokens.level = min(tokens.level, tokens.cap)
        if self.requests is not None:
            self.requests.level -= 1
        self.in_flight += 1
        self.recent.made(now)
        self.day_used += need

    def forget_debit(self, need: float) -> None:
        """Undo in the buckets what `reserve` just did, for a call that was debited before; it stays in flight."""
        self.tokens.level += need
        self.day_used -= need
        if self.requests is not None:
            self.requests.level += 1

    def settle(self, reserved: float, actual: float, now: float) -> None:
        """Correct a debit at the end of its call, to what was used."""
        self.in_flight -= 1
        if now > self.tokens.at:
            self.refill(now)
        self.tokens.add(reserved - actual)
        self.day_used += actual - reserved
        self.used += actual
        if self.is_learning:
            self.served.add(actual, now)
        if now >= self.minute_at + 60:
            self._next_minute(now)
        self.minute_used += actual

    def _next_minute(self, now: float) -> None:
        self.minute_before = self.minute_used if now < self.minute_at + 120 else 0.0
        self.minute_used = 0.0
        self.minute_at = now - now % 60

    def used_per_minute(self, now: float) -> float:
        """Tokens settled in the last minute; the older part of it as an average."""
        if now >= self.minute_at + 60:
            self._next_minute(now)
        return self.minute_used + self.minute_before * (1 - (now - self.minute_at) / 60)

    def undo(self, reserved: float, *, now: float) -> None:
        """Take a debit back: the call was never made, or refused before it counted."""
        self.in_flight -= 1
        self.tokens.refill(now)
        self.tokens.add(reserved)
        self.day_used -= reserved
        if self.requests is not None:
            self.requests.add(1.0)

    def answered(self, output_tokens: float, seconds: float, *, granted_at: float) -> None:
        """Remember how long answers take, for the prediction of time in a slot.

        Only a call that was granted after the last refusal shows that the quota has room again.
        """
        if granted_at > self.slowed_at:
            self.refused_in_a_row = 0
        seen = seconds / (output_tokens + SETUP_TOKENS)
        self.timed += 1
        self.seconds_per_token += max(SECONDS_STEP, 1 / self.timed) * (seen - self.seconds_per_token)

    def throttled(
        self, kind: Throttle, *, now: float, retry_after: float | None, limit: Limit | None = None
    ) -> None:
        """Learn from a refusal; `retry_after` is the other side's wish in seconds, `limit` what it named."""
        self.throttles += 1
        self.throttled_lately.add(1, now)
        self.recent.was_refused(now)
        self.refill(now)
        self.recovered_at = now
        pause = min(retry_after or 0.0, MAX_RETRY_AFTER_S)
        if kind == "daily":
            pause = max(pause, min(self.day_ends - now, DAILY_PROBE_S))
            self.is_probing = True
        elif kind == "not_ready":
            pause = pause or NOT_READY_S
            self.is_probing = True
        elif kind == "region":
            self._region_refused(now)
        else:
            paused = self._quota_refused(now, limit)
            # What a pool that answers hundreds of calls asks of one of them is that call's own matter.
            pause = max(pause, paused) if paused else 0.0
        self.closed_until = max(self.closed_until, now + pause)

    def _quota_refused(self, now: float, limit: Limit | None) -> float:
        """Slow down once for all refusals of a second. Returns a pause in seconds, longer each time in a row.

        Without it each refused call would give its tokens back, and the next one run into the same wall. A pool
        of which few calls are refused does not pause: it slows by what it is over, if that was named or is what
        held calls back here.
        """
        share, is_busy = self.recent.share(now), self.recent.is_busy(now)
        is_ours = limit in (None, "tokens") and now - self.limited_at <= WINDOW_S
        is_stray = is_busy and share < STRAY_SHARE and not is_ours
        if now >= self.slowed_at + 1.0:
            self.slowed_at = now
            if limit == "requests":
                self._bound(self.bound_requests, 60 * self.recent.per_s(now), share, now)
            elif limit == "concurrency":
                # The refused call itself is still among them.
                self._bound(self.bound_calls, self.in_flight - 1, share, now)
            elif not is_stray or (limit == "tokens" and share >= NAMED_SHARE):
                # A whole minute's answers are what any way of counting gave; refusals in a row say no more.
                least = KEPT_OF_MINUTE * self.used_per_minute(now) if now >= self.opened_at + 60 else 0.0
                self._slow(0.9 if self.limits.tokens_per_minute else self._fall(now), least=least)
                # The other side's bucket is empty, so ours is: a burst now would only be refused again.
                self.tokens.level = min(self.tokens.level, 0.0)
            if not is_stray:
                self.refused_in_a_row = min(self.refused_in_a_row + 1, MAX_DOUBLINGS)
        if is_stray:
            return 0.0
        part = 1.0 if is_ours or not is_busy else min(1.0, 2 * share)
        return PAUSE_S * 2.0 ** (self.refused_in_a_row - 1) * part

    def _bound(self, bound: LearnedBound, used: float, share: float, now: float) -> None:
        """A refusal named requests or concurrency: tokens are left as they are."""
        is_requests = bound is self.bound_requests
        configured = (self.limits.requests_per_minute if is_requests else self.limits.max_concurrency) or inf
        if share >= NAMED_SHARE or not self.recent.is_busy(now):
            bound.refused(used, configured=configured, share=share)
            self.is_learning = True
            self._set_bounds(now)
            self._set_rates()

    def _region_refused(self, now: float) -> None:
        self.errors = [at for at in self.errors if at > now - REGION_WINDOW_S]
        self.errors.append(now)
        if len(self.errors) >= REGION_ERRORS and now >= self.hold_until:
            self.errors.clear()
            self.hold_until = now + REGION_HOLD_S
            self._slow(0.5)
            if self.requests is not None:
                self._bound(self.bound_requests, 30 * self.recent.per_s(now), 0.5, now)

    def _fall(self, now: float) -> float:
        """By how much an unknown quota was overestimated: what was served tells, where anything was."""
        served = self.served.sum(now) * 60 / SERVED_WINDOW_S
        return min(0.9, max(LARGEST_FALL, 0.9 * served / self.learned)) if served else 0.9

    def _slow(self, by: float, *, least: float = 0.0) -> None:
        """Take the rate to `by` of what it was, but not below `least` tokens a minute."""
        if self.limits.tokens_per_minute is None:
            self.has_refused = True
            self.step = RECOVERY_PER_S * self.learned
            self.learned = max(self.learned * by, min(self.learned, least), LEAST_TOKENS_PER_MINUTE)
        else:
            least = min(self.factor, least / self.limits.tokens_per_minute)
            self.factor = max(self.factor * by, least, MIN_FACTOR)
            self.is_learning = True
        self._set_rates()
        self.tokens.level = min(self.tokens.level, self.tokens.cap)

    def _recover(self, now: float) -> None:
        elapsed = now - self.recovered_at
        self.recovered_at = now
        if elapsed <= 0 or now < self.hold_until:
            return
        if self.bound_requests.value < inf or self.bound_calls.value < inf:
            self.bound_requests.grow(elapsed)
            self.bound_calls.grow(elapsed)
            self._set_bounds(now)
            self._set_rates()
        if self.limits.tokens_per_minute is None:
            if now - self.limited_at <= 1.0:
                self._grow(min(elapsed, 1.0), now)
        elif self.factor < 1.0:
            self.factor = min(1.0, self.factor + RECOVERY_PER_S * elapsed)
            self._set_rates()
        elif not self._is_lowered:
            self.is_learning = False

    def _grow(self, elapsed: float, now: float) -> None:
        """An unknown quota that is the limit: doubled each second till the first refusal, then equal steps.

        The steps double with each half minute without a refusal: the first refusals may have told of a burst only.
        """
        step = self.step * 2.0 ** min((now - self.slowed_at) // CALM_S, MAX_DOUBLINGS)
        grown = self.learned + step * elapsed if self.has_refused else self.learned * 2**elapsed
        self.learned = min(grown, MOST_TOKENS_PER_MINUTE)
        self._set_rates()

    def succeeded(self, *, now: float) -> None:
        """A call was answered: the region is well, and a probe has come back."""
        if self.errors:
            self.errors.clear()
        if self.is_probing and now >= self.closed_until:
            self.is_probing = False

    def checkpoint(self, *, now: float) -> dict[str, Any]:
        """What a successor has to know, JSON-able; times relative to `now`."""
        self.refill(now)
        return {
            "level": self.tokens.level,
            "requests": self.requests.level if self.requests else None,
            "factor": self.factor,
            "learned": self.learned,
            "step": self.step if self.has_refused else None,
            "closed_s": max(0.0, self.closed_until - now),
            "probing": self.is_probing,
            "day_s": self.day_ends - now,
            "day_used": self.day_used,
            "seconds_per_token": self.seconds_per_token,
            "bound_requests": self.bound_requests.checkpoint(),
            "bound_calls": self.bound_calls.checkpoint(),
        }

    def restore(self, state: Mapping[str, Any], *, now: float, age_s: float) -> None:
        """Take over a checkpoint that is `age_s` old: what flowed in since then counts."""
        self.factor = float(state["factor"])
        self.learned = float(state["learned"])
        self.has_refused = state.get("step") is not None
        self.step = float(state.get("step") or 0.0)
        self.seconds_per_token = float(state["seconds_per_token"])
        self.timed = round(1 / SECONDS_STEP) if self.seconds_per_token else 0
        self.bound_requests.restore(state.get("bound_requests"))
        self.bound_calls.restore(state.get("bound_calls"))
        self.is_learning = self.is_learning or self._is_lowered
        self._set_bounds(now)
        self.is_probing = bool(state["probing"])
        self.closed_until = now + float(state["closed_s"]) - age_s
        if float(state["day_s"]) > age_s:
            self.day_used = float(state["day_used"])
        self._set_rates()
        self.tokens.level = min(float(state["level"]), self.tokens.cap)
        self.tokens.at = self.recovered_at = now - age_s
        if self.requests is not None and state["requests"] is not None:
            self.requests.level = min(float(state["requests"]), self.requests.cap)
            self.requests.at = now - age_s
