"""Processes that tests share: a demo, and one sidecar on a real NATS server and the emulator.

Each test uses tenants and job ids of its own.
"""

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from tests.support.demo import Demo, running_demo
from tests.support.emulator import EmulatorProcess, spawn_emulator
from tests.support.nats_server import AccountPool
from tests.support.process import SidecarProcess, spawn_sidecar
from tests.support.stranger import Stranger, stranger


class World(NamedTuple):
    nats_url: str
    emulator: EmulatorProcess
    sidecar: SidecarProcess


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """A demo that stays up for all tests that ask for it."""
    with running_demo() as up:
        yield up


@pytest.fixture(scope="session")
def bedrock() -> Iterator[EmulatorProcess]:
    with spawn_emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def world(nats_server: AccountPool, bedrock: EmulatorProcess) -> Iterator[World]:
    """What one replica needs, and the replica, as processes."""
    access = nats_server.take()
    with spawn_sidecar(access.url, bedrock.url) as sidecar:
        yield World(access.url, bedrock, sidecar)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Stranger]:
    """An application of a tenant that no other test has."""
    async with stranger(world.nats_url, f"t{uuid.uuid4().hex[:12]}") as found:
        yield found
    assert world.sidecar.is_running, world.sidecar.log[-2000:]
