"""What every `PromptStore` promises."""

import pytest

from sidecar.errors import Conflict
from tests.support.bus_world import World

KEY = "shared.greet.1"


async def test_what_was_created_is_loaded_by_every_replica(world: World) -> None:
    assert list((await world.first.prompts.load()).prompts) == []
    mark = await world.second.prompts.mark()
    revision = await world.first.prompts.create(KEY, b"one")
    await world.first.prompts.create("acme.greet.2_0", b"two")
    assert await world.second.prompts.mark() != mark
    found = {prompt.key: prompt for prompt in (await world.second.prompts.load()).prompts}
    assert {key: prompt.document for key, prompt in found.items()} == {KEY: b"one", "acme.greet.2_0": b"two"}
    assert found[KEY].revision == revision


async def test_a_key_is_created_once(world: World) -> None:
    await world.first.prompts.create(KEY, b"one")
    with pytest.raises(Conflict):
        await world.second.prompts.create(KEY, b"two")


async def test_one_taken_away_may_be_created_again_and_its_past_is_kept(world: World) -> None:
    first = await world.first.prompts.create(KEY, b"one")
    await world.second.prompts.delete(KEY)
    assert list((await world.first.prompts.load()).prompts) == []
    second = await world.first.prompts.create(KEY, b"two")
    assert second > first
    assert await world.second.prompts.get(KEY, revision=first) == b"one"
    assert await world.second.prompts.get(KEY, revision=second) == b"two"
    assert await world.second.prompts.get(KEY, revision=first + 1) is None
    assert await world.second.prompts.get("shared.other.1", revision=first) is None
    assert await world.second.prompts.get(KEY, revision=second + 100) is None


async def test_changes_are_heard_with_what_they_say(world: World) -> None:
    heard: list[tuple[str, bytes | None]] = []
    await world.second.prompts.listen(lambda key, document: heard.append((key, document)))
    await world.first.prompts.create(KEY, b"one")
    await world.first.prompts.delete(KEY)
    await world.until(lambda: heard == [(KEY, b"one"), (KEY, None)])
