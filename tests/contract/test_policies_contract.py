"""What every `PolicyStore` promises."""

from tests.support.bus_world import World


async def test_the_last_document_is_what_every_replica_loads(world: World) -> None:
    assert await world.first.policies.load() is None
    await world.first.policies.save(b"one")
    await world.second.policies.save(b"two")
    assert await world.first.policies.load() == b"two"


async def test_a_document_taken_away_is_not_there_any_more(world: World) -> None:
    await world.first.policies.save(b"one")
    await world.second.policies.save(None)
    assert await world.first.policies.load() is None


async def test_a_change_is_heard_by_all_who_listen(world: World) -> None:
    heard: list[str] = []
    await world.first.policies.listen(lambda: heard.append("first"))
    await world.second.policies.listen(lambda: heard.append("second"))
    await world.first.policies.save(b"one")
    await world.until(lambda: sorted(heard) == ["first", "second"])
