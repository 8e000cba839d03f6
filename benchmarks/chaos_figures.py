"""The figures of `benchmarks.chaos`, each on servers and replicas of its own."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.measures import Bar, Figure, percentile
from sidecar.adapters.nats.embedded import NatsCluster, NatsServer
from tests.support.audit import Findings
from tests.support.chaos import Fleet, fleet, havoc, wait_scheduler
from tests.support.emulator import EmulatorProcess, spawn_emulator
from tests.support.load import Load, load

BRIEF = "tokens=20 tps=40"
KILLED = "tokens=40 tps=20"
LONG = "tokens=80 tps=16"
NONE = Bar(value=0)
RUNNING_JOBS = 200
PACE_S = 0.05
CANCELS = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """NATS and the emulator, and how much is asked for."""

    nats: NatsServer
    emulator: EmulatorProcess
    jobs: int
    repeats: int
    minutes: float


@asynccontextmanager
async def stage(*, jobs: int, repeats: int, minutes: float) -> AsyncIterator[Stage]:
    """Raises StartupError when a process does not come up."""
    with ExitStack() as stack:
        server = NatsServer()
        await asyncio.to_thread(server.start)
        stack.callback(server.stop)
        emulator = stack.enter_context(spawn_emulator())
        yield Stage(server, emulator, jobs, repeats, minutes)


def promises(
    group: str, what: str, found: Findings, *, kills: int, elapsed_s: float, repeated: Bar | None = None
) -> list[Figure]:
    """The counts of an audit, as lines of the table. `repeated`: the bar of calls that were made twice."""
    took = f"{found.jobs} jobs, {kills} kills, {elapsed_s:.0f} s, {dict(found.states)}"
    attempts = ", ".join(f"{n} of attempt {attempt}" for attempt, n in sorted(found.attempts.items()))
    lines: tuple[tuple[str, int, Bar | None, str], ...] = (
        ("lost", len(found.lost), NONE, took),
        ("doubled", len(found.doubled), NONE, ""),
        ("events of an old owner", len(found.spoke_late), NONE, "".join(found.spoke_late[:1])),
        ("numbers missing, texts garbled", len(found.gaps) + len(found.garbled), NONE, "".join(found.gaps[:1])),
        ("not ended, requests left", len(found.unfinished) + found.requests_left, NONE, ""),
        ("dead-lettered", found.dead, NONE, ""),
        ("calls without an attempt", len(found.unexplained), NONE, "".join(found.unexplained[:1])),
        ("repeated calls", found.repeated, repeated, attempts),
    )
    return [
        Figure(name=f"{what}: {name}", unit="", group=group, bar=bar, samples=(number,), note=note)
        for name, number, bar, note in lines
    ]


async def kills(under: Stage) -> list[Figure]:
    """Three replicas, a random one killed every second until all jobs were published, and 20 s longer."""
    began = time.monotonic()
    async with (
        fleet(under.nats.url, under.emulator) as replicas,
        load(under.nats.url, under.emulator, tenant="chaos") as jobs,
    ):
        over_s = under.jobs / 50
        publishing = asyncio.create_task(jobs.submit_many(under.jobs, behave=KILLED, over_s=over_s))
        schedulers = await havoc(
            replicas, jobs.connection, kills=round(over_s) + 20, every_s=1.0, chance=random.Random(11)
        )
        await publishing
        await jobs.until_ended()
        found = await jobs.settle()
        elapsed_s = time.monotonic() - began
        what = f"random kills ({schedulers} of the scheduler)"
        return promises("kills", what, found, kills=replicas.kills, elapsed_s=elapsed_s)


async def scheduler(under: Stage) -> list[Figure]:
    """The longest that a job published around the scheduler's end waited for its running event."""
    killed: list[float] = []
    ended: list[float] = []
    async with (
        fleet(under.nats.url, under.emulator) as replicas,
        load(under.nats.url, under.emulator, tenant="chaos") as jobs,
    ):
        for round_ in range(under.repeats):
            killed.append(await longest_wait(replicas, jobs, f"k{round_}", is_killed=True))
            ended.append(await longest_wait(replicas, jobs, f"t{round_}", is_killed=False))
        found = await jobs.settle()
    return [
        Figure(
            name="dispatch resumes after SIGKILL of the scheduler",
            unit="s",
            group="scheduler",
            bar=Bar(value=8),
            samples=tuple(killed),
        ),
        Figure(
            name="dispatch resumes after its SIGTERM",
            unit="s",
            group="scheduler",
            bar=Bar(value=1),
            samples=tuple(ended),
            note=str(found.problems or ""),
        ),
    ]


async def longest_wait(replicas: Fleet, jobs: Load, prefix: str, *, is_killed: bool) -> float:
    """Seconds between publish and running event, the most of a steady trickle of jobs around the end."""
    holder = await wait_scheduler(jobs.connection)
    place = replicas.place_of(holder)
    published: dict[str, float] = {}
    stopping: asyncio.Task[int] | None = None
    for i in range(40):
        if i == 20 and is_killed:
            await asyncio.to_thread(replicas.kill, place)
        elif i == 20:
            stopping = asyncio.create_task(replicas.terminate(place))
        job = f"{prefix}-{i}"
        published[job] = time.monotonic()
        await jobs.submit(job, behave="tokens=2")
        await asyncio.sleep(PACE_S)
    await jobs.until_ended()
    if stopping is not None:
        await stopping
    await asyncio.to_thread(replicas.respawn(place).wait_ready)
    heard = first_running(jobs, published)
    return max(heard[job] - at for job, at in published.items() if job in heard)


def first_running(jobs: Load, wanted: Mapping[str, float], *, attempt: int = 1) -> dict[str, float]:
    """When each job was first heard to run, in this attempt or a later one."""
    found: dict[str, float] = {}
    for event in jobs.events:
        is_running = event["type"] == "status" and event["data"]["state"] == "running"
        if is_running and event["job"] in wanted and event["attempt"] >= attempt:
            found.setdefault(event["job"], event["heard_at"])
    return found


async def worker(under: Stage) -> list[Figure]:
    """From SIGKILL of a replica that does not schedule until each of its jobs runs again: the longest."""
    samples: list[float] = []
    async with (
        fleet(under.nats.url, under.emulator) as replicas,
        load(under.nats.url, under.emulator, tenant="chaos") as jobs,
    ):
        for round_ in range(under.repeats):
            holder = await wait_scheduler(jobs.connection)
            place = (replicas.place_of(holder) + 1) % len(replicas.processes)
            before = set(jobs.jobs)
            await jobs.submit_many(30, behave="tokens=160 tps=20", prefix=f"w{round_}-")
            ours = {job: 0.0 for job in jobs.jobs if job not in before}
            await jobs.until_called(ours)
            killed_at = time.monotonic()
            await asyncio.to_thread(replicas.kill, place)
            await asyncio.to_thread(replicas.respawn(place).wait_ready)
            await jobs.until_ended()
            again = first_running(jobs, ours, attempt=2)
            samples.append(max((at - killed_at for at in again.values()), default=float("nan")))
        found = await jobs.settle()
    note = f"{found.repeated} calls repeated; {found.problems or 'no promise broken'}"
    return [
        Figure(
            name="a dead worker's jobs run again",
            unit="s",
            group="worker",
            bar=Bar(value=10),
            samples=tuple(samples),
            note=note,
        )
    ]


async def rolling(under: Stage) -> list[Figure]:
    """SIGTERM of each replica in turn, for as long as jobs are published and each once at least."""
    began = time.monotonic()
    async with (
        fleet(under.nats.url, under.emulator) as replicas,
        load(under.nats.url, under.emulator, tenant="chaos") as jobs,
    ):
        publishing = asyncio.create_task(jobs.submit_many(600, behave=BRIEF, over_s=20))
        ends = 0
        while ends < len(replicas.processes) or not publishing.done():
            if await replicas.terminate(ends % 3) != 0:
                raise AssertionError(f"it did not end by 0: {replicas.logs()}")
            await asyncio.to_thread(replicas.respawn(ends % 3).wait_ready)
            ends += 1
        await jobs.until_ended()
        found = await jobs.settle()
        elapsed_s = time.monotonic() - began
        return promises("rolling", "rolling restart", found, kills=ends, elapsed_s=elapsed_s)


async def nats(under: Stage) -> list[Figure]:
    """One server, killed and restarted over its store under 200 running jobs."""
    began = time.monotonic()
    async with (
        fleet(under.nats.url, under.emulator, size=1),
        load(under.nats.url, under.emulator, tenant="chaos") as jobs,
    ):
        await jobs.submit_many(RUNNING_JOBS, behave=LONG)
        await jobs.until_called(jobs.jobs)
        await asyncio.to_thread(under.nats.restart, force=True)
        await jobs.until_ended()
        found = await jobs.settle()
    elapsed_s = time.monotonic() - began
    return promises("nats", "NATS restart", found, kills=1, elapsed_s=elapsed_s, repeated=NONE)


async def cluster(under: Stage) -> list[Figure]:
    """Three servers, three copies; one server after the other is killed every 10 s and started again."""
    servers = NatsCluster()
    began = time.monotonic()
    try:
        await asyncio.to_thread(servers.start)
        async with (
            fleet(servers.url, under.emulator, size=2, nats={"replicas": 3}),
            load(servers.url, under.emulator, tenant="chaos") as jobs,
        ):
            publishing = asyncio.create_task(jobs.submit_many(2 * RUNNING_JOBS, behave=LONG, over_s=35))
            kills = 0
            while not publishing.done():
                server = servers.servers[kills % 3]
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(3)
                await asyncio.to_thread(server.restart)
                kills += 1
                await asyncio.sleep(7)
            await publishing
            await jobs.until_ended()
            found = await jobs.settle()
    finally:
        await asyncio.to_thread(servers.stop)
    return promises("cluster", "cluster R3", found, kills=kills, elapsed_s=time.monotonic() - began)


async def cancel(under: Stage) -> list[Figure]:
    """From the request on `cancel` until the emulator's socket was closed."""
    async with (
        fleet(under.nats.url, under.emulator, size=1),
        load(under.nats.url, under.emulator, tenant="chaos") as jobs,
    ):
        await jobs.submit_many(CANCELS, behave="tokens=2000 tps=20")
        await jobs.until_called(jobs.jobs)
        asked: dict[str, float] = {}
        for job in jobs.jobs:
            asked[job] = time.time()
            await jobs.connection.request(f"llm.v1.cancel.chaos.{job}", b"", timeout=30)
            await asyncio.sleep(0.02)
        await jobs.until_ended()
        found = await jobs.settle()
        closed = jobs.aborted_at()
    waits_ms = [(closed[job] - at) * 1000 for job, at in asked.items() if job in closed]
    note = f"{len(waits_ms)} of {CANCELS} closed, median {percentile(waits_ms, 0.5):.0f} ms, {dict(found.states)}"
    return [
        Figure(
            name="cancel to closed socket, p99",
            unit="ms",
            group="cancel",
            bar=Bar(value=250),
            samples=(percentile(waits_ms, 0.99),),
            note=note,
        )
    ]


GROUPS: Mapping[str, Callable[[Stage], Awaitable[list[Figure]]]] = {
    "kills": kills,
    "scheduler": scheduler,
    "worker": worker,
    "rolling": rolling,
    "nats": nats,
    "cluster": cluster,
    "cancel": cancel,
}
