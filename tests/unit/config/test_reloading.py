"""The policy while the process runs: what is taken over, and that the last good one stays."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.policies import NatsPolicyStore
from sidecar.config.reloading import Reloader
from sidecar.config.settings import Policy, TenantPolicy, load, merge_policy
from sidecar.errors import StartupError
from sidecar.runtime.lifecycle import Health
from tests.support.garbage import ACKNOWLEDGEMENTS, GARBAGE
from tests.support.jetstream.link import connect, disconnect
from tests.support.jetstream.server import FakeJetStream
from tests.support.replica import bench
from tests.support.virtual_time import VirtualClock


class World:
    def __init__(
        self, path: Path, text: str, *, clock: VirtualClock, bus: FakeJetStream, one: Mux, other: Mux
    ) -> None:
        self.path = path
        self.write(text)
        self.clock = clock
        self.bus = bus
        self.other = other
        self.store = NatsPolicyStore(other)
        self.health = Health()
        self.applied: list[Policy] = []
        self.crashes: list[BaseException] = []
        self.refuses: str | None = None
        self.reloader = Reloader(
            store=NatsPolicyStore(one),
            read_file=lambda: load(path).policy,
            path=path,
            current=load(path).policy,
            apply=self.apply,
            health=self.health,
            clock=self.clock,
            on_crash=self.crashes.append,
        )

    def another(self, path: Path) -> "World":
        """Another replica on the same bus."""
        return World(
            path, "[tenants.acme]\nweight = 2\n", clock=self.clock, bus=self.bus, one=self.other, other=self.other
        )

    def write(self, text: str) -> None:
        self.path.write_text(text)

    async def apply(self, policy: Policy) -> None:
        if self.refuses:
            raise StartupError(self.refuses)
        self.applied.append(policy)

    async def save(self, document: bytes | None) -> None:
        await self.clock.run(self.store.save(document))
        await self.clock.advance(0.1)


@pytest.fixture
async def idle(tmp_path: Path) -> Any:
    """A world whose replica has not started yet."""
    clock = VirtualClock()
    bus = FakeJetStream(clock)
    one, other = await connect(bus, "one"), await connect(bus, "other")
    path, text = tmp_path / "sidecar.toml", "[tenants.acme]\nweight = 2\n"
    yield World(path, text, clock=clock, bus=bus, one=one, other=other)
    await disconnect(one)
    await disconnect(other)


@pytest.fixture
async def world(idle: World) -> Any:
    await idle.reloader.start()
    yield idle
    await idle.reloader.stop()
    made = idle
    assert not made.crashes


async def test_a_file_that_changes_is_taken_over_within_a_moment(world: World) -> None:
    world.write("[tenants.acme]\nweight = 3.5\nmax_queue = 7\n")
    await world.clock.advance(1.1)
    assert [p.tenant("acme") for p in world.applied] == [TenantPolicy(weight=3.5, max_queue=7)]


async def test_a_bad_file_changes_nothing_and_is_told_until_it_is_mended(world: World) -> None:
    world.write("[tenants.acme]\nwieght = 3\n")
    await world.clock.advance(1.1)
    assert world.applied == []
    assert not world.reloader.is_ok
    assert "tenants.acme.wieght" in world.health.reasons["config"]
    world.write("[tenants.acme]\nweight = 30\n")
    await world.clock.advance(1.1)
    assert world.health.reasons == {}
    assert world.applied[-1].tenant("acme").weight == 30


async def test_a_file_that_goes_away_leaves_the_old_policy(world: World) -> None:
    world.path.unlink()
    await world.clock.advance(1.1)
    assert world.applied == []
    assert "does not exist" in world.health.reasons["config"]


@pytest.mark.parametrize(
    "document", [b"[tenants.beta]\nweight = 9\n", b'{"tenants": {"beta": {"weight": 9}}}'], ids=["toml", "json"]
)
async def test_what_is_on_the_bus_stands_over_the_file(world: World, document: bytes) -> None:
    await world.save(document)
    assert world.applied[-1].tenant("beta").weight == 9
    assert world.applied[-1].tenant("acme").weight == 2
    await world.save(None)
    assert "beta" not in world.applied[-1].tenants


@pytest.mark.parametrize(
    "document", [b"[tenants", b"\xff", b"{]", b"[tenants.a]\nweight = -1\n", b"[bedrock]\nregions = []"]
)
async def test_a_bad_document_on_the_bus_is_refused_with_its_reason(world: World, document: bytes) -> None:
    await world.save(document)
    assert world.applied == []
    assert "policy" in world.health.reasons["config"]
    await world.save(None)
    assert world.health.reasons == {}


async def test_a_hint_that_was_lost_is_made_good_by_reading_again(world: World) -> None:
    world.bus.deliveries = lambda delivery: ()
    await world.save(b"[tenants.beta]\nweight = 9\n")
    assert world.applied == []
    await world.clock.advance(16.0)
    assert world.applied[-1].tenant("beta").weight == 9


async def test_a_policy_that_cannot_be_applied_is_tried_again_on_request(world: World) -> None:
    world.refuses = "no such model"
    world.write("[tenants.acme]\nweight = 4\n")
    await world.clock.advance(1.1)
    assert "no such model" in world.health.reasons["config"]
    world.refuses = None
    world.reloader.reload()
    await world.clock.advance(0.1)
    assert world.applied[-1].tenant("acme").weight == 4
    assert world.reloader.is_ok


def test_an_entry_of_the_document_replaces_the_whole_entry() -> None:
    base = Policy(tenants={"a": TenantPolicy(weight=2, max_queue=5), "b": TenantPolicy(weight=3)})
    merged = merge_policy(base, b"[tenants.a]\nweight = 4\n[classes.batch]\nweight = 2\n")
    assert merged.tenant("a") == TenantPolicy(weight=4)
    assert merged.tenant("b").weight == 3
    assert merged.classes["batch"].weight == 2
    assert merged.classes["interactive"].weight == 100


async def test_new_weights_and_denials_hold_for_the_next_job() -> None:
    async with bench() as made:
        replica = await made.replica()
        job = await made.submit()
        assert (await made.result(job)).state == "succeeded"
        replica.apply(Policy(tenants={"acme": TenantPolicy(deny=True)}))
        job = await made.submit()
        result = await made.result(job)
        assert result.state == "rejected"
        assert result.error is not None
        assert result.error.code == "tenant_denied"


ACK = ACKNOWLEDGEMENTS["acknowledgement"]
BETA = b"[tenants.beta]\nweight = 9\n"
REFUSED = [
    b"[tenants",
    b"\xff",
    b"[tenants.a]\nweight = inf\n",
    GARBAGE["nested object"],
    GARBAGE["TOML brackets"],
]


def write_over(world: World, payload: bytes = ACK, times: int = 1) -> None:
    for _ in range(times):
        world.bus.write("$KV.LLM_CONFIG.policy", payload)


@pytest.mark.parametrize("times", [1, 9, 10, 40])
@pytest.mark.parametrize("payload", ACKNOWLEDGEMENTS.values(), ids=ACKNOWLEDGEMENTS)
async def test_strangers_change_nothing_while_it_runs(world: World, payload: bytes, times: int) -> None:
    await world.save(BETA)
    applied = list(world.applied)
    write_over(world, payload, times)
    await world.clock.advance(20)
    assert world.applied == applied
    assert world.reloader.is_ok
    assert world.health.reasons == {}
    assert [entry.payload for entry in world.bus.stream("KV_LLM_CONFIG").find("$KV.LLM_CONFIG.policy")] == [BETA]


@pytest.mark.parametrize("times", [0, 1, 9, 10, 40])
@pytest.mark.parametrize("is_running", [True, False])
async def test_who_starts_goes_by_the_policy_that_was_accepted_whatever_lies_over_it(
    world: World, tmp_path: Path, times: int, is_running: bool
) -> None:
    await world.save(BETA)
    if not is_running:
        await world.reloader.stop()
    write_over(world, times=times)
    late = world.another(tmp_path / "late.toml")
    await late.clock.run(late.reloader.start())
    assert late.applied[-1].tenant("beta").weight == 9
    assert late.health.reasons == {}
    await late.reloader.stop()


@pytest.mark.parametrize("document", REFUSED)
async def test_who_starts_with_a_refused_policy_goes_by_the_last_good_one_and_says_so(
    world: World, tmp_path: Path, document: bytes
) -> None:
    await world.save(BETA)
    await world.save(document)
    late = world.another(tmp_path / "late.toml")
    await late.clock.run(late.reloader.start())
    assert late.applied[-1].tenant("beta").weight == 9
    assert not late.reloader.is_ok
    assert "LLM_CONFIG, key policy" in late.health.reasons["config"]
    assert "accepted last" in late.health.reasons["config"]
    await world.save(b"[tenants.beta]\nweight = 11\n")
    await late.clock.advance(1)
    assert late.applied[-1].tenant("beta").weight == 11
    assert late.health.reasons == {}
    await late.reloader.stop()


@pytest.mark.parametrize("document", REFUSED)
async def test_who_starts_with_a_refused_policy_and_no_good_one_waits_and_says_why(
    idle: World, document: bytes
) -> None:
    await idle.save(document)
    starting = asyncio.ensure_future(idle.reloader.start())
    await idle.clock.advance(40)
    assert not starting.done()
    assert not idle.reloader.is_ok
    assert "waits for a policy" in idle.health.reasons["config"]
    assert "LLM_CONFIG, key policy" in idle.health.reasons["config"]
    await idle.save(BETA)
    await idle.clock.advance(2)
    await starting
    assert idle.applied[-1].tenant("beta").weight == 9
    assert idle.health.reasons == {}
    await idle.reloader.stop()


async def test_who_starts_where_strangers_pushed_all_out_waits_for_an_operator(
    idle: World,
) -> None:
    write_over(idle, times=12)
    starting = asyncio.ensure_future(idle.reloader.start())
    await idle.clock.advance(40)
    assert not starting.done()
    assert "strangers" in idle.health.reasons["config"]
    await idle.save(None)
    await idle.clock.advance(2)
    await starting
    assert idle.applied == []
    await idle.reloader.stop()


async def test_a_few_strange_words_where_no_policy_ever_was_are_none(idle: World) -> None:
    write_over(idle, times=9)
    await idle.clock.run(idle.reloader.start())
    assert idle.applied == []
    assert idle.health.reasons == {}
    write_over(idle, times=40)
    await idle.clock.advance(20)
    assert (idle.applied, idle.health.reasons) == ([], {})
    await idle.reloader.stop()


async def test_a_policy_that_an_operator_took_away_stays_away(world: World, tmp_path: Path) -> None:
    await world.save(BETA)
    await world.save(None)
    write_over(world, times=40)
    await world.clock.advance(20)
    assert "beta" not in world.applied[-1].tenants
    late = world.another(tmp_path / "late.toml")
    await late.clock.run(late.reloader.start())
    assert late.applied == []
    await late.reloader.stop()


async def test_who_starts_while_the_bus_is_away_waits_for_what_it_says(idle: World) -> None:
    await idle.save(BETA)
    idle.bus.partition("one")
    starting = asyncio.ensure_future(idle.reloader.start())
    await idle.clock.advance(30)
    assert not starting.done()
    assert "waits for the policy" in idle.health.reasons["config"]
    idle.bus.heal("one")
    await idle.clock.advance(10)
    await starting
    assert idle.applied[-1].tenant("beta").weight == 9
    await idle.reloader.stop()


@pytest.mark.parametrize("name", ["a.b", "*", "acme ", "a" * 65, ""])
def test_limits_under_a_name_that_no_tenant_can_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no tenant's name"):
        Policy.model_validate({"tenants": {name: {"max_concurrency": 1}}})
