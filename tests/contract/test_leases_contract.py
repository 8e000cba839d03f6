"""What every `LeaseStore` promises."""

import asyncio

import pytest

from sidecar.errors import Conflict, InvalidRequest
from tests.support.bus_world import World


async def test_one_of_many_takes_a_free_lease(world: World) -> None:
    stores = [world.first.leases, world.second.leases] * 4
    taken = await asyncio.gather(
        *(store.acquire("scheduler", f"r{i}", ttl_s=60) for i, store in enumerate(stores))
    )
    winners = [i for i, revision in enumerate(taken) if revision is not None]
    assert len(winners) == 1
    assert await world.second.leases.holder("scheduler") == f"r{winners[0]}"


async def test_leases_of_other_names_are_free(world: World) -> None:
    assert await world.first.leases.acquire("one", "r1", ttl_s=60)
    assert await world.second.leases.acquire("two", "r2", ttl_s=60)
    assert await world.first.leases.holder("three") is None


async def test_a_holder_renews_by_its_last_revision_only(world: World) -> None:
    leases = world.first.leases
    first = await leases.acquire("scheduler", "r1", ttl_s=60)
    assert first is not None
    second = await leases.renew("scheduler", "r1", revision=first, ttl_s=60)
    assert second > first
    with pytest.raises(Conflict):
        await leases.renew("scheduler", "r1", revision=first, ttl_s=60)
    with pytest.raises(Conflict):
        await world.second.leases.renew("scheduler", "r2", revision=first, ttl_s=60)
    assert await leases.holder("scheduler") == "r1"


async def test_a_lease_that_was_never_held_is_not_renewed(world: World) -> None:
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=0, ttl_s=60)
    assert await world.first.leases.holder("scheduler") is None


async def test_a_holder_whose_answer_was_lost_finds_its_lease_again(world: World) -> None:
    first = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
    again = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
    assert first is not None
    assert again is not None
    assert again > first
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=first, ttl_s=60)


async def test_a_released_lease_is_free_at_once_and_release_may_be_repeated(world: World) -> None:
    revision = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
    assert revision is not None
    await world.first.leases.release("scheduler", revision=revision)
    await world.first.leases.release("scheduler", revision=revision)
    assert await world.second.leases.holder("scheduler") is None
    rival = await world.second.leases.acquire("scheduler", "r2", ttl_s=60)
    assert rival is not None
    await world.first.leases.release("scheduler", revision=revision)
    assert await world.first.leases.holder("scheduler") == "r2"
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=revision, ttl_s=60)


async def test_a_lease_that_is_not_renewed_ends_and_its_holder_is_refused(world: World) -> None:
    revision = await world.first.leases.acquire("scheduler", "r1", ttl_s=2)
    assert revision is not None
    assert await world.second.leases.acquire("scheduler", "r2", ttl_s=2) is None
    rival = None
    for _ in range(100):
        await world.elapse(0.25)
        rival = await world.second.leases.acquire("scheduler", "r2", ttl_s=60)
        if rival is not None:
            break
    assert rival is not None
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=revision, ttl_s=2)


async def test_a_renewed_lease_outlives_its_first_time(world: World) -> None:
    revision = await world.first.leases.acquire("scheduler", "r1", ttl_s=3)
    assert revision is not None
    for _ in range(6):
        await world.elapse(0.75)
        revision = await world.first.leases.renew("scheduler", "r1", revision=revision, ttl_s=3)
    assert await world.second.leases.acquire("scheduler", "r2", ttl_s=3) is None


async def test_an_ended_lease_cannot_be_renewed_even_when_nobody_took_it(world: World) -> None:
    revision = await world.first.leases.acquire("scheduler", "r1", ttl_s=1)
    assert revision is not None
    for _ in range(100):
        if await world.first.leases.holder("scheduler") is None:
            break
        await world.elapse(0.25)
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=revision, ttl_s=1)


@pytest.mark.parametrize("name", ["", "a.b", "*", "a b"])
async def test_only_names_name_leases(world: World, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await world.first.leases.acquire(name, "r1", ttl_s=5)


async def test_a_predecessors_lease_is_taken_over_and_nobody_elses(world: World) -> None:
    first = await world.first.leases.acquire("five", "r1-a", ttl_s=60)
    assert first is not None
    assert await world.second.leases.acquire("five", "r2-b", ttl_s=60, is_own=lambda found: False) is None
    again = await world.second.leases.acquire("five", "r1-c", ttl_s=60, is_own=lambda found: found == "r1-a")
    assert again is not None
    assert again > first
    with pytest.raises(Conflict):
        await world.first.leases.renew("five", "r1-a", revision=first, ttl_s=60)
