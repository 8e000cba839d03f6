"""When a connection is given up."""

import asyncio

import pytest

from sidecar.adapters.nats.client.watchdog import watch
from sidecar.errors import BusUnavailable


async def test_a_lost_connection_ends_the_watch_at_once() -> None:
    lost = asyncio.Event()

    async def ping() -> None:
        pytest.fail("no ping is due")

    watching = asyncio.create_task(watch(ping, lost, every_s=3600))
    await asyncio.sleep(0)
    lost.set()
    assert await watching == "the connection was closed"


async def test_an_unanswered_ping_ends_the_watch() -> None:
    pings = 0

    async def ping() -> None:
        nonlocal pings
        pings += 1
        if pings == 3:
            await asyncio.Event().wait()

    assert "no answer to a ping" in await watch(ping, asyncio.Event(), every_s=0.01)
    assert pings == 3


@pytest.mark.parametrize("error", [BusUnavailable("gone"), ConnectionResetError("gone"), RuntimeError("gone")])
async def test_a_ping_that_fails_ends_the_watch(error: Exception) -> None:
    async def ping() -> None:
        raise error

    assert await watch(ping, asyncio.Event(), every_s=0.01) == "the ping failed: gone"


async def test_a_cancelled_watch_passes_the_cancellation_on() -> None:
    async def ping() -> None: ...

    watching = asyncio.create_task(watch(ping, asyncio.Event(), every_s=3600))
    await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_an_answer_that_stands_behind_much_else_is_waited_for() -> None:
    heard = pings = 0

    async def ping() -> None:
        nonlocal heard, pings
        pings += 1
        # Something is read while three answers are waited for; then nothing comes any more.
        heard += pings <= 3
        await asyncio.Event().wait()

    assert "no answer to a ping" in await watch(ping, asyncio.Event(), every_s=0.01, heard=lambda: heard)
    assert pings == 4
