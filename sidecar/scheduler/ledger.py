"""Who holds what: slots, tenants' caps, pools and the open debits. Every debit is closed exactly once."""

from collections.abc import Callable
from math import inf

from sidecar.models.profile import QuotaLimits
from sidecar.scheduler.caps import Tenant
from sidecar.scheduler.fair_share import FairShare, Flow
from sidecar.scheduler.quota import SETUP_TOKENS, Pool
from sidecar.scheduler.tenants import DAY_S, Budget, Price, money_of
from sidecar.scheduler.tickets import Grant, TenantCaps, Ticket

RATIO_STEP = 0.2


class Ledger:
    """Debits over one `FairShare`. `open` are the grants whose call has not ended, by id. `now`: the latest."""

    def __init__(
        self,
        share: FairShare,
        *,
        caps: Callable[[str], TenantCaps],
        limits: Callable[[str], QuotaLimits],
        epoch_offset: float,
        price: Price = lambda pool, input_tokens, max_tokens: 0.0,
    ) -> None:
        self.share = share
        self.caps = caps
        self.limits = limits
        self.epoch_offset = epoch_offset
        self.price = price
        self.now = 0.0
        self.pools: dict[str, Pool] = {}
        self.tenants: dict[str, Tenant] = {}
        self.with_budget: dict[str, Tenant] = {}
        self.open: dict[int, Grant] = {}
        self.slots = 0
        self.slots_kept = 0
        self.slots_used = 0
        self.slots_used_by_others = 0
        self._debits = 0

    @property
    def changes(self) -> tuple[int, int]:
        """Another value than before once a debit was made or closed."""
        return self._debits, len(self.open)

    def tenant(self, name: str) -> Tenant:
        """The tenant's account, opened at its first sight."""
        found = self.tenants.get(name)
        if found is None:
            found = self.tenants[name] = Tenant(name, self.caps(name), now=self.now)
            self._note_budget(found)
        return found

    def set_caps(self, tenant: Tenant) -> None:
        """Ask for the tenant's bounds again."""
        tenant.set_caps(self.caps(tenant.name), now=self.now)
        self._note_budget(tenant)

    def _note_budget(self, tenant: Tenant) -> None:
        if tenant.budget is not None:
            self.with_budget[tenant.name] = tenant

    def pool(self, key: str) -> Pool:
        """The pool's account, opened at its first sight."""
        found = self.pools.get(key)
        if found is None:
            epoch = self.now + self.epoch_offset
            found = self.pools[key] = Pool(key, self.limits(key), now=self.now, epoch=epoch)
            found.set_slots(self.slots)
        return found

    def budget(self, tenant: Tenant) -> Budget | None:
        """The tenant's money, as of today."""
        if tenant.budget is not None:
            tenant.budget.roll(int((self.now + self.epoch_offset) // DAY_S))
        return tenant.budget

    def money(self, ticket: Ticket, pool: str) -> float:
        """The most the ticket's next call can cost on a pool (1e-6 USD)."""
        return money_of(ticket, pool, price=self.price)

    def money_needed(self, ticket: Ticket) -> float:
        """The same on the preferred pool that can hold the call: want of money is no reason for another model."""
        need = ticket.input_tokens + ticket.max_tokens
        usable = (key for key in ticket.pools if need <= self.pool(key).largest)
        return self.money(ticket, next(usable, ticket.pools[0]))

    def set_slots(self, slots: int, *, kept_share: float) -> None:
        """`slots` over all workers; `kept_share` of them, one at least, is kept for class interactive.

        A share above 0 of few slots would round down to none: then long calls of other classes fill them all, and
        an interactive job waits for the first to end. A single slot is everybody's.
        """
        self.slots = slots
        for pool in self.pools.values():
            pool.set_slots(slots)
        self.slots_kept = max(int(slots * kept_share), 1) if kept_share > 0 and slots >= 2 else 0

    def has_slot(self, job_class: str) -> bool:
        if self.slots_used >= self.slots:
            return False
        return job_class == "interactive" or self.slots_used_by_others < self.slots - self.slots_kept

    def free_slot(self, grant: Grant) -> None:
        grant.holds_slot = False
        self.slots_used -= 1
        if grant.ticket.lane.job_class != "interactive":
            self.slots_used_by_others -= 1
        grant.flow.tenant.running -= 1

    def debit(self, flow: Flow, ticket: Ticket, pool: Pool, now: float, previous: Grant | None = None) -> Grant:
        """Charge the start of a call to lane, class, market, tenant and pool, at the predicted cost.

        The slot of `previous`, the job's last call, is taken over where it still holds one.
        """
        max_tokens = ticket.max_tokens
        input_tokens = ticket.input_tokens
        output = flow.ratio * max_tokens
        tokens = pool.burndown * output
        reserved = input_tokens + (max_tokens if max_tokens > tokens else tokens)
        prices = pool.prices
        cost = (input_tokens + tokens) * prices[0]
        if prices[1] > cost:
            cost = prices[1]
        in_slot = (output + SETUP_TOKENS) * pool.seconds_per_token * prices[2]
        if in_slot > cost:
            cost = in_slot
        pool.reserve(reserved, now)
        if flow.tenant.bucket is not None:
            flow.tenant.reserve(reserved)
        flow.running += 1
        holds_slot = False
        turn = 1
        if previous is not None:
            turn += previous.turn
            holds_slot, previous.holds_slot = previous.holds_slot, False
        self._debits = number = self._debits + 1
        grant = self.open[number] = Grant(
            number,
            ticket,
            pool.key,
            turn,
            input_tokens,
            max_tokens,
            output,
            reserved,
            cost,
            now,
            True,
            holds_slot,
            flow,
            pool,
            self.share.charge(flow, cost),
            prices,
        )
        if not holds_slot:
            grant.holds_slot = True
            self.slots_used += 1
            if ticket.lane.job_class != "interactive":
                self.slots_used_by_others += 1
            flow.tenant.running += 1
        if flow.tenant.budget is not None and (money := self.money(ticket, pool.key)) < inf:
            grant.money = money
            flow.tenant.budget.reserved += money
        return grant

    def _free_money(self, grant: Grant) -> None:
        grant.flow.tenant.budget.reserved -= grant.money
        grant.money = 0.0

    def adopt(self, flow: Flow, ticket: Ticket, pool: Pool, now: float, *, is_open: bool) -> Grant:
        """Take over a running job, with its call if that `is_open`.

        The predecessor charged lane and class and debited the buckets, and left that in its checkpoint: none of
        it is done again, so all that counts here is the slot and the call in flight.
        """
        grant = self.debit(flow, ticket, pool, now)
        self.share.refund(flow, grant.charged)
        pool.forget_debit(grant.reserved)
        flow.tenant.forget_debit(grant.reserved)
        if not is_open:
            del self.open[grant.id]
            grant.is_open = False
            pool.in_flight -= 1
            flow.running -= 1
        return grant

    def settle(
        self, grant: Grant, *, quota_tokens: float, output_tokens: int, seconds: float, now: float
    ) -> float | None:
        """Close a debit at what was used. What it cost, in pool-seconds; None when it was closed before."""
        if self.open.pop(grant.id, None) is None:
            return None
        grant.is_open = False
        flow: Flow = grant.flow
        pool: Pool = grant.quota
        if grant.money:
            self._free_money(grant)
        cost = grant.price(quota_tokens, seconds)
        pool.settle(grant.reserved, quota_tokens, now)
        pool.answered(output_tokens, seconds, granted_at=grant.granted_at)
        if flow.tenant.bucket is not None:
            flow.tenant.settle(grant.reserved, quota_tokens, now=now)
        self.share.settle(flow, cost - grant.cost)
        flow.running -= 1
        flow.served += cost
        flow.ratio += RATIO_STEP * (output_tokens / grant.max_tokens - flow.ratio)
        return cost

    def undo(self, grant: Grant, *, now: float) -> bool:
        """Close a debit as if it had never been. False when it was closed before."""
        if self.open.pop(grant.id, None) is None:
            return False
        grant.is_open = False
        if grant.money:
            self._free_money(grant)
        grant.quota.undo(grant.reserved, now=now)
        grant.flow.tenant.settle(grant.reserved, 0.0, now=now)
        self.share.refund(grant.flow, grant.charged)
        grant.flow.running -= 1
        return True
