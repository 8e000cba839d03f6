"""What the scheduler's decisions came to: waits, shares, tokens, money, by lane, tenant, class and model. Pure.

Bounded: a wait sample is kept for a minute and `SAMPLES` of a lane at most; tenants that did nothing for two
minutes are forgotten but for what they spent today; beyond `MOST_SPENDERS` names spending is summed up as one.
"""

from collections import deque
from collections.abc import Callable

from sidecar.models.result import Usage
from sidecar.ports.bus import Lane
from sidecar.scheduler.tenants import DAY_S
from sidecar.scheduler.tickets import Grant, Ticket

SAMPLES = 128
WINDOW_S = 60.0
FORGET_EVERY_S = 15.0
MOST_LANES = 5_000
MOST_SPENDERS = 10_000
OTHERS = "_others"

CostOf = Callable[[str, Usage], float | None]
"""US dollars of a call on a pool with this usage; None where no price is known."""


class Minute:
    """A sum over the last minute: the running one's, and of the one before what is not yet over, as an average.

    `at` numbers the running minute, `now` is its sum so far; `turn` comes before `now` is added to.
    """

    __slots__ = ("_before", "at", "now")

    def __init__(self) -> None:
        self.at = 0
        self.now = 0.0
        self._before = 0.0

    def add(self, amount: float, now: float) -> None:
        if now // WINDOW_S != self.at:
            self.turn(now)
        self.now += amount

    def sum(self, now: float) -> float:
        self.turn(now)
        return self.now + self._before * (1 - now % WINDOW_S / WINDOW_S)

    def turn(self, now: float) -> None:
        at = int(now // WINDOW_S)
        if at != self.at:
            self._before = self.now if at == self.at + 1 else 0.0
            self.now = 0.0
            self.at = at


class Account:
    """One tenant, or one class, in the last minute: settled cost in pool-seconds, quota tokens."""

    __slots__ = ("cost", "tokens")

    def __init__(self) -> None:
        self.cost = Minute()
        self.tokens = Minute()

    def add(self, cost: float, tokens: float, now: float) -> None:
        if now // WINDOW_S != self.cost.at:
            self.cost.turn(now)
            self.tokens.turn(now)
        self.cost.now += cost
        self.tokens.now += tokens


class Meter:
    """`cost_of` prices usage; `now` is monotonic, `epoch` wall-clock seconds."""

    def __init__(self, cost_of: CostOf = lambda pool, usage: None) -> None:
        self._cost_of = cost_of
        self.tenants: dict[str, Account] = {}
        self.classes: dict[str, Account] = {}
        self._calls: dict[str, Minute] = {}
        self._waits: dict[Lane, deque[tuple[float, float]]] = {}
        self._day = 0
        self.spent_usd: dict[str, float] = {}
        """Of the day by tenant: as far as this scheduler saw it, and at least what is kept of the day."""
        self.granted = 0
        self._forgets_at = 0.0

    def started(self, ticket: Ticket, *, now: float, epoch: float) -> None:
        """A queued job was granted."""
        self.granted += 1
        waits = self._waits.get(ticket.lane)
        if waits is None:
            if len(self._waits) >= MOST_LANES:
                del self._waits[next(iter(self._waits))]
            waits = self._waits[ticket.lane] = deque(maxlen=SAMPLES)
        waits.append((now, max(0.0, epoch - ticket.stored_at)))

    def settled(
        self, grant: Grant, usage: Usage, *, cost: float, quota_tokens: float, now: float, epoch: float
    ) -> None:
        """A call was settled at `cost` pool-seconds and `quota_tokens`."""
        tenant, job_class = grant.ticket.lane
        for accounts, name in ((self.tenants, tenant), (self.classes, job_class)):
            account = accounts.get(name)
            if account is None:
                account = accounts[name] = Account()
            account.add(cost, quota_tokens, now)
        calls = self._calls.get(grant.pool)
        if calls is None:
            calls = self._calls[grant.pool] = Minute()
        calls.add(1, now)
        usd = self._cost_of(grant.pool, usage)
        if usd:
            self._spend(tenant, usd, epoch)

    def _spend(self, tenant: str, usd: float, epoch: float) -> None:
        if int(epoch // DAY_S) != self._day:
            self.roll(epoch)
        if tenant not in self.spent_usd and len(self.spent_usd) >= MOST_SPENDERS:
            tenant = OTHERS
        self.spent_usd[tenant] = self.spent_usd.get(tenant, 0.0) + usd

    def recall(self, tenant: str, usd: float, epoch: float) -> None:
        """What is kept of the tenant's day, of jobs that have ended, also before this scheduler's time."""
        if int(epoch // DAY_S) != self._day:
            self.roll(epoch)
        known = self.spent_usd.get(tenant)
        if known is None and len(self.spent_usd) >= MOST_SPENDERS:
            return
        self.spent_usd[tenant] = max(known or 0.0, usd)

    def roll(self, epoch: float) -> None:
        """Yesterday's spending counts no more."""
        day = int(epoch // DAY_S)
        if day != self._day:
            self._day = day
            self.spent_usd.clear()

    def calls_of(self, pool: str, *, now: float) -> float:
        """Calls of a pool that were settled within the last minute."""
        calls = self._calls.get(pool)
        return calls.sum(now) if calls else 0.0

    def waits_ms(self, lane: Lane, *, now: float) -> tuple[int, int] | None:
        """The median and the 95th percentile of the lane's waits within the last minute; None without any."""
        waits = self._waits.get(lane)
        while waits and waits[0][0] < now - WINDOW_S:
            waits.popleft()
        if not waits:
            self._waits.pop(lane, None)
            return None
        sorted_s = sorted(wait for _, wait in waits)
        return tuple(  # type: ignore[return-value]
            round(1000 * sorted_s[min(len(sorted_s) - 1, int(share * len(sorted_s)))]) for share in (0.5, 0.95)
        )

    def forget_idle(self, now: float) -> None:
        """Drop the accounts of tenants that did nothing in the last two minutes, and old waits.

        O(tenants), and therefore done four times a minute at most, however often it is asked for.
        """
        if now < self._forgets_at:
            return
        self._forgets_at = now + FORGET_EVERY_S
        for name in [name for name, account in self.tenants.items() if not account.cost.sum(now)]:
            del self.tenants[name]
        for lane in [lane for lane, waits in self._waits.items() if waits[-1][0] < now - WINDOW_S]:
            del self._waits[lane]
