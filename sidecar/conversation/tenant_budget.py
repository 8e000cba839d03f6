"""The money of tenants with a daily budget: counted on the bus by whoever made the call, told to who schedules.

A call is counted before its reservation ends, so that nothing in between looks free. Only tenants with a budget
cost a message. Who schedules hears of a total directly or by a message, and reads totals again every few seconds
for what may have got lost.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from sidecar.config.settings import CurrentPolicy
from sidecar.errors import SidecarError
from sidecar.job_manager.job import OwnedJob
from sidecar.models.facts import RunFacts
from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown
from sidecar.ports.bus import Clock, SpendLedger
from sidecar.ports.cluster import ClusterBus
from sidecar.runtime.lifecycle import Tasks, Waker, logged, within
from sidecar.runtime.retry import keep_trying
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tenants import DAY_S, USD

log = logging.getLogger(__name__)

TOPIC = "spend"
# How long a job waits until its call is counted; while the bus is away counting goes on behind it.
COUNT_S = 2.0
# At the end of the process: what is not counted by then is counted by nobody.
LAST_COUNT_S = 1.0
CHECK_S = 1.0
REFRESH_EVERY = 5
READS_A_ROUND = 200


class Total(msgspec.Struct, frozen=True):
    """What a tenant has spent on a day, in millionths of a US dollar, as one replica tells the others."""

    tenant: str
    day: int
    micro_usd: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Total).decode


class TenantBudgets:
    """`scheduling` gives the scheduler while this replica schedules, else None; `kick` asks it again."""

    def __init__(
        self,
        *,
        ledger: SpendLedger,
        bus: ClusterBus,
        clock: Clock,
        policy: CurrentPolicy,
        scheduling: Callable[[], Scheduler | None],
        kick: Callable[[], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._ledger = ledger
        self._bus = bus
        self._clock = clock
        self._policy = policy
        self._scheduling = scheduling
        self._kick = kick
        self._counting = Tasks(on_crash)
        self._duties = Tasks(on_crash)
        self._asked: set[str] = set()

    async def start(self) -> None:
        await self._bus.subscribe(TOPIC, self._hear)
        self._duties.spawn(self._refresh(), name="spend-refresh")

    async def stop(self) -> None:
        """Let what is being counted finish, for a moment."""
        await self._duties.cancel()
        if self._counting:
            with logged("counting what the last calls cost"):
                await within(self._clock, LAST_COUNT_S, self._counting.wait(), what="counting the last calls")
        await self._counting.cancel()

    async def settle(self, job: OwnedJob, facts: RunFacts) -> None:
        """Count what the job's calls cost since the last time. Never raises for the bus's sake."""
        if self._policy.now.tenant(job.state.tenant).budget_usd_per_day is None:
            return
        counting = self.count(job, facts)
        if counting is not None:
            counted = Waker(self._clock)
            counting.add_done_callback(lambda _: counted.wake())
            await counted.wait(COUNT_S)

    def count(self, job: OwnedJob, facts: RunFacts) -> "asyncio.Task[None] | None":
        """The same, without waiting for it."""
        if facts.cost_usd is None:
            return None
        tenant, due = job.state.tenant, round(facts.cost_usd * USD) - facts.counted_micro_usd
        if due <= 0 or self._policy.now.tenant(tenant).budget_usd_per_day is None:
            return None
        facts.counted_micro_usd += due
        call_id = f"{tenant}:{job.state.job}:{job.state.attempt}:{len(facts.attempts)}"
        return self._counting.spawn(self._count(tenant, due, call_id))

    async def _count(self, tenant: str, micro_usd: int, call_id: str) -> None:
        day = self._today()
        try:
            # May be repeated: the stream counts one message of this id.
            total = await keep_trying(
                "counting a call's cost",
                lambda: self._ledger.add(tenant, day, micro_usd, call_id=call_id),
                clock=self._clock,
            )
        except SidecarError as e:
            log.error("a call's cost could not be counted", extra={"tenant": tenant, "error": e.message})
            return
        self._tell(Total(tenant, day, total))

    def _tell(self, total: Total) -> None:
        if self._scheduling() is not None:
            self._take(total)
        else:
            with logged("telling what a tenant spent"):
                self._bus.publish(TOPIC, _encode(total))

    def _hear(self, payload: bytes) -> None:
        try:
            self._take(_decode(payload))
        except UNREADABLE as e:
            log.warning("a message about spending cannot be read", extra={"error": shown(e, 200)})

    def _take(self, total: Total) -> None:
        scheduler = self._scheduling()
        if scheduler is not None:
            scheduler.spent(total.tenant, day=total.day, total=total.micro_usd, now=self._clock.monotonic())
            self._kick()

    # For the scheduler: totals that it does not know yet, and that may have changed unheard.

    def want(self, tenant: str) -> None:
        """A job of a tenant with a budget was queued: nothing of it starts before its total is known."""
        scheduler = self._scheduling()
        if scheduler is not None and tenant not in self._asked and not scheduler.knows_budget(tenant):
            self._asked.add(tenant)
            self._duties.spawn(self._read(tenant))

    async def _read(self, tenant: str) -> None:
        day = self._today()
        try:
            with logged("reading what a tenant spent", tenant=tenant):
                self._take(Total(tenant, day, await self._ledger.total(tenant, day)))
        finally:
            self._asked.discard(tenant)

    async def _refresh(self) -> None:
        rounds = 0
        while True:
            await self._clock.sleep(CHECK_S)
            scheduler = self._scheduling()
            if scheduler is None:
                continue
            rounds += 1
            tenants = scheduler.budgets_to_read(all_in_use=rounds % REFRESH_EVERY == 0)[:READS_A_ROUND]
            await asyncio.gather(*(self._read(tenant) for tenant in tenants))

    def _today(self) -> int:
        return int(self._clock.now() // DAY_S)
