"""What every `ToolStore` promises."""

import pytest

from sidecar.errors import Conflict
from sidecar.ports.tools import StoredTool, ToolChange, ToolKey
from tests.support.bus_world import World

KEY = ToolKey("acme", "orders", "1.2.0")
LATER = ToolKey("acme", "orders", "1.3.0-rc.1+build.5")
END = 1_900_000_000.0
KEEP_S = 600


async def test_what_was_put_is_read_by_every_replica(world: World) -> None:
    revision = await world.first.tools.put(KEY, b"{1}", expires=END, revision=0, keep_s=KEEP_S)
    stored = StoredTool(KEY, b"{1}", END, revision)
    assert await world.second.tools.get(KEY) == stored
    assert await world.second.tools.get(LATER) is None
    later = await world.second.tools.put(LATER, b"{2}", expires=END + 1, revision=0, keep_s=KEEP_S)
    snapshot = await world.first.tools.snapshot()
    assert list(snapshot.tools) == [stored, StoredTool(LATER, b"{2}", END + 1, later)]
    assert snapshot.revision == later == await world.first.tools.last_revision()
    assert later == revision + 1


async def test_a_write_needs_the_revision_that_is_there(world: World) -> None:
    first = await world.first.tools.put(KEY, b"{1}", expires=END, revision=0, keep_s=KEEP_S)
    with pytest.raises(Conflict):
        await world.second.tools.put(KEY, b"{2}", expires=END, revision=0, keep_s=KEEP_S)
    second = await world.second.tools.put(KEY, b"{1}", expires=END + 9, revision=first, keep_s=KEEP_S)
    with pytest.raises(Conflict):
        await world.first.tools.put(KEY, b"{2}", expires=END, revision=first, keep_s=KEEP_S)
    assert await world.first.tools.get(KEY) == StoredTool(KEY, b"{1}", END + 9, second)


async def test_a_version_forgotten_is_gone_and_may_come_again(world: World) -> None:
    revision = await world.first.tools.put(KEY, b"{1}", expires=END, revision=0, keep_s=KEEP_S)
    with pytest.raises(Conflict):
        await world.first.tools.delete(KEY, revision=revision + 1)
    await world.second.tools.delete(KEY, revision=revision)
    assert await world.first.tools.get(KEY) is None
    assert list((await world.first.tools.snapshot()).tools) == []
    again = await world.first.tools.put(KEY, b"{2}", expires=END, revision=0, keep_s=KEEP_S)
    assert await world.second.tools.get(KEY) == StoredTool(KEY, b"{2}", END, again)


async def test_every_write_is_heard_by_all_who_listen_with_consecutive_revisions(world: World) -> None:
    heard: list[ToolChange] = []
    other: list[ToolChange] = []
    await world.first.tools.listen(heard.append)
    await world.second.tools.listen(other.append)
    first = await world.first.tools.put(KEY, b"{1}", expires=END, revision=0, keep_s=KEEP_S)
    with pytest.raises(Conflict):
        await world.first.tools.put(KEY, b"{9}", expires=END, revision=0, keep_s=KEEP_S)
    second = await world.second.tools.put(KEY, b"{1}", expires=END + 5, revision=first, keep_s=KEEP_S)
    await world.first.tools.delete(KEY, revision=second)
    await world.until(lambda: len(heard) == 3 and len(other) == 3)
    assert (
        heard
        == other
        == [
            ToolChange(first, KEY, StoredTool(KEY, b"{1}", END, first)),
            ToolChange(first + 1, KEY, StoredTool(KEY, b"{1}", END + 5, second)),
            ToolChange(first + 2, KEY, None),
        ]
    )


async def test_a_version_is_forgotten_when_nobody_has_written_it_for_its_time(world: World) -> None:
    await world.first.tools.put(KEY, b"{1}", expires=END, revision=0, keep_s=1)
    for _ in range(100):
        if await world.second.tools.get(KEY) is None:
            break
        await world.elapse(0.25)
    assert await world.second.tools.get(KEY) is None
