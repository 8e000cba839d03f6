"""A running job's part of slots and quota: what it was granted, and how it asks for more."""

import asyncio
from collections.abc import Callable

from sidecar.errors import DailyQuotaExhausted, ModelUnavailable, SidecarError, Throttled
from sidecar.models.result import Usage
from sidecar.ports import Clock
from sidecar.request_handler.quota import Throttle
from sidecar.request_handler.schedule import Scheduler
from sidecar.request_handler.tickets import Grant


class Reservation:
    """The grant in force of one running job. Waiting for another one is fair: the scheduler decides when."""

    def __init__(self, grant: Grant, *, scheduler: Scheduler, clock: Clock, on_change: Callable[[], None]) -> None:
        self._grant = grant
        self._scheduler = scheduler
        self._clock = clock
        self._on_change = on_change
        self._next: asyncio.Future[Grant] | None = None

    @property
    def pool(self) -> str:
        return self._grant.pool

    def take_over(self, grant: Grant) -> None:
        """The scheduler granted what this job waits for. One that nobody waits for any more is given back."""
        if self._next is None or self._next.done():
            self._scheduler.undo(grant, now=self._clock.monotonic())
        else:
            self._grant = grant
            self._next.set_result(grant)

    async def move(self, pool: str) -> None:
        """Undo the debit in `pool` so far, then wait for room in another one."""
        now = self._clock.monotonic()
        self._scheduler.undo(self._grant, now=now, keeps_slot=True)
        await self._ask((pool,))

    async def rest(self, seconds: float) -> None:
        """Wait without holding a slot or quota, then for room in the same pool again."""
        self._scheduler.undo(self._grant, now=self._clock.monotonic())
        self._on_change()
        await self._clock.sleep(seconds)
        await self._ask((self._grant.pool,))

    async def next_turn(self, *, input_tokens: int, max_tokens: int) -> None:
        """After `used`: wait for room for the job's next model call, ahead of queued jobs of its class."""
        self._grant.input_tokens, self._grant.max_tokens = input_tokens, max_tokens
        await self._ask((self._grant.pool,))

    async def _ask(self, pools: tuple[str, ...]) -> None:
        grant = self._grant
        self._next = asyncio.get_running_loop().create_future()
        self._scheduler.next_turn(
            grant,
            pools=pools,
            input_tokens=grant.input_tokens,
            max_tokens=grant.max_tokens,
            now=self._clock.monotonic(),
        )
        self._on_change()
        try:
            await self._next
        finally:
            self._next = None

    def failed(self, error: SidecarError) -> None:
        """What a refusal teaches about the pool."""
        kind = throttle_of(error)
        if kind is not None:
            retry_after = getattr(error, "retry_after", None)
            self._scheduler.throttled(self.pool, now=self._clock.monotonic(), kind=kind, retry_after=retry_after)

    def used(self, usage: Usage, *, seconds: float) -> None:
        """Settle the call's debit with what it took. The slot stays until `finish`."""
        now = self._clock.monotonic()
        self._scheduler.succeeded(self.pool, now=now)
        self._scheduler.settle(
            self._grant,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            seconds=seconds,
            now=now,
            keeps_slot=True,
        )
        self._on_change()

    def finish(self) -> None:
        """The job has ended here, whichever way: whatever is still held goes back. Idempotent."""
        self._scheduler.finish(self._grant, now=self._clock.monotonic())
        self._on_change()


def throttle_of(error: SidecarError) -> Throttle | None:
    """How the limiter takes a refusal: 429 is our quota, 503 the region's demand, not-ready neither."""
    if isinstance(error, DailyQuotaExhausted):
        return "daily"
    if isinstance(error, Throttled):
        return "quota"
    if isinstance(error, ModelUnavailable):
        if error.details.get("provider_code") == "ModelNotReadyException":
            return "not_ready"
        if error.details.get("http_status") == 503:
            return "region"
    return None
