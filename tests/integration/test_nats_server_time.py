"""The server's time, asked of a real server."""

import time

import pytest

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.server_time import ServerTime
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.cli import doctor_nats
from sidecar.runtime.lifecycle import SystemClock
from sidecar.runtime.server_clock import ServerClock
from tests.support.bus_world import bus_settings
from tests.support.nats_server import Access

pytestmark = [pytest.mark.nats, pytest.mark.servers]


class WrongMachine(SystemClock):
    """An hour ahead."""

    @staticmethod
    def now() -> float:  # type: ignore[override]
        return time.time() + 3600


async def test_a_wrong_clock_is_put_right_by_one_answer(nats_mux: Mux) -> None:
    await ensure(nats_mux, bus_settings())
    clock, told = ServerClock(WrongMachine()), list[float | None]()
    server_time = ServerTime(nats_mux, clock, on_sample=lambda: told.append(clock.offset_s))
    await server_time.sample()
    assert abs(clock.now() - time.time()) < 20
    assert told[0] == pytest.approx(3600, abs=20)
    for _ in range(20):
        await server_time.sample()
    assert abs(clock.now() - time.time()) < 1
    assert not clock.is_in_doubt


async def test_without_the_stream_nothing_is_known_and_nothing_breaks(nats_mux: Mux) -> None:
    clock = ServerClock(WrongMachine())
    server_time = ServerTime(nats_mux, clock)
    with pytest.raises(NotFound):
        await server_time.sample()
    await server_time.try_sample()
    assert clock.offset_s is None


@pytest.mark.parametrize(("machine", "level"), [(SystemClock, "ok"), (WrongMachine, "warn")])
async def test_doctor_compares_the_clocks(
    nats_access: Access, nats_mux: Mux, monkeypatch: pytest.MonkeyPatch, machine: type[SystemClock], level: str
) -> None:
    await ensure(nats_mux, bus_settings())
    monkeypatch.setattr(doctor_nats, "SystemClock", machine)
    settings = bus_settings().model_copy(update={"nats": nats_access.settings()})
    (found,) = [f async for f in doctor_nats.findings(settings) if f.check == "clock"]
    assert found.level == level
    if level == "warn":
        assert "3600 s ahead of the NATS server's clock" in found.text
        assert "NTP" in found.remedy
