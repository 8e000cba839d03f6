"""Half load for minutes, with restarts: does memory grow, is anything left behind?"""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

from benchmarks.chaos_figures import NONE, Stage
from benchmarks.measures import Bar, Figure
from benchmarks.processes import NotMeasured
from tests.support.chaos import Fleet, fleet
from tests.support.load import load

SLOTS = 64
# With 32 of 64 slots in use on each of two replicas; a job takes a second.
JOBS_A_SECOND = 64
BEHAVE = "tokens=20 tps=20"
RESTART_S = 60.0
SAMPLE_S = 5.0
BATCH_S = 5.0
WARM_UP_SHARE = 0.2
FEWEST_SAMPLES = 5
KILLED_SHARE = 0.5
# Longer than idle connections to the provider are kept.
REST_S = 20.0


class Sample(NamedTuple):
    at_s: float
    rss_bytes: int


class Batch(NamedTuple):
    jobs: int
    doubled: int


class Holdings(NamedTuple):
    running: int
    files: int


async def soak(under: Stage) -> list[Figure]:
    """One replica stays and is measured; the other is killed or ended, and followed, every minute.

    Each batch of jobs has a tenant and a client of its own, so that the bench's own memory stays small.
    """
    began = time.monotonic()
    samples: list[Sample] = []
    batches: list[Batch] = []
    async with fleet(under.nats.url, under.emulator, size=2, scheduler={"slots": SLOTS}) as replicas:
        await batch(under, "warm")
        before = holdings(replicas)
        duties = (
            asyncio.create_task(watch(replicas, samples, began)),
            asyncio.create_task(restart(replicas)),
        )
        try:
            while time.monotonic() < began + under.minutes * 60:
                batches.append(await batch(under, f"soak{len(batches)}"))
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.wait(duties)
        await replicas.wait_ready()
        await asyncio.sleep(REST_S)
        after = holdings(replicas)
        active = (await asyncio.to_thread(under.emulator.control, "GET", "counters"))["active"]
    return [*memory(samples), *kept(batches), *left_behind(before, after, active)]


async def batch(under: Stage, tenant: str) -> Batch:
    """Raises TimeoutError when a job does not end."""
    count = round(JOBS_A_SECOND * BATCH_S)
    async with load(under.nats.url, under.emulator, tenant=tenant, is_counting=False) as jobs:
        await jobs.submit_many(count, behave=BEHAVE, over_s=BATCH_S)
        await jobs.until_ended()
        return Batch(count, sum(1 for number in jobs.results.values() if number > 1))


async def watch(replicas: Fleet, samples: list[Sample], began: float) -> None:
    while True:
        samples.append(Sample(time.monotonic() - began, replicas.processes[0].rss_bytes))
        await asyncio.sleep(SAMPLE_S)


async def restart(replicas: Fleet) -> None:
    chance = random.Random(3)
    while True:
        await asyncio.sleep(RESTART_S)
        if chance.random() < KILLED_SHARE:
            await asyncio.to_thread(replicas.kill, 1)
        else:
            await replicas.terminate(1)
        replicas.respawn(1)


def holdings(replicas: Fleet) -> Holdings:
    """What the replica that stays has in its hands."""
    stays = replicas.processes[0]
    _, info = stays.get("/info")
    return Holdings(running=info["running"], files=len(list(Path(f"/proc/{stays.pid}/fd").iterdir())))


def memory(samples: Sequence[Sample]) -> list[Figure]:
    """Least squares over what was measured after the warm-up."""
    warm = samples[round(len(samples) * WARM_UP_SHARE) :]
    if len(warm) < FEWEST_SAMPLES:
        raise NotMeasured(f"{len(warm)} samples of memory are too few: give it more minutes")
    slope = linear_regression([s.at_s / 3600 for s in warm], [s.rss_bytes / 1e6 for s in warm]).slope
    first, latest = warm[0], warm[-1]
    note = f"{first.rss_bytes / 1e6:.1f} to {latest.rss_bytes / 1e6:.1f} MB in {latest.at_s - first.at_s:.0f} s"
    return [
        Figure(
            name="soak: memory slope, MB an hour",
            unit="",
            group="soak",
            bar=Bar(value=1),
            samples=(slope,),
            note=note,
        )
    ]


def kept(batches: Sequence[Batch]) -> list[Figure]:
    jobs, doubled = sum(b.jobs for b in batches), sum(b.doubled for b in batches)
    note = f"{jobs} jobs, each of which ended"
    return [Figure(name="soak: results doubled", unit="", group="soak", bar=NONE, samples=(doubled,), note=note)]


def left_behind(before: Holdings, after: Holdings, active: int) -> list[Figure]:
    """Nothing runs any more: slots, calls and sockets must be back where they were."""
    leaked = {"slots": after.running, "calls": active, "open files": max(0, after.files - before.files)}
    return [
        Figure(name=f"soak: leaked {name}", unit="", group="soak", bar=NONE, samples=(number,))
        for name, number in leaked.items()
    ]
