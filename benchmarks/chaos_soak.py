"""Half load for minutes, with restarts: does memory grow, is anything left behind?"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import NamedTuple

import nats

from benchmarks.chaos_figures import NONE, Stage
from benchmarks.measures import Bar, Figure
from benchmarks.processes import NotMeasured
from sidecar.adapters.bedrock.http_transport import KEEP_ALIVE_S
from tests.support.chaos import Fleet, fleet, wait_scheduler
from tests.support.load import load
from tests.support.process import SidecarProcess

# Of these the last is killed or ended, and followed, again and again; the others stay and are measured.
REPLICAS = 3
SLOTS = 40
# A job takes a second: half of all slots.
JOBS_A_SECOND = REPLICAS * SLOTS // 2
BEHAVE = "tokens=20 tps=20"
RESTART_S = 60.0
SAMPLE_S = 5.0
BATCH_S = 5.0
# Caches and the allocator fill up for some minutes: by then they have.
WARM_UP_SHARE = 0.5
FEWEST_SAMPLES = 12
MOST_POINTS = 300
KILLED_SHARE = 0.5
# All are seen during the warm-up: what is remembered of a tenant for good is not to look like a leak.
TENANTS = 24
# Idle connections to the provider are looked through once in the time that they are kept.
REST_S = 2 * KEEP_ALIVE_S + 15.0
# What the first jobs set up for good (a subscription, a duty) is counted once they are over.
SETTLE_S = 5.0
LOOKS = 20
LOOK_S = 0.1
COUNTED = ("running", "tasks", "subscriptions", "requests")


class Sample(NamedTuple):
    at_s: float
    rss_bytes: int


class Batch(NamedTuple):
    jobs: int
    doubled: int


class Holdings(NamedTuple):
    """What a replica has in its hands: `counts` as it says itself, `files` by kind as the system knows them."""

    counts: Mapping[str, int]
    files: Counter[str]
    is_scheduler: bool = False


async def soak(under: Stage) -> list[Figure]:
    """Some replicas stay and are measured; the last is killed or ended, and followed, every minute.

    Each batch of jobs has a client of its own, so that the bench's own memory stays small.
    """
    began = time.monotonic()
    batches: list[Batch] = []
    async with fleet(under.nats.url, under.emulator, size=REPLICAS, scheduler={"slots": SLOTS}) as replicas:
        stay = replicas.processes[:-1]
        samples: list[list[Sample]] = [[] for _ in stay]
        fresh = [open_files(process.pid) for process in stay]
        await settle_scheduler(replicas, under.nats.url)
        batches.append(await batch(under, 0))
        await asyncio.sleep(SETTLE_S)
        warm = [await asyncio.to_thread(holdings, process) for process in stay]
        before = [then._replace(files=files) for then, files in zip(warm, fresh, strict=True)]
        duties = (
            asyncio.create_task(watch(stay, samples, began)),
            asyncio.create_task(restart(replicas)),
        )
        try:
            while time.monotonic() < began + under.minutes * 60:
                batches.append(await batch(under, len(batches)))
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.wait(duties)
        await replicas.wait_ready()
        await asyncio.sleep(REST_S)
        after = [await asyncio.to_thread(holdings, process) for process in stay]
        active = (await asyncio.to_thread(under.emulator.control, "GET", "counters"))["active"]
    return [memory(samples), kept(batches), *left_behind(before, after, active)]


async def batch(under: Stage, number: int) -> Batch:
    """Raises TimeoutError when a job does not end."""
    tenant = f"soak{number % TENANTS}"
    count = round(JOBS_A_SECOND * BATCH_S)
    async with load(under.nats.url, under.emulator, tenant=tenant, is_counting=False) as jobs:
        await jobs.submit_many(count, behave=BEHAVE, over_s=BATCH_S, prefix=f"b{number}-")
        await jobs.until_ended()
        return Batch(count, sum(1 for number in jobs.results.values() if number > 1))


async def watch(stay: Sequence[SidecarProcess], samples: Sequence[list[Sample]], began: float) -> None:
    while True:
        for process, found in zip(stay, samples, strict=True):
            found.append(Sample(time.monotonic() - began, process.rss_bytes))
        await asyncio.sleep(SAMPLE_S)


async def restart(replicas: Fleet) -> None:
    chance = random.Random(3)
    place = REPLICAS - 1
    while True:
        await asyncio.sleep(RESTART_S)
        if chance.random() < KILLED_SHARE:
            await asyncio.to_thread(replicas.kill, place)
        else:
            await replicas.terminate(place)
        replicas.respawn(place)


def holdings(process: SidecarProcess) -> Holdings:
    """The least of several looks: a heartbeat or a renewal may be under way in one."""
    looks = []
    for _ in range(LOOKS):
        looks.append(process.get("/info")[1])
        time.sleep(LOOK_S)
    counts = {name: min(info[name] for info in looks) for name in COUNTED}
    return Holdings(counts, open_files(process.pid), looks[-1]["is_scheduler"])


def open_files(pid: int) -> Counter[str]:
    """By kind: `socket`, `pipe`, `file`, …"""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        kinds["file" if target.startswith("/") else target.partition(":")[0]] += 1
    return kinds


def slope_mb_an_hour(samples: Sequence[Sample]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs, so that single jumps weigh little.

    Raises NotMeasured when there are too few samples after the warm-up.
    """
    warm = samples[round(len(samples) * WARM_UP_SHARE) :]
    if len(warm) < FEWEST_SAMPLES:
        raise NotMeasured(f"{len(warm)} samples of memory are too few: give it more minutes")
    thinned = warm[:: -(-len(warm) // MOST_POINTS)]
    per_s = median((b.rss_bytes - a.rss_bytes) / (b.at_s - a.at_s) for a, b in combinations(thinned, 2))
    return per_s * 3600 / 1e6


def memory(samples: Sequence[Sequence[Sample]]) -> Figure:
    """The steepest of the replicas that stayed."""
    slopes = [slope_mb_an_hour(found) for found in samples]
    notes = []
    for found, slope in zip(samples, slopes, strict=True):
        warm = found[round(len(found) * WARM_UP_SHARE) :]
        parts = [warm[i * (len(warm) - 1) // 3].rss_bytes / 1e6 for i in range(4)]
        notes.append(
            f"{' '.join(f'{mb:.1f}' for mb in parts)} MB in {warm[-1].at_s - warm[0].at_s:.0f} s ({slope:.1f})"
        )
    return Figure(
        name="soak: memory slope, MB an hour",
        unit="",
        group="soak",
        bar=Bar(value=1),
        samples=(max(slopes),),
        note="; ".join(notes),
    )


def kept(batches: Sequence[Batch]) -> Figure:
    jobs, doubled = sum(b.jobs for b in batches), sum(b.doubled for b in batches)
    note = f"{jobs} jobs, each of which ended"
    return Figure(name="soak: results doubled", unit="", group="soak", bar=NONE, samples=(doubled,), note=note)


def usual(before: Sequence[Holdings], is_scheduler: bool) -> Holdings:
    """What a replica in this role had before the load: who schedules has duties that the others have not."""
    return next((held for held in before if held.is_scheduler is is_scheduler), before[0])


async def settle_scheduler(replicas: Fleet, nats_url: str) -> None:
    """Let a replica schedule that stays."""
    connection = await nats.connect(nats_url)
    try:
        holder = await wait_scheduler(connection)
        if replicas.place_of(holder) == REPLICAS - 1:
            await replicas.terminate(REPLICAS - 1)
            await wait_scheduler(connection, other_than=[holder])
            await asyncio.to_thread(replicas.respawn(REPLICAS - 1).wait_ready)
    finally:
        await connection.close()


def left_behind(before: Sequence[Holdings], after: Sequence[Holdings], active: int) -> list[Figure]:
    """Nothing runs any more: what replicas hold must be back where it was."""
    leaked = {"calls": (active, "")}
    for name in COUNTED:
        pairs = [(usual(before, now.is_scheduler).counts[name], now.counts[name]) for now in after]
        leaked[name] = (sum(max(0, now - then) for then, now in pairs), f"before and after: {pairs}")
    more = [now.files - then.files for then, now in zip(before, after, strict=True)]
    leaked["open files"] = (sum(found.total() for found in more), str([dict(found) for found in more]))
    return [
        Figure(name=f"soak: leaked {name}", unit="", group="soak", bar=NONE, samples=(number,), note=note)
        for name, (number, note) in leaked.items()
    ]
