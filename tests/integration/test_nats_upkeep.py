"""Streams that go away under a running process, on a real server."""

import asyncio

import pytest

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.adapters.nats.streams.upkeep import SEQUENCE_GAP, Upkeep
from sidecar.errors import StartupError
from sidecar.runtime.lifecycle import SystemClock
from tests.support.bus_world import bus_settings

pytestmark = [pytest.mark.nats, pytest.mark.servers]


class Hasty(SystemClock):
    """Does not wait between two looks."""

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)


class Told:
    def __init__(self, mux: Mux) -> None:
        self.reasons: list[str | None] = []
        self.fatal: list[BaseException] = []
        self.upkeep = Upkeep(
            mux,
            settings=bus_settings,
            clock=Hasty(),
            on_trouble=self.reasons.append,
            on_fatal=self.fatal.append,
        )


async def test_a_deleted_stream_goes_on_above_its_last_sequence(nats_mux: Mux) -> None:
    await ensure(nats_mux, bus_settings())
    told = Told(nats_mux)
    for _ in range(3):
        last = (await nats_mux.store("llm.v1.request.acme.batch", b"{}")).seq
    await told.upkeep.look()
    assert told.reasons == [None]
    await nats_mux.api("STREAM.DELETE.LLM_REQ")
    await told.upkeep.look()
    assert "LLM_REQ" in (told.reasons[1] or "")
    assert told.reasons[2:] == [None]
    assert (await nats_mux.store("llm.v1.request.acme.batch", b"{}")).seq == last + SEQUENCE_GAP
    await told.upkeep.look()
    assert told.reasons[3:] == [None]


async def test_what_cannot_be_made_anew_ends_the_process_with_the_reason(nats_mux: Mux) -> None:
    await ensure(nats_mux, bus_settings())
    told = Told(nats_mux)
    await nats_mux.api("STREAM.DELETE.LLM_REQ")
    await nats_mux.api("STREAM.CREATE.foreign", {"name": "foreign", "subjects": ["llm.v1.request.>"]})
    async with asyncio.timeout(30):
        await told.upkeep.run()
    (error,) = told.fatal
    assert isinstance(error, StartupError)
    assert "foreign" in error.message


async def test_a_full_stream_is_a_reason_until_there_is_room(nats_mux: Mux) -> None:
    await ensure(nats_mux, bus_settings())
    told = Told(nats_mux)
    await nats_mux.store("$KV.LLM_JOB.acme.j1", b"x" * 2000)
    config = (await nats_mux.api("STREAM.INFO.KV_LLM_JOB"))["config"]
    await nats_mux.api("STREAM.UPDATE.KV_LLM_JOB", {**config, "max_bytes": 2100})
    await told.upkeep.look()
    assert "KV_LLM_JOB" in (told.reasons[-1] or "")
    await nats_mux.api("STREAM.UPDATE.KV_LLM_JOB", config)
    await told.upkeep.look()
    assert told.reasons[-1] is None
