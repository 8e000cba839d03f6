"""What every `SpendLedger` promises."""

import asyncio

import pytest

from sidecar.errors import InvalidRequest
from tests.support.bus_world import NatsWorld, World
from tests.support.nats_server import counters_needed

DAY = 20_000


@pytest.fixture(autouse=True)
async def counting(world: World) -> None:
    if isinstance(world, NatsWorld):
        await counters_needed(world.mux)


async def test_all_replicas_count_into_one_total(world: World) -> None:
    assert await world.first.spend.total("acme", DAY) == 0
    assert await world.first.spend.add("acme", DAY, 1_500, call_id="acme:j1:1:1") == 1_500
    assert await world.second.spend.add("acme", DAY, 500, call_id="acme:j2:1:1") == 2_000
    assert await world.first.spend.total("acme", DAY) == 2_000
    assert await world.second.spend.total("acme", DAY) == 2_000


async def test_a_call_counts_once_however_often_it_is_told(world: World) -> None:
    await world.first.spend.add("acme", DAY, 10, call_id="acme:j1:1:1")
    await world.first.spend.add("acme", DAY, 7, call_id="acme:j1:1:2")
    assert await world.second.spend.add("acme", DAY, 10, call_id="acme:j1:1:1") == 17
    assert await world.first.spend.total("acme", DAY) == 17


async def test_tenants_and_days_are_counted_apart(world: World) -> None:
    await world.first.spend.add("acme", DAY, 10, call_id="a")
    await world.first.spend.add("acme", DAY + 1, 20, call_id="b")
    await world.first.spend.add("beta", DAY, 40, call_id="c")
    assert await world.first.spend.total("acme", DAY) == 10
    assert await world.first.spend.total("acme", DAY + 1) == 20
    assert await world.first.spend.total("beta", DAY) == 40


async def test_additions_at_the_same_moment_are_all_counted(world: World) -> None:
    replicas = (world.first, world.second)
    adding = (replicas[i % 2].spend.add("acme", DAY, i, call_id=f"j{i}") for i in range(1, 41))
    totals = await asyncio.gather(*adding)
    assert max(totals) == await world.first.spend.total("acme", DAY) == sum(range(1, 41))


async def test_a_tenant_that_is_no_name_has_no_counter(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.first.spend.add("a.>", DAY, 1, call_id="x")
    with pytest.raises(InvalidRequest):
        await world.first.spend.total("*", DAY)
