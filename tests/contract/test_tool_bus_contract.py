"""What every `ToolBus` promises."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from sidecar.errors import Permanent, Temporary
from sidecar.ports.bus import Reply
from sidecar.ports.tools import ToolCall
from tests.support.bus_world import NatsWorld, World
from tests.support.providers import Providers, heartbeat

SUBJECT = "llm.v1.call.acme.orders.1_2_0"
BOTH = pytest.mark.parametrize("world", ["memory", pytest.param("nats", marks=pytest.mark.nats)], indirect=True)


@pytest.fixture
async def providers(world: World) -> AsyncIterator[Providers]:
    assert isinstance(world, NatsWorld)
    made = Providers(world.other)
    yield made
    await made.close()


def call(timeout_s: float = 20.0, **more: Any) -> ToolCall:
    headers = {"Idempotency-Key": "job1-1", "Llm-Tenant": "acme"}
    return ToolCall(subject=SUBJECT, payload=b'{"id": 7}', headers=headers, timeout_s=timeout_s, **more)


@BOTH
async def test_a_call_brings_the_input_and_its_headers_and_returns_the_output(
    world: World, providers: Providers
) -> None:
    seen: list[Any] = []

    async def provider(payload: bytes, headers: Mapping[str, str]) -> bytes:
        seen.append((payload, dict(headers)))
        return b'{"ok": true}'

    await providers.provide(SUBJECT, provider)
    assert await world.first.tool_bus.call(call()) == b'{"ok": true}'
    assert seen == [(b'{"id": 7}', {"Idempotency-Key": "job1-1", "Llm-Tenant": "acme"})]
    assert providers.cancelled == []


@BOTH
async def test_without_a_provider_the_call_fails_at_once_and_nothing_can_have_run(
    world: World, providers: Providers
) -> None:
    with pytest.raises(Temporary) as caught:
        await world.first.tool_bus.call(call(timeout_s=3000))
    assert caught.value.code == "tool_failed"
    assert caught.value.details == {"outcome": "none"}


@BOTH
async def test_an_error_reply_is_the_tools_failure_with_its_number_and_text(
    world: World, providers: Providers
) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> bytes:
        raise Permanent("no such order", code="not_found")

    await providers.provide(SUBJECT, provider)
    with pytest.raises(Permanent) as caught:
        await world.first.tool_bus.call(call())
    assert (caught.value.code, caught.value.message) == ("tool_failed", "no such order")
    assert caught.value.details["number"] == "404"
    assert "no such order" in caught.value.details["body"]


@BOTH
async def test_an_error_without_a_number_or_a_body_is_an_error(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        yield Reply(b"", {"Nats-Service-Error": "broken"})

    await providers.provide(SUBJECT, provider)
    with pytest.raises(Permanent, match="broken"):
        await world.first.tool_bus.call(call())


@BOTH
async def test_heartbeats_are_not_the_answer_and_what_comes_after_it_is_dropped(
    world: World, providers: Providers
) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        yield heartbeat()
        yield Reply(b'{"percent": 50}', {"Llm-Tool-Progress": "in_progress"})
        yield Reply(b'"done"')
        yield Reply(b'"twice"')
        yield heartbeat()

    await providers.provide(SUBJECT, provider)
    assert await world.first.tool_bus.call(call()) == b'"done"'


@BOTH
async def test_a_provider_that_floods_its_caller_is_not_heard_any_more(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        for _ in range(20_000):
            yield heartbeat()
        yield Reply(b'"done"')

    await providers.provide(SUBJECT, provider)
    with pytest.raises(Permanent, match="heartbeats in a second") as caught:
        await world.first.tool_bus.call(call())
    assert (caught.value.code, caught.value.details["outcome"]) == ("tool_failed", "unknown")
    await world.until(lambda: len(providers.cancelled) == 1)


@pytest.mark.parametrize("world", ["memory"], indirect=True)
async def test_each_heartbeat_gives_the_call_another_timeout(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        for _ in range(3):
            await asyncio.sleep(9)
            yield heartbeat()
        await asyncio.sleep(11)
        yield Reply(b'"late"')

    await providers.provide(SUBJECT, provider)
    with pytest.raises(Temporary, match="within 10 s"):
        await world.first.tool_bus.call(call(timeout_s=10.0))
    assert world.now() == pytest.approx(1_800_000_000 + 3 * 9 + 10)


@BOTH
async def test_heartbeats_do_not_carry_a_call_past_its_deadline(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        while True:
            yield heartbeat()
            await asyncio.sleep(0.05)

    await providers.provide(SUBJECT, provider)
    with pytest.raises(Temporary, match="deadline") as caught:
        await world.first.tool_bus.call(call(deadline=world.now() + 0.5))
    assert caught.value.details["outcome"] == "unknown"
    await world.until(lambda: len(providers.cancelled) == 1)


@BOTH
async def test_a_tool_that_is_silent_is_given_up_and_told_so(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> bytes:
        await asyncio.sleep(3000)
        return b"late"

    await providers.provide(SUBJECT, provider)
    with pytest.raises(Temporary) as caught:
        await world.first.tool_bus.call(call(timeout_s=0.3))
    assert caught.value.details["outcome"] == "unknown"
    await world.until(lambda: len(providers.cancelled) == 1)
    assert providers.cancelled[0]["Idempotency-Key"] == "job1-1"


@BOTH
async def test_a_call_that_is_cancelled_is_told_to_its_providers(world: World, providers: Providers) -> None:
    called = asyncio.Event()

    async def provider(payload: bytes, headers: Mapping[str, str]) -> bytes:
        called.set()
        await asyncio.sleep(3000)
        return b"late"

    await providers.provide(SUBJECT, provider)
    calling = asyncio.ensure_future(world.first.tool_bus.call(call(timeout_s=600)))
    await called.wait()
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled()
    await world.until(lambda: len(providers.cancelled) == 1)
    assert providers.cancelled[0]["Idempotency-Key"] == "job1-1"


@BOTH
async def test_an_output_beyond_a_megabyte_is_a_failure(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> bytes:
        return b"x" * (1024 * 1024)

    await providers.provide(SUBJECT, provider)
    assert len(await world.first.tool_bus.call(call())) == 1024 * 1024
    from sidecar.adapters.nats.tool_outcome import output

    with pytest.raises(Permanent, match="larger"):
        output(b"x" * 11, {}, most_bytes=10)


@BOTH
async def test_an_empty_reply_is_an_empty_output(world: World, providers: Providers) -> None:
    async def provider(payload: bytes, headers: Mapping[str, str]) -> bytes:
        return b""

    await providers.provide(SUBJECT, provider)
    assert await world.first.tool_bus.call(call()) == b""
