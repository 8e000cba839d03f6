"""A tenant's money of the day: reserved before a call, settled after it, never passed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Permanent
from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tenants import DAY_S, USD
from sidecar.scheduler.tickets import TenantCaps, Ticket

DAY = 20_000
POOL = "model@us-east-1"


def price(pool: str, input_tokens: int, max_tokens: int) -> float | None:
    """A dollar for 1,000 tokens; the dear pool costs ten times that; one pool has no price."""
    if pool == "unpriced":
        return None
    return (input_tokens + max_tokens) / 1000 * (10 if pool == "dear" else 1)


def scheduler(budget: float | None = 10.0, *, slots: int = 100, **more: Any) -> Scheduler:
    return Scheduler(
        classes={"interactive": 100, "standard": 20, "batch": 1},
        slots=slots,
        tenants=lambda name: TenantCaps(budget_usd_per_day=budget if name == "acme" else None),
        limits=lambda pool: QuotaLimits(tokens_per_minute=100_000_000),
        price=price,
        epoch_offset=DAY * DAY_S,
        **more,
    )


def ticket(seq: int, *, tokens: int = 4000, tenant: str = "acme", pools: tuple[str, ...] = (POOL,)) -> Ticket:
    return Ticket(
        seq=seq,
        lane=Lane(tenant, "standard"),
        job_id=f"j{seq}",
        size=1,
        stored_at=0.0,
        input_tokens=tokens // 2,
        max_tokens=tokens // 2,
        pools=pools,
    )


def queue(made: Scheduler, *tickets: Ticket, spent_usd: float | None = 0.0) -> Scheduler:
    for each in tickets:
        made.push(each, now=0.0)
    if spent_usd is not None:
        made.spent("acme", day=DAY, total=spent_usd * USD, now=0.0)
    return made


def granted(made: Scheduler, now: float = 0.0) -> list[Any]:
    grants = []
    while (grant := made.grant(now=now)) is not None:
        grants.append(grant)
    return grants


def settle(made: Scheduler, grant: Any, *, usd: float, total_usd: float, now: float = 1.0) -> None:
    made.spent("acme", day=DAY, total=total_usd * USD, now=now)
    made.settle(grant, input_tokens=round(usd * 1000), output_tokens=0, seconds=1.0, now=now)


def test_a_job_that_only_collides_with_reservations_waits() -> None:
    made = queue(scheduler(), *(ticket(seq) for seq in range(1, 4)))
    first, second = granted(made)
    assert made.take_dropped(now=0.0) == []
    assert made.blocked(Lane("acme", "standard"), now=0.0) is not None
    settle(made, first, usd=1.0, total_usd=1.0)
    assert [grant.ticket.seq for grant in granted(made, 1.0)] == [3]
    assert second.is_open


def test_a_job_that_the_rest_of_the_day_cannot_pay_is_rejected_with_numbers() -> None:
    made = queue(scheduler(), ticket(1), spent_usd=7.0)
    assert granted(made) == []
    (dropped,) = made.take_dropped(now=0.0)
    assert dropped.code == "budget_exceeded"
    assert dropped.error is not None
    assert dropped.error.details == {
        "budget_usd": 10.0,
        "spent_usd": 7.0,
        "needed_usd": 4.0,
        "resets_at": "2024-10-05T00:00:00.000Z",
    }


def test_nothing_of_a_budget_starts_before_its_total_is_known() -> None:
    made = queue(scheduler(), ticket(1), ticket(2, tenant="beta"), spent_usd=None)
    assert [grant.ticket.seq for grant in granted(made)] == [2]
    made.spent("acme", day=DAY, total=0, now=0.0)
    assert [grant.ticket.seq for grant in granted(made)] == [1]


def test_a_call_that_was_not_made_gives_its_reservation_back() -> None:
    made = queue(scheduler(budget=5.0), ticket(1), ticket(2))
    (first,) = granted(made)
    made.finish(first, now=1.0)
    assert [grant.ticket.seq for grant in granted(made, 1.0)] == [2]


def test_at_midnight_the_budget_is_whole_again_but_for_what_runs() -> None:
    made = queue(scheduler(), *(ticket(seq) for seq in range(1, 5)), spent_usd=1.0)
    first, _ = granted(made)
    settle(made, first, usd=4.0, total_usd=5.0)
    assert granted(made, 1.0) == []
    next_day = DAY_S + 1.0
    made.spent("acme", day=DAY + 1, total=0, now=next_day)
    assert [grant.ticket.seq for grant in granted(made, next_day)] == [3]
    assert made.take_dropped(now=next_day) == []


def test_an_old_total_that_comes_late_takes_nothing_back() -> None:
    made = queue(scheduler(), ticket(1), spent_usd=9.0)
    made.spent("acme", day=DAY, total=0, now=0.0)
    assert granted(made) == []
    assert [dropped.code for dropped in made.take_dropped(now=0.0)] == ["budget_exceeded"]


def test_want_of_money_is_no_reason_for_another_model() -> None:
    made = queue(scheduler(), ticket(1, pools=("dear", POOL)))
    assert granted(made) == []
    assert [dropped.code for dropped in made.take_dropped(now=0.0)] == ["budget_exceeded"]


def test_a_full_quota_does_not_move_a_job_to_a_pool_that_the_tenant_cannot_pay() -> None:
    made = queue(scheduler(), ticket(1, pools=(POOL, "dear")))
    made.throttled(POOL, now=0.0, retry_after=5.0)
    assert granted(made) == []
    assert [grant.pool for grant in granted(made, 6.0)] == [POOL]


def test_a_model_without_a_price_is_refused_to_a_tenant_with_a_budget() -> None:
    made = queue(scheduler(), ticket(1, pools=("unpriced",)), ticket(2, tenant="beta", pools=("unpriced",)))
    assert [grant.ticket.seq for grant in granted(made)] == [2]
    (dropped,) = made.take_dropped(now=0.0)
    assert dropped.error is not None
    assert "no price is known" in dropped.error.message


def test_the_next_turn_of_a_running_job_waits_for_money_and_ends_where_none_is_left() -> None:
    made = queue(scheduler(), ticket(1), ticket(2))
    first, second = granted(made)
    made.settle(first, input_tokens=1, output_tokens=1, seconds=1.0, now=1.0, keeps_slot=True)
    made.spent("acme", day=DAY, total=3 * USD, now=1.0)
    made.next_turn(first, pools=(POOL,), input_tokens=2000, max_tokens=2000, now=1.0)
    assert granted(made, 1.0) == []
    assert made.take_denied() == []
    settle(made, second, usd=4.0, total_usd=7.0, now=2.0)
    assert granted(made, 2.0) == []
    (denied,) = made.take_denied()
    assert denied.previous is first
    assert denied.error.code == "budget_exceeded"
    with pytest.raises(Permanent, match="begins anew at"):
        made.next_turn(first, pools=(POOL,), input_tokens=2000, max_tokens=2000, now=2.0)


def test_a_successor_reserves_for_the_calls_that_run() -> None:
    made = scheduler()
    made.spent("acme", day=DAY, total=0, now=0.0)
    made.adopt(ticket(1), pool=POOL, now=0.0)
    made.adopt(ticket(2), pool=POOL, now=0.0)
    queue(made, ticket(3))
    assert granted(made) == []


def test_a_budget_can_be_raised_and_taken_away_while_jobs_wait() -> None:
    made = queue(scheduler(budget=4.0), ticket(1), ticket(2))
    (first,) = granted(made)
    made.set_policy(
        classes={"standard": 20}, tenants=lambda name: TenantCaps(), limits=lambda pool: QuotaLimits(), now=1.0
    )
    assert [grant.ticket.seq for grant in granted(made, 1.0)] == [2]
    made.settle(first, input_tokens=1, output_tokens=1, seconds=1.0, now=2.0)


@given(
    budget=st.floats(1.0, 50.0),
    jobs=st.lists(st.tuples(st.integers(200, 9000), st.floats(0.0, 1.0)), min_size=1, max_size=40),
    finish_first=st.booleans(),
)
def test_whatever_runs_the_settled_money_never_passes_the_budget(
    budget: float, jobs: list[tuple[int, float]], finish_first: bool
) -> None:
    made = queue(scheduler(budget), *(ticket(seq, tokens=tokens) for seq, (tokens, _) in enumerate(jobs)))
    total, now, ended = 0.0, 0.0, 0
    running: list[Any] = []
    while True:
        running += granted(made, now)
        if not running:
            break
        grant = running.pop(0 if finish_first else -1)
        total += grant.money / USD * jobs[grant.ticket.seq][1]
        ended += 1
        now += 1.0
        settle(made, grant, usd=1.0, total_usd=total, now=now)
        assert total <= budget + 1e-6
    assert ended + len(made.take_dropped(now=now)) == len(jobs)
