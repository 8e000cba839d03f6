"""What every `PolicyStore` promises."""

import pytest

from sidecar.errors import Conflict
from sidecar.ports.cluster import StoredPolicy
from tests.support.bus_world import World
from tests.support.garbage import ACKNOWLEDGEMENTS

POLICY = "$KV.LLM_CONFIG.policy"
ACK = ACKNOWLEDGEMENTS["acknowledgement"]
ABSENT = StoredPolicy(None, "absent")
OVERRUN = StoredPolicy(None, "overrun")


async def test_the_last_document_is_what_every_replica_loads(world: World) -> None:
    assert await world.first.policies.load() == ABSENT
    await world.first.policies.save(b"one")
    await world.second.policies.save(b"two")
    assert await world.first.policies.load() == StoredPolicy(b"two", "said")


async def test_a_document_taken_away_is_not_there_any_more(world: World) -> None:
    await world.first.policies.save(b"one")
    await world.second.policies.save(None)
    assert await world.first.policies.load() == StoredPolicy(None, "said")


async def test_a_change_is_heard_by_all_who_listen(world: World) -> None:
    heard: list[str] = []
    await world.first.policies.listen(lambda: heard.append("first"))
    await world.second.policies.listen(lambda: heard.append("second"))
    await world.first.policies.save(b"one")
    await world.until(lambda: sorted(heard) == ["first", "second"])


@pytest.mark.parametrize("document", [b"one", b"\xff garbage of an operator's", None])
async def test_what_operators_said_stands_below_what_strangers_wrote(world: World, document: bytes | None) -> None:
    policies = world.first.policies
    await policies.save(document)
    for payload in ACKNOWLEDGEMENTS.values():
        await world.write(POLICY, payload)
        await world.write(POLICY, payload)
        assert await policies.load() == StoredPolicy(document, "said")
        assert await world.stored(POLICY) == [document or b""]
    assert world.foreign_writes["LLM_CONFIG"] == 2 * len(ACKNOWLEDGEMENTS)


async def test_where_nothing_was_said_a_stranger_says_nothing(world: World) -> None:
    for _ in range(9):
        await world.write(POLICY, ACK)
    assert await world.first.policies.load() == ABSENT
    assert await world.stored(POLICY) == []


async def test_what_was_pushed_out_by_strangers_is_not_taken_for_absent_until_it_is_put_back(world: World) -> None:
    policies = world.first.policies
    await policies.save(b"one")
    for _ in range(12):
        await world.write(POLICY, ACK)
    assert await policies.load() == OVERRUN
    assert await world.second.policies.load() == OVERRUN
    await policies.put_back(b"one")
    assert await world.second.policies.load() == StoredPolicy(b"one", "said")
    assert await world.stored(POLICY) == [b"one"]
    with pytest.raises(Conflict):
        await policies.put_back(b"older")


async def test_the_accepted_policy_is_kept_where_nobody_can_aim(world: World) -> None:
    policies = world.first.policies
    assert await policies.load_good() is None
    await policies.keep_good(b"one")
    for _ in range(12):
        await world.write(f"{POLICY}.good", ACK)
        await world.write(f"{POLICY}.good.x", ACK)
    assert await world.second.policies.load_good() == StoredPolicy(b"one", "said")
    await world.second.policies.keep_good(None)
    assert await policies.load_good() == StoredPolicy(None, "said")
    assert await policies.load() == ABSENT
