"""The invariant, by chance: whatever strangers do to what is kept of jobs, each ends once, no slot is lost, and
nobody else waits longer.

Two replicas work for two tenants; one replica's clock is an hour ahead, and both stand still for a moment now and
then, as a loop does that somebody else's work holds up. One tenant's jobs are attacked in all ways of
`tests/support/strangers.py`, in an order that the printed seed decides; the other tenant's plain jobs are timed.
`SIDECAR_TEST_STRANGERS_S` makes it last longer (default 10 s a seed), `SIDECAR_TEST_STRANGERS_SEEDS` names the
seeds, `SIDECAR_TEST_STRANGERS_COPIES` how many copies streams have: 1 (default) on one server, or 1,3 for a
cluster too.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from nats.aio.msg import Msg

from sidecar.errors import SidecarError
from sidecar.models.believed import result_of
from tests.support.emulator import EmulatorProcess
from tests.support.fleet_processes import Fleet
from tests.support.nats_server import AccountPool, make_cluster
from tests.support.process import wait_until
from tests.support.stranger import Stranger, asks, stranger
from tests.support.strangers import ALL, Attacker, Target, attacker

LASTS_S = float(os.environ.get("SIDECAR_TEST_STRANGERS_S", "10"))
SEEDS = [int(seed) for seed in os.environ.get("SIDECAR_TEST_STRANGERS_SEEDS", "1").split(",")]
COPIES = [int(copies) for copies in os.environ.get("SIDECAR_TEST_STRANGERS_COPIES", "1").split(",")]
SLOTS = 4
AT_ONCE = 5
BOUND_S = 3.0
PATIENCE_S = 120.0
EVERY_S = 0.05
AHEAD_S = 3600.0
# How long a replica stands still, and how long it runs in between.
STALLS_S = (0.1, 0.8)
RUNS_S = (0.5, 2.0)
CALM_EVERY_S = 0.2
KINDS: dict[str, dict[str, Any]] = {
    "plain": asks("[[tokens=20 tps=20]] go on"),
    "streamed": asks("[[tokens=20 tps=20]] go on", stream=True),
    "batch": asks("[[tokens=5]] go on"),
    "with a tool": asks("[[tool=slow input={}]] go on", tools=["slow"]),
    "with two turns": asks("[[tool=slow turn=1]] [[tool=slow turn=2]] go on", tools=["slow"]),
}

pytestmark = pytest.mark.nats


class Victim:
    """A tenant whose jobs are attacked; `ends` counts the results that were said of each."""

    def __init__(self, client: Stranger, chance: random.Random) -> None:
        self.client = client
        self.chance = chance
        self.ends: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.jobs: list[str] = []
        self._ended = asyncio.Event()

    async def begin(self) -> None:
        await self.client.connection.subscribe(f"llm.v1.job.{self.client.tenant}.*.result", cb=self._hear)
        registration = {
            "name": "slow",
            "version": "1.0.0",
            "description": "Takes a while.",
            "input_schema": {"type": "object"},
            "idempotent": True,
            "ttl_s": 600,
        }
        answer = await self.client.answer("tools", self.client.tenant, "register", payload=registration)
        await self.client.connection.subscribe(answer["subject"], queue="tool", cb=self._serve)
        await self.client.connection.flush()

    async def _serve(self, message: Msg) -> None:
        await asyncio.sleep(0.4)
        await message.respond(b'{"said": "done"}')

    async def _hear(self, message: Msg) -> None:
        job = message.subject.split(".")[4]
        # What is no result of this job is passed over, as any client does.
        if (event := result_of(message.data, tenant=self.client.tenant, job=job)) is not None:
            self.ends[job] += 1
            self.states[json.loads(message.data)["data"]["state"]] += 1
            assert event.job == job
            self._ended.set()

    @property
    def alive(self) -> list[str]:
        return [job for job in self.jobs if not self.ends[job]]

    async def keep_busy(self, lasts_s: float) -> None:
        until = time.monotonic() + lasts_s
        while time.monotonic() < until:
            if len(self.alive) >= AT_ONCE:
                await self._an_end()
                continue
            kind = self.chance.choice(sorted(KINDS))
            job = f"j{len(self.jobs)}"
            job_class = "batch" if kind == "batch" else "standard"
            await self.client.publish(KINDS[kind], job=job, job_class=job_class)
            self.jobs.append(job)

    async def until_all_ended(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.alive:
                await self._an_end()

    async def _an_end(self) -> None:
        self._ended.clear()
        try:
            await asyncio.wait_for(self._ended.wait(), 1.0)
        except TimeoutError:
            return


async def attack_on(by: Attacker, victim: Victim, done: Counter[str]) -> None:
    while True:
        await asyncio.sleep(by.chance.uniform(0.0, 2 * EVERY_S))
        if not (alive := victim.alive):
            continue
        name = by.chance.choice(sorted(ALL))
        target = Target(victim.client.tenant, by.chance.choice(alive))
        # What nobody has begun is only in the queue: without its request nobody can know of it.
        if name == "request deleted" and ((state := await by.state(target)) is None or not state.attempt):
            continue
        try:
            await ALL[name](by, target)
        except SidecarError as e:
            print("refused:", name, e.message)
        done[name] += 1


async def stall(fleet: Fleet, chance: random.Random) -> None:
    """Stop a replica for a moment, again and again."""
    while True:
        await asyncio.sleep(chance.uniform(*RUNS_S))
        process = chance.choice(fleet.running)
        process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(chance.uniform(*STALLS_S))
        finally:
            process.signal(signal.SIGCONT)


async def time_calmly(client: Stranger, taken: list[float]) -> None:
    while True:
        began = time.monotonic()
        reply = await client.answer("ask", client.tenant, "interactive", payload=asks("[[tokens=3]] quick"))
        assert reply["state"] == "succeeded"
        taken.append(time.monotonic() - began)
        await asyncio.sleep(CALM_EVERY_S)


@pytest.fixture(params=COPIES)
def bus(request: pytest.FixtureRequest, nats_server: AccountPool) -> Iterator[tuple[str, int]]:
    """A bus's URL, and how many copies its streams are to have."""
    if request.param == 1:
        yield nats_server.take().url, 1
        return
    cluster = make_cluster()
    try:
        cluster.start()
        yield cluster.url, request.param
    finally:
        cluster.stop()


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_job_ends_once_no_slot_is_lost_and_nobody_else_waits(
    seed: int, bus: tuple[str, int], bedrock: EmulatorProcess
) -> None:
    url, copies = bus
    print({"seed": seed, "SIDECAR_TEST_STRANGERS_S": LASTS_S, "copies": copies})
    with Fleet(url, bedrock.url, scheduler={"slots": SLOTS}, nats={"replicas": copies}) as fleet:
        await fleet.start(1)
        await asyncio.to_thread(fleet.spawn(ahead_s=AHEAD_S).wait_ready)
        async with (
            attacker(url, seed) as by,
            stranger(url, "acme") as acme,
            stranger(url, "globex") as globex,
        ):
            victim = Victim(acme, random.Random(seed))
            await victim.begin()
            done: Counter[str] = Counter()
            quiet, taken = await calm(globex), []
            busy = [asyncio.create_task(time_calmly(globex, taken))]
            busy.append(asyncio.create_task(attack_on(by, victim, done)))
            busy.append(asyncio.create_task(stall(fleet, random.Random(seed))))
            try:
                await victim.keep_busy(LASTS_S)
            finally:
                await ended(busy)
            print({"attacks": dict(done), "jobs": len(victim.jobs), "slowest": max(taken), "calm": len(taken)})
            await victim.until_all_ended()
            await check(by, victim, fleet)
            print({"ends": dict(victim.states), "seed": seed})
            assert max(taken) < quiet + BOUND_S
            await check_slots(globex)


async def calm(client: Stranger) -> float:
    taken: list[float] = []
    timing = asyncio.create_task(time_calmly(client, taken))
    while len(taken) < 5:
        await asyncio.wait({timing}, timeout=CALM_EVERY_S)
        assert not timing.done()
    await ended([timing])
    return max(taken)


async def ended(tasks: list["asyncio.Task[None]"]) -> None:
    """Stop them; what one of them raised is raised."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def check(by: Attacker, victim: Victim, fleet: Fleet) -> None:
    assert {job: count for job, count in victim.ends.items() if count != 1} == {}
    assert set(victim.states) <= {"succeeded", "failed"}
    # An acknowledgement says nothing that a job may be ended for.
    assert victim.states["succeeded"] > victim.states["failed"]
    for process in fleet.running:
        assert process.is_running, process.log[-2000:]
        await asyncio.to_thread(
            wait_until, lambda process=process: process.get("/info")[1]["running"] == 0, what="all slots free"
        )
        assert "Traceback" not in process.log, process.log[process.log.index("Traceback") - 500 :][:3000]
    for job in victim.jobs:
        # What came after the end nobody undoes: then there may be no document any more.
        found = await by.document(Target(victim.client.tenant, job))
        assert found is None or found.is_terminal, f"{job} is stuck in {found.state}"


async def check_slots(client: Stranger) -> None:
    """As many jobs as there are slots, but for the one kept for interactive, run at once."""
    count = 2 * SLOTS - 1
    feeds = [await client.submit(asks("[[tokens=40 tps=20]] go on"), job=f"after-{i}") for i in range(count)]
    for feed in feeds:
        await feed.until(lambda events: any(e["data"].get("state") == "running" for e in events))
    assert not any(e["type"] == "result" for feed in feeds for e in feed.events), "all at once"
    assert {(await feed.result())["data"]["state"] for feed in feeds} == {"succeeded"}
