"""Mixed load for minutes under kills, restarts, refusals and full queues: what is broken, what grows?

    ./dev soak --minutes 15

A NATS server with file storage, the emulator and three replicas, each a process. Two replicas stay and are
measured; the third is killed or ended every minute, the server is killed and started again every four. Each minute
a line tells how old the oldest waiting jobs are and what memory the replicas take.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from statistics import median
from typing import NamedTuple

import nats

from benchmarks.chaos_figures import NONE, Stage, stage
from benchmarks.chaos_soak import Sample, settle_scheduler
from benchmarks.measures import Bar, Figure
from benchmarks.real_load import Kind, Traffic, running, traffic
from benchmarks.real_workloads import OTHER, TOOL, provide
from benchmarks.report import exit_code, table
from benchmarks.soak_audit import Told, hold_to_account, oldest_queued, sums
from sidecar.errors import SidecarError
from tests.support.chaos import Fleet, fleet
from tests.support.process import MODEL, SidecarProcess

REPLICAS, SLOTS = 3, 40
KILL_S, SERVER_S, LOOK_S, SAMPLE_S = 60.0, 240.0, 60.0, 5.0
# A silent owner is believed lost after five seconds; a server's restart takes two or three.
OLDEST_S = 15.0
FULL_QUEUE, FULL_SLOTS, FULL_CALL_S = 60, 2, 0.2
# A full queue, and what a server's death keeps from being served.
OLDEST_FULL_S = FULL_QUEUE * FULL_CALL_S / FULL_SLOTS * 1.3 + OLDEST_S
SETTLE_S = 90.0
STEADY_AFTER_S = 600.0
PLENTY = {"tokens_per_minute": 10**9, "requests_per_minute": 10**7}
CHAIN = (MODEL, OTHER, "nova-micro")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


class Part(NamedTuple):
    """A kind of job and how many a second; `cancelled_after_s` None: it is not cancelled."""

    rate: float
    kind: Kind
    cancelled_after_s: float | None = None


PARTS: Mapping[str, Part] = {
    "plain": Part(6.0, Kind(model=CHAIN)),
    "streams": Part(4.0, Kind(model=CHAIN, output_tokens=60, stream=True, behave="[[tps=60]]")),
    "structured": Part(1.5, Kind(model=CHAIN, max_tokens=400, schema=SCHEMA)),
    "tools": Part(
        1.5, Kind(model=CHAIN, tools=(TOOL,), max_tokens=200, behave=f"[[turn=1 tool={TOOL} input={{}}]]")
    ),
    "cancelled": Part(2.0, Kind(output_tokens=200, stream=True, behave="[[tps=20]]"), 1.0),
    "full": Part(12.0, Kind(call_s=FULL_CALL_S)),
}


class Minute(NamedTuple):
    """`oldest`: seconds that the oldest queued job of each tenant has waited, where one has."""

    at_s: float
    ended: int
    oldest: Mapping[str, float]
    rss_mb: tuple[float, ...]


async def soak(under: Stage) -> list[Figure]:
    async with (
        fleet(
            under.nats.url,
            under.emulator,
            size=REPLICAS,
            scheduler={"slots": SLOTS},
            models=dict.fromkeys(CHAIN, PLENTY),
            tenants={"full": {"max_queue": FULL_QUEUE, "max_concurrency": FULL_SLOTS}},
            log={"level": "warning"},
        ) as replicas,
        traffic(under.nats.url) as jobs,
    ):
        await settle_scheduler(replicas, under.nats.url)
        await provide(jobs)
        told: Told = {}
        minutes: list[Minute] = []
        samples: list[list[Sample]] = [[] for _ in replicas.processes[:-1]]
        began = time.monotonic()
        loads = [publish(jobs, name, part, told, until=began + under.minutes * 60) for name, part in PARTS.items()]
        async with running(
            asyncio.ensure_future(watch(jobs, replicas, minutes, began)),
            asyncio.ensure_future(sample(replicas.processes[:-1], samples, began)),
            asyncio.ensure_future(disturb(under, replicas)),
        ):
            await asyncio.gather(*loads)
        await replicas.wait_ready()
        await jobs.until(lambda: all(s.ended_at for s in jobs.jobs.values()), limit_s=SETTLE_S)
        standstills = sum([await asyncio.to_thread(counted, process) for process in replicas.processes])
        found = await hold_to_account(under, jobs, told)
        late = max(
            (minute.oldest.get(name, 0.0) - limit_of(name) for minute in minutes for name in PARTS), default=0.0
        )
        worst = {name: max((m.oldest.get(name, 0.0) for m in minutes), default=0.0) for name in PARTS}
        return [
            *found,
            await sums(under, jobs, {name: part.kind for name, part in PARTS.items()}),
            Figure(
                name="oldest waiting job, seconds over what it should",
                unit="s",
                group="soak",
                bar=NONE,
                samples=(max(late, 0.0),),
                note="worst " + ", ".join(f"{name} {age:.1f}" for name, age in worst.items()),
            ),
            Figure(name="standstills seen by the watch", unit="", group="soak", bar=NONE, samples=(standstills,)),
            *memory(samples),
        ]


def limit_of(tenant: str) -> float:
    return OLDEST_FULL_S if tenant == "full" else OLDEST_S


async def publish(jobs: Traffic, name: str, part: Part, told: Told, *, until: float) -> None:
    """An even pace; each tenth job is refused once, each twentieth at the next model, too."""
    number = 0
    sending: set[asyncio.Task[None]] = set()
    next_at = time.monotonic()
    while time.monotonic() < until:
        faults = f"[[fault=throttling model=claude times=1]] {name} {number}" if number % 10 == 0 else ""
        if number % 20 == 0:
            faults = f"[[fault=throttling model={OTHER} times=1]]" + faults
        task = asyncio.create_task(one(jobs, name, part, faults, told))
        sending.add(task)
        task.add_done_callback(sending.discard)
        number += 1
        next_at += 1 / part.rate
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
    await asyncio.gather(*sending)


async def one(jobs: Traffic, name: str, part: Part, faults: str, told: Told) -> None:
    sent = await jobs.submit(name, part.kind.request(faults))
    if sent is not None and part.cancelled_after_s is not None:
        await asyncio.sleep(random.uniform(0.0, 2 * part.cancelled_after_s))
        told[sent.job] = await jobs.cancel(sent)


async def watch(jobs: Traffic, replicas: Fleet, minutes: list[Minute], began: float) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        oldest = await oldest_queued(jobs, {name: limit_of(name) for name in PARTS})
        rss = tuple(process.rss_bytes / 1e6 for process in replicas.processes[:-1])
        minutes.append(Minute(time.monotonic() - began, len(jobs.ended), oldest, rss))
        ages = " ".join(f"{name} {age:.1f}" for name, age in oldest.items())
        sizes = " ".join(f"{mb:.1f}" for mb in rss)
        note(f"{minutes[-1].at_s:5.0f} s: {len(jobs.ended)} ended, MB {sizes}; oldest {ages}")


async def sample(stay: list[SidecarProcess], samples: list[list[Sample]], began: float) -> None:
    while True:
        for process, found in zip(stay, samples, strict=True):
            found.append(Sample(time.monotonic() - began, process.rss_bytes))
        await asyncio.sleep(SAMPLE_S)


async def disturb(under: Stage, replicas: Fleet) -> None:
    """The last replica is killed or ended each minute, the server killed each fourth."""
    chance, rounds, place = random.Random(3), 0, REPLICAS - 1
    while True:
        await asyncio.sleep(KILL_S)
        rounds += 1
        if rounds * KILL_S % SERVER_S == 0:
            await asyncio.to_thread(under.nats.restart, force=True)
        elif chance.random() < 0.5:
            await asyncio.to_thread(replicas.kill, place)
            replicas.respawn(place)
        else:
            await replicas.terminate(place)
            replicas.respawn(place)


def counted(process: SidecarProcess) -> int:
    """How many standstills a replica's watch has seen."""
    connection = HTTPConnection("127.0.0.1", process.admin_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = [line.split()[-1] for line in text.splitlines() if line.startswith("sidecar_standstills_total")]
    return int(float(found[0])) if found else 0


def memory(samples: list[list[Sample]]) -> list[Figure]:
    """Slopes after the first ten minutes, or after half of a shorter run (without a bar then)."""
    figures = []
    for place, found in enumerate(samples):
        last_s = found[-1].at_s if found else 0.0
        is_long = last_s >= 2 * STEADY_AFTER_S
        steady = [s for s in found if s.at_s >= (STEADY_AFTER_S if is_long else last_s / 2)]
        parts = (
            " ".join(f"{steady[i * (len(steady) - 1) // 4].rss_bytes / 1e6:.2f}" for i in range(5))
            if steady
            else ""
        )
        figures.append(
            Figure(
                name=f"memory slope of r{place}, MB an hour",
                unit="",
                group="soak",
                bar=Bar(value=1) if is_long else None,
                samples=(slope(steady),) if len(steady) > 5 else (),
                note=f"{parts} MB over {steady[-1].at_s - steady[0].at_s:.0f} s" if steady else "",
                error="" if len(steady) > 5 else "too few samples",
            )
        )
    return figures


def slope(samples: list[Sample]) -> float:
    """Theil and Sen's, in MB an hour."""
    thinned = samples[:: max(1, len(samples) // 200)]
    pairs = [(a, b) for i, a in enumerate(thinned) for b in thinned[i + 1 :]]
    return median((b.rss_bytes - a.rss_bytes) / (b.at_s - a.at_s) for a, b in pairs) * 3600 / 1e6


async def measure(minutes: float) -> list[Figure]:
    try:
        async with stage(jobs=0, repeats=1, minutes=minutes) as under:
            return await soak(under)
    except (SidecarError, TimeoutError, AssertionError, nats.errors.Error) as e:
        return [Figure(name="soak", unit="", group="soak", error=str(e).partition("\n")[0] or type(e).__name__)]


def note(text: str) -> None:
    """Progress, on stderr; never data."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 when a promise was broken, a bar was missed or it could not be measured; 2 usage."""
    made = argparse.ArgumentParser(prog="./dev soak", description=__doc__.partition("\n")[0])
    made.add_argument("--minutes", type=float, default=15, help="of load (default 15)")
    options = made.parse_args(arguments)
    load = os.getloadavg()[0]
    figures = asyncio.run(measure(options.minutes))
    print(table(figures))
    note(f"load average {load:.1f} to {os.getloadavg()[0]:.1f}")
    return exit_code(figures, is_strict=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
