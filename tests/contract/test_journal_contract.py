"""The journal of jobs, in both ways of reading."""

import pytest

from sidecar.errors import BusRefused, Conflict, InvalidRequest
from tests.support.bus_world import World, event, job_state

KEEP_S = 600


async def claimed(world: World, job: str = "j1") -> int:
    return await world.first.jobs.create(job_state(job))


async def test_steps_are_read_in_the_order_in_which_they_were_stored(world: World) -> None:
    fence = await claimed(world)
    steps = [b'{"number":%d}' % n for n in range(1, 6)]
    for step in steps:
        await world.first.journal.append("acme", "j1", step, fence=fence, keep_s=KEEP_S)
    assert list(await world.second.journal.read("acme", "j1")) == steps


async def test_a_job_without_steps_has_none(world: World) -> None:
    await claimed(world)
    assert list(await world.first.journal.read("acme", "j1")) == []
    await world.first.journal.purge("acme", "j1")


async def test_an_owner_that_lost_the_job_can_add_nothing(world: World) -> None:
    fence = await claimed(world)
    await world.first.journal.append("acme", "j1", b"one", fence=fence, keep_s=KEEP_S)
    taken = await world.second.jobs.update(job_state("j1", attempt=2), revision=fence)
    with pytest.raises(Conflict):
        await world.first.journal.append("acme", "j1", b"two", fence=fence, keep_s=KEEP_S)
    await world.second.journal.append("acme", "j1", b"three", fence=taken, keep_s=KEEP_S)
    assert list(await world.second.journal.read("acme", "j1")) == [b"one", b"three"]


async def test_jobs_have_journals_of_their_own(world: World) -> None:
    first, second = await claimed(world, "j1"), await claimed(world, "j2")
    await world.first.journal.append("acme", "j1", b"one", fence=first, keep_s=KEEP_S)
    await world.first.journal.append("acme", "j2", b"two", fence=second, keep_s=KEEP_S)
    await world.first.journal.purge("acme", "j1")
    assert list(await world.first.journal.read("acme", "j1")) == []
    assert list(await world.first.journal.read("acme", "j2")) == [b"two"]


async def test_what_was_purged_is_gone_and_can_begin_anew(world: World) -> None:
    fence = await claimed(world)
    await world.first.journal.append("acme", "j1", b"one", fence=fence, keep_s=KEEP_S)
    await world.first.journal.purge("acme", "j1")
    await world.first.journal.append("acme", "j1", b"two", fence=fence, keep_s=KEEP_S)
    assert list(await world.second.journal.read("acme", "j1")) == [b"two"]


async def test_clients_see_nothing_of_it(world: World) -> None:
    """Neither in a job's events, nor among its states, nor in the list of jobs."""
    fence = await claimed(world)
    await world.first.publisher.publish(event(1), fence=fence)
    await world.first.journal.append("acme", "j1", b"one", fence=fence, keep_s=KEEP_S)
    assert len([stored async for stored in world.first.publisher.replay("acme", "j1")]) == 1
    assert len(await world.first.jobs.history("acme", "j1")) == 1
    page = await world.first.jobs.placed("acme", matches=lambda _: True, limit=9)
    assert [job.state.job for job in page.jobs] == ["j1"]
    found = await world.first.jobs.get("acme", "j1")
    assert found is not None
    assert found.revision == fence, "the fence has not moved"


async def test_a_step_larger_than_a_message_is_refused_as_such(world: World) -> None:
    fence = await claimed(world)
    with pytest.raises(BusRefused) as refused:
        await world.first.journal.append("acme", "j1", b"x" * (2 * 1024 * 1024), fence=fence, keep_s=KEEP_S)
    assert refused.value.code == "payload_too_large"


async def test_steps_go_by_themselves(world: World) -> None:
    fence = await claimed(world)
    await world.first.journal.append("acme", "j1", b"one", fence=fence, keep_s=1)
    for _ in range(20):
        await world.elapse(0.5)
        if not await world.first.journal.read("acme", "j1"):
            break
    assert list(await world.first.journal.read("acme", "j1")) == []


async def test_what_is_no_name_addresses_nothing(world: World) -> None:
    for tenant, job in (("acme", "*"), ("a.b", "j1"), ("", "j1")):
        with pytest.raises(InvalidRequest):
            await world.first.journal.read(tenant, job)
        with pytest.raises(InvalidRequest):
            await world.first.journal.append(tenant, job, b"", fence=1, keep_s=1)
