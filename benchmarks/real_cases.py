"""What undid shares under real refusals and full queues, each tried on a real server with real processes."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count, pairwise
from statistics import median
from typing import Any

import msgspec

from benchmarks.chaos_figures import Stage
from benchmarks.measures import Bar, Figure, percentile
from benchmarks.real_load import Kind, Sent, Traffic, longest_gap, running, traffic, unharmed_p99
from benchmarks.real_workloads import limit
from tests.support.chaos import fleet
from tests.support.process import MODEL

LIMIT_S = 150.0
PLENTY = {"tokens_per_minute": 10**9, "requests_per_minute": 10**7}
QUIET = {"level": "warning"}

SMALL, REFUSING = "nova-lite", "nova-micro"
RATE = 15.0
MOVED_S = 20.0

FULL, FULL_CALL_S = 200, 0.1
FULL_S = 20.0

NEWCOMERS = 8
PUBLISHERS = 200

STRAY_RATE, STRAY_S, STRAY_ROUNDS = 200.0, 6.0, 3
CANCELS = 60


@dataclass(slots=True)
class FloodSize:
    """A lane's cap, and how many requests are published into it."""

    cap: int = 500
    published: int = 3_000

    @property
    def limit_s(self) -> float:
        """A refusal takes a few milliseconds on a busy machine."""
        return LIMIT_S + self.published / 200


flood_size = FloodSize()


def figure(
    group: str, name: str, value: float, *, unit: str = "", bar: Bar | None = None, note: str = ""
) -> Figure:
    return Figure(name=f"{group}: {name}", unit=unit, group=group, bar=bar, samples=(value,), note=note)


async def moved(under: Stage, replicas: int) -> list[Figure]:
    """A tenth of three tenants' jobs is refused once: to a small fallback, by the default chain, to a fallback
    that always refuses. A fourth tenant meets no fault.
    """
    ways: dict[str, tuple[str | tuple[str, ...], str]] = {
        "small fallback": ((MODEL, SMALL), ""),
        "default chain": (MODEL, ""),
        "refusing fallback": ((MODEL, REFUSING), "[[fault=throttling model=nova-micro]]"),
        "no fault": (MODEL, ""),
    }
    models = {
        MODEL: PLENTY,
        SMALL: {"tokens_per_minute": 1_000, "requests_per_minute": 2},
        REFUSING: PLENTY,
    }
    async with (
        fleet(
            under.nats.url,
            under.emulator,
            size=replicas,
            scheduler={"slots": 36 // replicas},
            models=models,
            log=QUIET,
        ),
        traffic(under.nats.url) as jobs,
    ):
        sent = await asyncio.gather(*(_way(jobs, way, *given) for way, given in ways.items()))
        end = time.monotonic() + 1.0
        await asyncio.sleep(1.0)
        by_way = dict(zip(ways, sent, strict=True))
        rate = {way: sum(s.ended_at is not None for s in found) / len(found) for way, found in by_way.items()}
        found = []
        for way in list(ways)[:3]:
            group = f"moved, {way}, {replicas}"
            waits = unharmed_p99(by_way[way], end)
            p99 = figure(group, "unharmed jobs' wait p99", waits, unit="s", bar=Bar(value=0.5))
            harmed = [
                s.waited_s(end) if s.ended_at is None else s.ended_at - s.at for s in by_way[way] if s.met_fault
            ]
            note = f"moved jobs: {len(harmed)}, slowest {max(harmed, default=0):.1f} s"
            of_all = figure(
                group,
                "throughput ÷ faultless",
                rate[way] / max(rate["no fault"], 1e-9),
                bar=Bar(value=0.95, is_least=True),
                note=note,
            )
            found += [p99, of_all]
        return found


async def _way(jobs: Traffic, way: str, model: str | tuple[str, ...], behave: str) -> list[Sent]:
    kind = Kind(model=model, behave=behave)

    def make(number: int) -> bytes:
        is_refused = way != "no fault" and number % 10 == 0
        return kind.request(
            f"[[fault=throttling model=claude-sonnet times=1]] {way} {number}" if is_refused else ""
        )

    return await jobs.at_rate(way.replace(" ", "-"), RATE, MOVED_S, make)


async def full_queue(under: Stage, replicas: int) -> list[Figure]:
    """A tenant that sends a job whenever one ends, with all but one of its `max_queue` outstanding."""
    slots = 4 if replicas == 1 else 2
    kind = Kind(call_s=FULL_CALL_S)
    async with (
        fleet(
            under.nats.url,
            under.emulator,
            size=replicas,
            scheduler={"slots": slots, "interactive_reserve": 0},
            tenants={"default": {"max_queue": FULL}},
            log=QUIET,
        ),
        traffic(under.nats.url) as jobs,
        running(asyncio.ensure_future(jobs.keep("full", lambda n: kind.request(), FULL - 1))),
    ):
        # Until those that were sent into an empty queue are through.
        if not await jobs.until(lambda: len(jobs.ended) > FULL, limit_s=60):
            raise AssertionError(f"{len(jobs.ended)} jobs ended")
        start = time.monotonic()
        await asyncio.sleep(FULL_S)
        end = time.monotonic()
        ended = [s for s in jobs.ended if s.ended_at is not None and start < s.ended_at <= end]
    began = [s for s in jobs.begun if s.begun_at is not None and start < s.begun_at <= end]
    waits = [s.waited_s(end) for s in began]
    in_slot = median(s.ended_at - s.begun_at for s in ended if s.begun_at and s.ended_at)
    expected = (FULL - 1) * in_slot / (slots * replicas)
    group = f"full queue, {replicas}"
    rejected = sum(s.state == "rejected" for s in jobs.ended)
    note = f"p99 {percentile(waits, 0.99):.2f} s of {len(waits)}, expected {expected:.2f} s, rejected {rejected}"
    disorder = sum(later.at < earlier.at - 0.5 for earlier, later in pairwise(began))
    moments = (s.begun_at for s in jobs.begun if s.begun_at is not None)
    return [
        figure(group, "wait p99 ÷ expected", percentile(waits, 0.99) / expected, bar=Bar(value=1.3), note=note),
        figure(group, "longest standstill", longest_gap(moments, start, end), unit="s", bar=Bar(value=0.3)),
        figure(group, "begun half a second out of order", disorder, bar=Bar(value=0)),
    ]


async def newcomers(under: Stage, replicas: int) -> list[Figure]:
    """Others' dispatches between a newcomer's request and its begin, behind a flood that really waits."""
    kind = Kind(call_s=0.3)
    per_minute = round(60 * 10 * kind.cost(1.0))
    await limit(under, per_minute)
    async with (
        fleet(
            under.nats.url,
            under.emulator,
            size=replicas,
            scheduler={"slots": 60 // replicas},
            tenants={"default": {"max_queue": 30_000}},
            models={MODEL: {"tokens_per_minute": per_minute, "fallback": []}},
            log=QUIET,
        ),
        traffic(under.nats.url) as jobs,
    ):
        for _ in range(6):
            await asyncio.gather(*(jobs.submit("flood", kind.request()) for _ in range(500)))
        # The burst of the quota has to be used up: then the flood waits.
        before = -1
        while len(jobs.begun) - before > 12:
            before = len(jobs.begun)
            await asyncio.sleep(1.0)
        positions = []
        for number in range(NEWCOMERS):
            sent = await jobs.submit(f"newcomer-{number}", kind.request())
            at = len(jobs.begun)
            if sent is None or not await jobs.until(lambda s=sent: s.begun_at is not None, limit_s=20):  # type: ignore[misc]
                raise AssertionError("a newcomer was not begun")
            positions.append(jobs.begun.index(sent) - at)
            await asyncio.sleep(0.7)
    note = f"each: {positions}, of which what had been granted before is heard, too"
    return [
        figure(
            f"newcomers, {replicas}",
            "dispatches before it, median",
            median(positions),
            bar=Bar(value=2),
            note=note,
        )
    ]


async def flood(under: Stage, replicas: int) -> list[Figure]:
    """A flood of several times its cap beside three others: its share by weight, and that the rest is told."""
    kind = Kind(call_s=0.2)
    per_minute = round(60 * 40 * kind.cost(1.0))
    await limit(under, per_minute)
    size = flood_size
    weights = {"heavy": 3.0, "light-1": 1.0, "light-2": 1.0, "flood": 1.0}
    # The server refuses at the largest cap of all: one that is larger lets the flood reach the sidecar.
    tenants: dict[str, Any] = {name: {"weight": weight, "max_queue": size.cap} for name, weight in weights.items()}
    async with (
        fleet(
            under.nats.url,
            under.emulator,
            size=replicas,
            scheduler={"slots": 120 // replicas},
            tenants={**tenants, "other": {"max_queue": 2 * size.published}},
            models={MODEL: {"tokens_per_minute": per_minute, "fallback": []}},
            retention={"requests_bytes": 2**31},
            log=QUIET,
        ),
        traffic(under.nats.url) as jobs,
        running(*(asyncio.ensure_future(jobs.keep(n, lambda i: kind.request(), 60)) for n in list(weights)[:3])),
    ):
        await asyncio.sleep(6.0)
        ends: Counter[str] = Counter()
        jobs.on_end.append(lambda sent: ends.update((sent.tenant,)))
        start = time.monotonic()
        published = await _publish(jobs, "flood", kind, size.published)
        published_s = time.monotonic() - start
        # What ended meanwhile has made room for others.
        expected = size.published - size.cap - published.count(None) - PUBLISHERS
        told = await jobs.until(lambda: ends["flood"] >= expected, limit_s=size.limit_s - 60)
        told_s = time.monotonic() - start - published_s
        await asyncio.sleep(12.0)
        end = time.monotonic()
    begun = Counter(s.tenant for s in jobs.begun if s.begun_at is not None and start < s.begun_at <= end)
    share = begun["flood"] / sum(begun.values()) / (1 / 6)
    moments = (s.begun_at for s in jobs.begun if s.begun_at is not None)
    group = f"flood at its cap, {replicas}"
    how = "all" if told else "not all"
    note = (
        f"{dict(begun)}; {_refused(published)} of {size.published} refused, {how} within {told_s:.1f} s of"
        f" the last (published in {published_s:.1f} s)"
    )
    return [
        figure(group, "its share ÷ by weight", share, bar=Bar(value=0.9, is_least=True), note=note),
        figure(group, "longest gap", longest_gap(moments, start, end), unit="s", bar=Bar(value=1.0)),
    ]


async def _publish(jobs: Traffic, tenant: str, kind: Kind, number: int) -> list[Sent | None]:
    sent: list[Sent | None] = []
    numbers = iter(range(number))

    async def work() -> None:
        for _ in numbers:
            sent.append(await jobs.submit(tenant, kind.request()))

    await asyncio.gather(*(work() for _ in range(PUBLISHERS)))
    return sent


def _refused(published: list[Sent | None]) -> int:
    return sum(s is None or s.error == "queue_full" for s in published)


async def stray_refusals(under: Stage, replicas: int) -> list[Figure]:
    """Two refusals a second among 200 calls, and none, in turn: what they add to the others' waits."""
    kind = Kind(call_s=0.2)

    refused = count()

    def make(number: int) -> bytes:
        # Told apart by its prompt: the emulator counts the times of a directive by it.
        return kind.request(f"[[fault=throttling times=1]] {next(refused)}" if number % 100 == 0 else "")

    waits: dict[str, list[float]] = {"with": [], "without": []}
    async with (
        fleet(
            under.nats.url,
            under.emulator,
            size=replicas,
            scheduler={"slots": 240 // replicas},
            models={MODEL: {**PLENTY, "fallback": []}},
            log=QUIET,
        ),
        traffic(under.nats.url) as jobs,
    ):
        await jobs.at_rate("warm", STRAY_RATE / 2, 2.0, lambda n: kind.request())
        for _ in range(STRAY_ROUNDS):
            for way, of in (("without", lambda n: kind.request()), ("with", make)):
                sent = await jobs.at_rate(way, STRAY_RATE, STRAY_S, of)
                await jobs.until(lambda s=sent: all(x.ended_at for x in s), limit_s=20)  # type: ignore[misc]
                waits[way].append(unharmed_p99(sent, time.monotonic()))
    added = median(waits["with"]) - median(waits["without"])
    note = ", ".join(f"{way}: {' '.join(f'{s:.3f}' for s in found)}" for way, found in waits.items())
    note += f"; {sum(s.met_fault for s in jobs.jobs.values())} refused"
    bar = Bar(value=0.05)
    return [figure(f"stray refusals, {replicas}", "added wait p99", max(added, 0.0), unit="s", bar=bar, note=note)]


async def restart(under: Stage, replicas: int) -> list[Figure]:
    """A lone replica is killed and started again under its name: until the first job begins."""
    kind = Kind(call_s=0.1)
    ready_s, spawned_s = [], []
    async with (
        fleet(under.nats.url, under.emulator, size=replicas, log=QUIET) as made,
        traffic(under.nats.url) as jobs,
        running(asyncio.ensure_future(_trickle(jobs, kind))),
    ):
        for _ in range(3):
            ended = len(jobs.ended)
            await jobs.until(lambda n=ended: len(jobs.ended) > n + 10, limit_s=20)  # type: ignore[misc]
            await asyncio.to_thread(made.kill, 0)
            spawned_at, before = time.monotonic(), len(jobs.begun)
            made.respawn(0)
            await asyncio.to_thread(made.processes[0].wait_ready)
            ready_at = time.monotonic()
            if not await jobs.until(lambda n=before: len(jobs.begun) > n, limit_s=20):  # type: ignore[misc]
                raise AssertionError("no job began after the restart")
            at = jobs.begun[before].begun_at or 0.0
            ready_s.append(max(0.0, at - ready_at))
            spawned_s.append(at - spawned_at)
    note = "from its process's start " + " ".join(f"{s:.1f}" for s in spawned_s)
    group = f"restart, {replicas}"
    return [
        Figure(
            name=f"{group}: first dispatch after ready",
            unit="s",
            group=group,
            bar=Bar(value=2),
            samples=tuple(ready_s),
            note=note,
        )
    ]


async def _trickle(jobs: Traffic, kind: Kind) -> None:
    while True:
        await jobs.submit("trickle", kind.request())
        await asyncio.sleep(0.1)


async def cancels(under: Stage, replicas: int) -> list[Figure]:
    """Cancels around the server's death: whoever is told `cancelled` must find the job ended so."""
    kind = Kind(output_tokens=400, behave="[[tps=20]]")
    async with (
        fleet(under.nats.url, under.emulator, size=replicas, log=QUIET),
        traffic(under.nats.url) as jobs,
    ):
        sent = [s for s in [await jobs.submit("cancels", kind.request()) for _ in range(CANCELS)] if s is not None]
        await jobs.until(lambda: len(jobs.begun) >= CANCELS, limit_s=30)
        killing = asyncio.ensure_future(_kill_server(under))
        told = await asyncio.gather(*(_cancel(jobs, s, 2.0 * i / CANCELS) for i, s in enumerate(sent)))
        await killing
        await jobs.until(lambda: len(jobs.ended) >= CANCELS, limit_s=60)
        states = [await _state(jobs, s) for s in sent]
    broken = [s for s, was_told in zip(states, told, strict=True) if was_told and s != "cancelled"]
    note = f"{sum(told)} of {CANCELS} told cancelled, {sum(s == 'cancelled' for s in states)} cancelled"
    return [figure(f"cancels, {replicas}", "told cancelled and went on", len(broken), bar=Bar(value=0), note=note)]


async def _kill_server(under: Stage) -> None:
    await asyncio.sleep(1.0)
    await asyncio.to_thread(under.nats.restart, force=True)


async def _cancel(jobs: Traffic, sent: Sent, after_s: float) -> bool:
    await asyncio.sleep(after_s)
    async with asyncio.timeout(40):
        return await jobs.cancel(sent)


async def _state(jobs: Traffic, sent: Sent) -> str:
    reply = await jobs.mux.request(f"llm.v1.get.{sent.tenant}.{sent.job}", timeout_s=10)
    return str(msgspec.json.decode(reply.payload).get("state"))
