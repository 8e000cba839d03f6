"""What holds on every supported nats-server, and what is said to those that are too old.

`./dev test-servers` runs this, and all that is marked `servers`, over the first and the last release of each line.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.adapters.nats import direct
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.direct import StreamReader
from sidecar.adapters.nats.embedded import NatsServer
from sidecar.adapters.nats.streams import levels
from sidecar.adapters.nats.streams.batches import stops_on_batches
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.adapters.nats.streams.upkeep import Upkeep
from sidecar.cli.doctor_nats import findings, is_strict
from sidecar.config.settings import Settings
from sidecar.errors import StartupError
from sidecar.runtime.lifecycle import SystemClock
from tests.support.nats_server import BINARIES, Access, api_level, is_too_old, no_environment, running
from tests.support.stranger import stranger
from tests.support.tenancy import configured

pytestmark = [pytest.mark.nats, pytest.mark.servers]

ROUNDS = 3000

too_old = pytest.mark.skipif(not is_too_old(), reason="this server is supported")


def settings(url: str, **more: object) -> Settings:
    return Settings.model_validate({"nats": {"url": url}, "retention": {"requests_bytes": 1 << 24}, **more})


def with_budget(url: str) -> Settings:
    return settings(url, tenants={"acme": {"budget_usd_per_day": 5.0}})


class StrictServer(NatsServer):
    """Refuses what it does not know also where its release does so only when told (2.11)."""

    def _configuration(self, run_dir: Path) -> str:
        return super()._configuration(run_dir).replace("jetstream {", "jetstream { strict: true,")


@asynccontextmanager
async def mux_to(url: str) -> AsyncIterator[Mux]:
    connection = Connection(settings(url).nats, environment=no_environment)
    await connection.start()
    mux = Mux(connection, timeout_s=20.0)
    await mux.start()
    try:
        yield mux
    finally:
        await mux.close()
        await connection.close()


@pytest.fixture
def strict_url() -> Iterator[str]:
    with running(StrictServer()) as server:
        yield server.url


async def test_a_strict_server_is_asked_for_nothing_that_it_does_not_know(
    strict_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the levels that are written down here no request is refused: its words are for surprises only."""

    def surprised(refusal: str) -> str | None:
        raise AssertionError(f"a configuration was refused: {refusal}")

    monkeypatch.setattr("sidecar.adapters.nats.streams.provision.unknown_field", surprised)
    async with mux_to(strict_url) as mux:
        await ensure(mux, settings(strict_url))
        await ensure(mux, settings(strict_url))


async def test_a_strict_servers_refusals_are_understood(strict_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the leader of a cluster is older than what was asked: nothing is left out beforehand."""
    monkeypatch.setattr(levels, "_LEVEL_OF", {})
    async with mux_to(strict_url) as mux:
        await ensure(mux, settings(strict_url))
        assert "LLM_REQ" in (await mux.api("STREAM.NAMES"))["streams"]


async def test_budgets_start_where_the_server_counts_and_nowhere_else(nats_access: Access) -> None:
    async with mux_to(nats_access.url) as mux:
        if await api_level(mux) < levels.LEVEL_THAT_COUNTS:
            with pytest.raises(StartupError, match=r"tenants\.acme\.budget_usd_per_day needs NATS server 2\.12"):
                await ensure(mux, with_budget(nats_access.url))
            return
        await ensure(mux, with_budget(nats_access.url))
        headers = {"Nats-Incr": "+5"}
        assert (await mux.store("llm.v1.spend.acme.20260101", b"", headers=headers)).value == "5"


async def test_doctor_finds_nothing_to_do_after_a_start(nats_access: Access) -> None:
    async with mux_to(nats_access.url) as mux:
        await ensure(mux, settings(nats_access.url))
    found = [finding async for finding in findings(settings(nats_access.url))]
    advised = {"server version"} if stops_on_batches(found[1].text.partition(":")[0]) else set()
    assert {finding.check for finding in found if finding.level != "ok"} <= {
        "sidecars",
        "JetStream API",
        *advised,
    }, found


async def test_doctor_says_what_a_budget_needs(nats_access: Access) -> None:
    async with mux_to(nats_access.url) as mux:
        counts = await api_level(mux) >= levels.LEVEL_THAT_COUNTS
    failed = [f async for f in findings(with_budget(nats_access.url)) if f.level == "fail"]
    assert [f.check for f in failed] == ([] if counts else ["JetStream version"])


async def test_a_running_process_outlives_a_leader_that_is_too_old(nats_access: Access) -> None:
    """As may be while a cluster is updated: what is there goes on, the reason is told, and goes away again."""
    told: list[str | None] = []
    async with mux_to(nats_access.url) as mux:
        await ensure(mux, settings(nats_access.url))
        upkeep = Upkeep(
            mux,
            settings=lambda: settings(nats_access.url),
            clock=SystemClock(),
            on_trouble=told.append,
            on_fatal=lambda error: pytest.fail(f"{error}"),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(levels, "OLDEST_LEVEL", 99)
            patch.setitem(levels._FIRST_RELEASE, 99, "9.9")  # type: ignore[arg-type]
            await upkeep.look()
        await upkeep.look()
    assert "older than 9.9" in (told[0] or "")
    assert told[1:] == [None]


async def test_reading_while_others_write_stops_no_server(nats_access: Access) -> None:
    """Two releases of 2.12 are stopped for good by batches."""
    async with mux_to(nats_access.url) as reading, mux_to(nats_access.url) as writing:
        await ensure(reading, settings(nats_access.url))
        reader = StreamReader(reading, "LLM_REQ", is_replicated=False)
        left = ROUNDS

        async def write(lane: int) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                ack = await writing.store(f"llm.v1.request.t{lane}.batch", b"{}")
                if left % 3:
                    await writing.api("STREAM.MSG.DELETE.LLM_REQ", {"seq": ack.seq, "no_erase": True})

        async def read(lane: int) -> None:
            while left > 0:
                await reader.batch(f"llm.v1.request.t{lane}.batch", seq=1, limit=16)
                beyond = await reader.beyond("llm.v1.request.>", seq=9)
                await reader.count("llm.v1.request.>", start=1, before=9, most=10, beyond=beyond)

        await asyncio.gather(*(work(lane) for lane in range(4) for work in (write, read)))
        assert (await reader.contents()).last_seq >= ROUNDS


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
async def test_one_by_one_is_read_what_a_batch_has(
    nats_access: Access, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    async with mux_to(nats_access.url) as mux:
        await ensure(mux, settings(nats_access.url))
        for i in range(60):
            await mux.store(f"llm.v1.request.t{i % 3}.batch", b"x" * i)
        for seq in (5, 11, 12):
            await mux.api("STREAM.MSG.DELETE.LLM_REQ", {"seq": seq})
        reader = StreamReader(mux, "LLM_REQ", is_replicated=False)

        async def everything() -> list[object]:
            found: list[object] = []
            for pattern in ("llm.v1.request.>", "llm.v1.request.t1.batch", "llm.v1.request.nobody.batch"):
                found.append([item async for item in reader.scan(pattern, seq=3)])
                found.append((await reader.batch(pattern, seq=4, limit=limit))[0])
                for start, before in ((0, 61), (3, 30), (12, 13), (70, 90)):
                    beyond = await reader.beyond(pattern, seq=before)
                    count = await reader.count(pattern, start=start, before=before, most=limit, beyond=beyond)
                    found.append(min(limit + 1, count))
            return found

        in_batches = None if stops_on_batches(mux.connection.server_version) else await everything()
        monkeypatch.setattr(direct, "stops_on_batches", lambda version: True)
        one_by_one = await everything()
        assert in_batches in (None, one_by_one)
        assert len(one_by_one[0]) == 55  # type: ignore[arg-type]


@pytest.mark.cluster
@pytest.mark.skipif(len(BINARIES) < 2, reason="needs the binaries of two releases")
async def test_streams_survive_an_update_and_a_step_back(tmp_path: Path) -> None:
    """One server over one store: the older release, the newer, the older again, with a request in it."""
    seqs = []
    for binary in (BINARIES[0], BINARIES[1], BINARIES[0]):
        with running(NatsServer(store_dir=tmp_path, binary=binary)) as server:
            async with mux_to(server.url) as mux:
                await ensure(mux, settings(server.url))
                seqs.append((await mux.store("llm.v1.request.acme.batch", b"{}")).seq)
    assert seqs == [1, 2, 3]


@too_old
async def test_a_server_that_is_too_old_is_refused() -> None:
    with running(NatsServer()) as server:
        async with mux_to(server.url) as mux:
            with pytest.raises(StartupError, match=r"is version 2\.10\.\d+: 2\.11 or newer is needed"):
                await ensure(mux, settings(server.url))
            assert (await mux.api("STREAM.NAMES"))["total"] == 0
        failed = [f async for f in findings(settings(server.url)) if f.level == "fail"]
        assert {f.check for f in failed} == {"server version", "JetStream version"}


API_TARGETS = (
    "STREAM.PURGE.LLM_REQ",
    "STREAM.PURGE.KV_LLM_CTL",
    "STREAM.MSG.DELETE.LLM_REQ",
    "STREAM.DELETE.LLM_REQ",
)


@pytest.mark.skipif(is_too_old(), reason="this server is refused")
async def test_an_acknowledgement_that_is_aimed_at_a_strict_api_does_nothing() -> None:
    """Users of one account; on 2.11 that needs the setting that docs/deploy.md names."""
    with running(StrictServer(config=configured("users"))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        async with (
            mux_to(url) as mux,
            stranger(server.url.replace("nats://", "nats://globex:p@"), "globex") as globex,
        ):
            await ensure(mux, settings(url))
            assert await is_strict(mux)
            await mux.store("$KV.LLM_CTL.lease.x", b"x")
            for count, target in enumerate(API_TARGETS, start=1):
                await globex.connection.publish(
                    "llm.v1.request.globex.batch", b"{}", reply=mux.api_subject(target)
                )
                await globex.connection.flush()
                async with asyncio.timeout(30):
                    while (await mux.api("STREAM.INFO.LLM_REQ"))["state"]["last_seq"] < count:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            # What was aimed was handled before this, which goes the same way.
            await mux.api("STREAM.NAMES")
            assert (await mux.api("STREAM.INFO.LLM_REQ"))["state"]["messages"] == len(API_TARGETS)
            assert (await mux.api("STREAM.INFO.KV_LLM_CTL"))["state"]["messages"] == 1


@pytest.mark.skipif(is_too_old(), reason="this server is refused")
async def test_doctor_tells_whether_the_api_is_strict(nats_access: Access) -> None:
    async with mux_to(nats_access.url) as mux:
        said = [f async for f in findings(settings(nats_access.url)) if f.check == "JetStream API"]
        version = tuple(map(int, mux.connection.server_version.split(".")[:2]))
        assert [finding.level for finding in said] == ([] if version >= (2, 12) else ["warn"])
