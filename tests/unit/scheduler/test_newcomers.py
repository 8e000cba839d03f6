"""A newcomer behind a flood: two dispatches, counted where grants are made, whatever is settled meanwhile."""

import random

import pytest

from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane
from tests.unit.scheduler.test_schedule_rules import Bench


@pytest.mark.parametrize("seed", range(20))
def test_a_newcomer_waits_for_two_dispatches_while_calls_turn_out_cheaper_than_predicted(seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(slots=8)
    running = []
    flood = Lane("flood", "standard")
    waits: list[int] = []
    for step in range(400):
        bench.push("flood", times=bench.scheduler.room(flood), max_tokens=4_000)
        before = None
        if step % 20 == 19:
            # Sixteen calls end at once, all far below their prediction, between the newcomer and its grant.
            bench.push(f"new-{step}", max_tokens=4_000)
            before = 0
        rng.shuffle(running)
        for grant in running[: rng.randint(1, 8)]:
            output = rng.choice([1, 1, 1, 4_000])
            bench.scheduler.settle(
                grant, input_tokens=1_000, output_tokens=output, seconds=1.0, now=bench.now, keeps_slot=False
            )
            running.remove(grant)
        while (grant := bench.grant()) is not None:
            running.append(grant)
            if before is not None and grant.ticket.lane.tenant.startswith("new"):
                waits.append(before)
                before = None
            elif before is not None:
                before += 1
            bench.push("flood", times=bench.scheduler.room(flood), max_tokens=4_000)
        bench.now += 1.0
    assert waits
    assert max(waits) <= 2


def test_a_lane_that_comes_and_goes_gets_no_more_than_its_share() -> None:
    """One job at a time, each as dear as ten of the others: it owes for the last when it comes again."""
    bench = Bench(slots=1, limits={"x": QuotaLimits(tokens_per_minute=10_000_000)})
    served = {"on-off": 0, "steady": 0}
    steady = Lane("steady", "standard")
    for _ in range(300):
        bench.push("steady", times=bench.scheduler.room(steady), input_tokens=1_000, max_tokens=1)
        if (
            not bench.scheduler.backlog.lanes.get(Lane("on-off", "standard"))
            or bench.scheduler.room(Lane("on-off", "standard")) == 16
        ):
            bench.push("on-off", input_tokens=10_000, max_tokens=1)
        grant = bench.grant()
        assert grant is not None
        served[grant.ticket.lane.tenant] += grant.input_tokens
        bench.scheduler.settle(
            grant, input_tokens=grant.input_tokens, output_tokens=1, seconds=0.001, now=bench.now
        )
        bench.now += 0.1
    assert served["on-off"] <= 1.15 * served["steady"]
