"""What every `ClusterBus` promises."""

import asyncio

import pytest

from sidecar.errors import BusUnavailable, InvalidRequest
from tests.support.bus_world import World


async def test_everybody_who_listens_hears_what_is_published_in_order(world: World) -> None:
    heard: list[tuple[str, bytes]] = []
    await world.first.cluster.subscribe("heartbeat", lambda payload: heard.append(("first", payload)))
    await world.second.cluster.subscribe("heartbeat", lambda payload: heard.append(("second", payload)))
    for text in (b"one", b"two"):
        world.first.cluster.publish("heartbeat", text)
    await world.until(lambda: len(heard) == 4)
    assert [text for who, text in heard if who == "first"] == [b"one", b"two"]
    assert [text for who, text in heard if who == "second"] == [b"one", b"two"]


async def test_a_topic_is_heard_by_its_listeners_only(world: World) -> None:
    heard: list[bytes] = []
    await world.second.cluster.subscribe("to.r2", heard.append)
    world.first.cluster.publish("to.r1", b"not for you")
    world.first.cluster.publish("to.r2", b"for you")
    await world.until(lambda: bool(heard))
    assert heard == [b"for you"]


async def test_a_request_is_answered_by_who_serves_it(world: World) -> None:
    await world.second.cluster.serve("grant.r2", lambda payload: payload.upper())
    assert await world.first.cluster.request("grant.r2", b"hello", timeout_s=20) == b"HELLO"


async def test_that_nobody_serves_a_topic_is_known_at_once(world: World) -> None:
    with pytest.raises(BusUnavailable) as refused:
        await asyncio.wait_for(world.first.cluster.request("grant.nobody", b"", timeout_s=3600), 30)
    assert refused.value.details["status"] == 503


async def test_after_close_nothing_is_heard_or_answered(world: World) -> None:
    heard: list[bytes] = []
    await world.second.cluster.serve("grant.r2", lambda payload: payload)
    await world.second.cluster.subscribe("heartbeat", heard.append)
    await world.second.cluster.close()
    await world.first.cluster.subscribe("heartbeat", heard.append)
    with pytest.raises(BusUnavailable):
        await world.first.cluster.request("grant.r2", b"", timeout_s=20)
    world.first.cluster.publish("heartbeat", b"one")
    await world.until(lambda: bool(heard))
    assert heard == [b"one"]


@pytest.mark.parametrize("topic", ["", "a..b", "grant.*", ">", "a b"])
async def test_only_names_make_topics(world: World, topic: str) -> None:
    with pytest.raises(InvalidRequest):
        world.first.cluster.publish(topic, b"")
    with pytest.raises(InvalidRequest):
        await world.first.cluster.request(topic, b"", timeout_s=1)
