"""A connection of the operator's own, for commands that are no tenant's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.cli.invocation import Invocation
from sidecar.config.connection import ConnectionSettings
from sidecar.errors import BusUnavailable


@asynccontextmanager
async def connected(invocation: Invocation, *, name: str) -> AsyncIterator[Mux]:
    """A started mux. Raises BusUnavailable when no server answers within the connect timeout."""
    settings = ConnectionSettings(
        url=invocation.server,
        context=invocation.context,
        creds=invocation.creds,
        connect_timeout_s=invocation.connect_timeout_s,
    )
    connection = Connection(settings, name=f"llm-sidecar {name}")
    try:
        try:
            async with asyncio.timeout(invocation.connect_timeout_s):
                await connection.start()
        except TimeoutError as e:
            raise connection.last_error or BusUnavailable("no NATS server answered in time") from e
        mux = Mux(connection)
        await mux.start()
        try:
            yield mux
        finally:
            await mux.close()
    finally:
        await connection.close()
