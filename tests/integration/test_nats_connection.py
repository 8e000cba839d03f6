"""The connection against a real server that is killed, restarted and reconfigured."""

import asyncio

import pytest

from sidecar.adapters.nats.mux import Mux

pytestmark = pytest.mark.nats


async def test_smoke(nats_mux: Mux) -> None:
    info = await nats_mux.api("INFO")
    assert info["streams"] == 0
