"""Fixtures that several kinds of tests share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from tests.support.nats_server import (
    Access,
    AccountPool,
    Server,
    make_server,
    no_environment,
    running,
    use_binaries,
)
from tests.support.process import use_launcher


def pytest_configure() -> None:
    use_binaries()
    # Most tests of processes wait for leases to end; the benchmarks measure the product's own.
    use_launcher("tests.support.short_leases")


@pytest.fixture(scope="session")
def nats_server() -> Iterator[AccountPool]:
    """The server that tests share; started by the first test that asks for it."""
    pool = AccountPool()
    yield pool
    pool.close()


@pytest.fixture
def nats_access(nats_server: AccountPool) -> Access:
    """The shared server, as an account of this test's own: no streams, no other clients."""
    return nats_server.take()


@pytest.fixture
def own_nats_server() -> Iterator[Server]:
    """A server of this test's own, to be killed and restarted."""
    with running(make_server()) as server:
        yield server


@pytest.fixture
async def nats_mux(nats_access: Access) -> AsyncIterator[Mux]:
    """A started mux on a fresh account; its connection is `nats_mux.connection`."""
    connection = Connection(nats_access.settings(), environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=20.0)
    await mux.start()
    yield mux
    await mux.close()
    await connection.close()
