"""What strangers wrote is no document, in every store, and nobody waits for it."""

import pytest

from sidecar.errors import Conflict
from tests.support.bus_world import World
from tests.support.garbage import GARBAGE

LEASE = "$KV.LLM_CTL.lease.scheduler"
ACK = b'{"stream":"LLM_REQ","seq":1}'


async def test_what_is_no_lease_is_taken_at_once(world: World) -> None:
    for payload in GARBAGE.values():
        await world.write(LEASE, payload)
        assert await world.first.leases.holder("scheduler") is None
        revision = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
        assert revision is not None, payload[:40]
        assert await world.second.leases.holder("scheduler") == "r1"
        assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60) is None
    assert world.foreign_writes["LLM_CTL"] == len(GARBAGE)


@pytest.mark.parametrize(
    "headers", [{}, {"Nats-TTL": "31536000"}, {"Nats-TTL": "never"}, {"KV-Operation": "PUT"}, {"X": "Nats-TTL: 5"}]
)
async def test_a_name_without_an_end_is_no_lease(world: World, headers: dict[str, str]) -> None:
    await world.write(LEASE, b"somebody", headers=headers)
    assert await world.first.leases.acquire("scheduler", "r1", ttl_s=60) is not None


async def test_a_holder_keeps_its_lease_whatever_is_written_over_it(world: World) -> None:
    leases = world.first.leases
    revision = await leases.acquire("scheduler", "r1", ttl_s=60)
    for payload in GARBAGE.values():
        assert revision is not None
        await world.write(LEASE, payload)
        assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60, foreign_s=60.0) is None
        revision = await leases.renew("scheduler", "r1", revision=revision, ttl_s=60)
        assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60) is None


async def test_a_lease_that_went_to_a_rival_over_a_foreign_value_is_not_renewed(world: World) -> None:
    first = await world.first.leases.acquire("scheduler", "r1", ttl_s=60)
    assert first is not None
    await world.write(LEASE, ACK)
    assert await world.second.leases.acquire("scheduler", "r2", ttl_s=60) is not None
    with pytest.raises(Conflict):
        await world.first.leases.renew("scheduler", "r1", revision=first, ttl_s=60)
    assert await world.first.leases.holder("scheduler") == "r2"
