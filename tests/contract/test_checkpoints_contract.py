"""What every `Checkpoints` promises."""

import pytest

from sidecar.errors import BusRefused, InvalidRequest
from tests.support.bus_world import World


async def test_the_last_checkpoint_is_loaded_by_every_replica(world: World) -> None:
    assert await world.first.checkpoints.load("quota") is None
    await world.first.checkpoints.save("quota", b"one")
    await world.second.checkpoints.save("quota", b"\x00two")
    await world.second.checkpoints.save("other", b"")
    assert await world.first.checkpoints.load("quota") == b"\x00two"
    assert await world.first.checkpoints.load("other") == b""


async def test_a_checkpoint_beyond_a_message_is_refused(world: World) -> None:
    await world.first.checkpoints.save("quota", b"one")
    with pytest.raises(BusRefused) as refused:
        await world.first.checkpoints.save("quota", b"x" * 1_100_000)
    assert refused.value.code == "payload_too_large"
    assert await world.first.checkpoints.load("quota") == b"one"


async def test_a_lease_is_no_checkpoint(world: World) -> None:
    await world.first.leases.acquire("quota", "r1", ttl_s=60)
    assert await world.first.checkpoints.load("quota") is None


async def test_only_names_name_checkpoints(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.first.checkpoints.save("a.>", b"x")
