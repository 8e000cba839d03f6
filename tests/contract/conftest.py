"""The worlds of the contract tests: a server in memory and a real one, each in both ways of reading."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.provision import ensure
from tests.support.bus_world import NatsWorld, World, bus_settings, memory_world
from tests.support.nats_server import AccountPool, no_environment


@pytest.fixture(
    params=[
        "memory",
        "memory-leader",
        pytest.param("nats", marks=[pytest.mark.nats, pytest.mark.servers]),
        pytest.param("nats-leader", marks=[pytest.mark.nats, pytest.mark.servers]),
    ]
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param.startswith("memory"):
        async with memory_world(is_replicated=request.param == "memory-leader") as made:
            yield made
        return
    pool: AccountPool = request.getfixturevalue("nats_server")
    access = pool.take()
    async with AsyncExitStack() as stack:
        muxes = []
        for _ in range(2):
            connection = Connection(access.settings(), environment=no_environment)
            stack.push_async_callback(connection.close)
            await connection.start()
            muxes.append(Mux(connection, timeout_s=20.0))
            stack.push_async_callback(muxes[-1].close)
            await muxes[-1].start()
        await ensure(muxes[0], bus_settings())
        yield NatsWorld(*muxes, is_replicated=request.param == "nats-leader")
        # The server counts every stream's reserved bytes together, over all accounts.
        for name in (await muxes[0].api("STREAM.NAMES"))["streams"]:
            await muxes[0].api(f"STREAM.DELETE.{name}")
