"""The workloads of `fairness_workloads` on a real server, at a quota that the emulator counts."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from benchmarks.chaos_figures import Stage
from benchmarks.measures import Bar, Figure
from benchmarks.real_load import Kind, Traffic, jain, longest_gap, running, traffic
from sidecar.errors import BusUnavailable
from tests.support.chaos import fleet
from tests.support.process import MODEL

JOBS_A_SECOND = 40.0
SLOTS = 240
WARM_S = 6.0
WINDOW_S = 20.0
# What a call will cost is not known at first: what was begun too many then is paid back meanwhile.
LEARN_S = 24.0
OUTSTANDING = 60
FAIR = Bar(value=0.99, is_least=True)
USED = Bar(value=0.95, is_least=True)
TOOL = "look"
OTHER = "nova-lite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """`refused`: one of so many jobs is refused once; 0 for none."""

    name: str
    kind: Kind
    weight: float = 1.0
    job_class: str = "standard"
    refused: int = 0

    def request(self, number: int) -> bytes:
        is_refused = self.refused and number % self.refused == 0
        # Told apart by its prompt: the emulator counts the times of a directive by it.
        return self.kind.request(
            f"[[fault=throttling model=claude times=1]] {self.name}-{number}" if is_refused else ""
        )


class Settled(NamedTuple):
    """Tokens by tenant and in all, refusals and calls, as the emulator counts them."""

    by_tenant: Mapping[str, float]
    refusals: int
    calls: int
    at: float

    @property
    def tokens(self) -> float:
        return sum(self.by_tenant.values())


def quota_for(tenants: Sequence[Tenant], *, burndown: float, jobs_a_second: float = JOBS_A_SECOND) -> int:
    """Tokens a minute at which these tenants, served by weight, end so many jobs a second."""
    weights = sum(t.weight for t in tenants)
    jobs_a_token = sum(t.weight / t.kind.cost(burndown) for t in tenants) / weights
    return round(60 * jobs_a_second / jobs_a_token)


async def limit(under: Stage, tokens_per_minute: int, *, burndown: float = 1.0) -> None:
    rule = {"model": "*", "tokens_per_minute": tokens_per_minute, "burndown": burndown, "burst_s": 60}
    await asyncio.to_thread(under.emulator.control, "PUT", "quota", [rule])


async def settled(under: Stage) -> Settled:
    """What the emulator has counted until now."""
    pools = (await asyncio.to_thread(under.emulator.control, "GET", "quota")).values()
    by_tenant: dict[str, float] = {}
    for pool in pools:
        for tenant, tokens in pool["by_tenant"].items():
            by_tenant[tenant] = by_tenant.get(tenant, 0.0) + tokens
    throttles, calls = sum(p["throttles"] for p in pools), sum(p["calls"] for p in pools)
    return Settled(by_tenant, throttles, calls, time.monotonic())


def settings(tenants: Sequence[Tenant], replicas: int, quota: int, *, burndown: float = 1.0) -> dict[str, Any]:
    return {
        "tenants": {t.name: {"weight": t.weight} for t in tenants},
        "models": {
            name: {"tokens_per_minute": quota, "burndown": burndown, "fallback": []} for name in (MODEL, OTHER)
        },
        "scheduler": {"slots": SLOTS // replicas},
        "log": {"level": "warning"},
    }


class Seen(NamedTuple):
    """What a workload's window showed: tokens by tenant, the longest time without a begin, the quota's use."""

    tokens: Mapping[str, float]
    gap_s: float
    used: float
    refused: float


async def observe(
    under: Stage,
    replicas: int,
    tenants: Sequence[Tenant],
    *,
    burndown: float = 1.0,
    warm_s: float = WARM_S,
    window_s: float = WINDOW_S,
    prepare: Callable[[Traffic], Any] = lambda jobs: None,
) -> Seen:
    """All tenants backlogged throughout."""
    quota = quota_for(tenants, burndown=burndown)
    await limit(under, quota, burndown=burndown)
    given = settings(tenants, replicas, quota, burndown=burndown)
    async with (
        fleet(under.nats.url, under.emulator, size=replicas, **given),
        traffic(under.nats.url) as jobs,
    ):
        prepared = prepare(jobs)
        if prepared is not None:
            await prepared
        loads = [
            asyncio.ensure_future(jobs.keep(t.name, t.request, OUTSTANDING, job_class=t.job_class))
            for t in tenants
        ]
        async with running(*loads):
            await asyncio.sleep(warm_s)
            before = await settled(under)
            await asyncio.sleep(window_s)
            after = await settled(under)
    tokens = {t.name: after.by_tenant.get(t.name, 0.0) - before.by_tenant.get(t.name, 0.0) for t in tenants}
    calls = after.calls - before.calls
    gap = longest_gap((sent.begun_at or 0.0 for sent in jobs.begun), before.at, after.at)
    used = sum(tokens.values()) / (quota / 60 * (after.at - before.at))
    return Seen(tokens, gap, used, (after.refusals - before.refusals) / max(calls, 1))


def lines(name: str, replicas: int, seen: Seen, tenants: Sequence[Tenant]) -> list[Figure]:
    """Jain by settled cost, quota used, and the longest gap."""
    services = [seen.tokens[t.name] / t.weight for t in tenants]
    group = f"{name}, {replicas}"
    note = f"refused {seen.refused:.2%}; most ÷ least {max(services) / max(min(services), 1e-9):.2f}"
    return [
        Figure(
            name=f"{group}: Jain by cost", unit="", group=group, bar=FAIR, samples=(jain(services),), note=note
        ),
        Figure(name=f"{group}: quota used", unit="", group=group, bar=USED, samples=(seen.used,)),
        Figure(name=f"{group}: longest gap", unit="s", group=group, samples=(seen.gap_s,)),
    ]


def unlike(refused: int = 0, model: str | tuple[str, ...] = MODEL) -> list[Tenant]:
    """Ten tenants whose calls differ by twenty in size and by three in weight."""
    sizes = ((1_500, 375), (600, 150), (225, 75), (90, 30), (75, 15))
    return [
        Tenant(
            name=f"t{i}",
            weight=weight,
            kind=Kind(
                model=model,
                input_tokens=sizes[i % 5][0],
                output_tokens=sizes[i % 5][1],
                call_s=0.2 + sizes[i % 5][1] / 500,
            ),
            refused=refused,
        )
        for i, weight in enumerate((1, 2, 3, 1, 2, 3, 1, 2, 3, 1))
    ]


async def skewed(under: Stage, replicas: int) -> list[Figure]:
    tenants = unlike()
    return lines("skewed", replicas, await observe(under, replicas, tenants), tenants)


async def refused_tenth(under: Stage, replicas: int) -> list[Figure]:
    """As skewed; each tenth job is refused once at the first of two models that have the same quota."""
    tenants = unlike(refused=10, model=(MODEL, OTHER))
    seen = await observe(under, replicas, tenants, warm_s=LEARN_S / 2, window_s=1.5 * WINDOW_S)
    found = lines("a tenth refused", replicas, seen, tenants)
    return [figure if "quota" not in figure.name else _without_bar(figure) for figure in found]


async def long_outputs(under: Stage, replicas: int) -> list[Figure]:
    """Answers far longer than predicted at first, at a burndown of five."""
    tenants = [
        Tenant(name="long", kind=Kind(input_tokens=100, output_tokens=875, max_tokens=1_000, call_s=1.5)),
        Tenant(name="short", kind=Kind(input_tokens=100, output_tokens=38, max_tokens=1_000)),
        Tenant(name="input", kind=Kind(input_tokens=2_000, output_tokens=25, max_tokens=75)),
    ]
    seen = await observe(under, replicas, tenants, burndown=5.0, warm_s=LEARN_S)
    return lines("long outputs", replicas, seen, tenants)


async def agents(under: Stage, replicas: int) -> list[Figure]:
    """Conversations of six small calls with a tool between them, beside few large calls."""
    turns = "".join(f"[[turn={n} tool={TOOL} input={{}}]]" for n in range(1, 6))
    agent = Kind(input_tokens=120, output_tokens=30, max_tokens=150, behave=turns, tools=(TOOL,))
    large = Kind(input_tokens=1_250, output_tokens=300, max_tokens=750, call_s=0.8)
    tenants = [
        Tenant(name=name, kind=kind)
        for name, kind in (("agents-1", agent), ("agents-2", agent), ("large-1", large), ("large-2", large))
    ]
    seen = await observe(under, replicas, tenants, warm_s=LEARN_S, prepare=provide)
    return lines("agents", replicas, seen, tenants)


async def provide(jobs: Traffic) -> None:
    """A tool that takes 0.1 s, for everybody."""

    async def answer(reply: str) -> None:
        await asyncio.sleep(0.1)
        # At the end of the case the connection closes under calls that nobody waits for any more.
        with suppress(BusUnavailable):
            jobs.mux.publish(reply, b'{"seen": true}')

    answering: set[asyncio.Task[None]] = set()

    def hear(message: Any) -> None:
        task = asyncio.get_running_loop().create_task(answer(message.reply))
        answering.add(task)
        task.add_done_callback(answering.discard)

    registration = {
        "name": TOOL,
        "version": "1.0.0",
        "description": "Looks.",
        "input_schema": {"type": "object"},
        "ttl_s": 3600,
    }
    asked = msgspec.json.encode(registration)
    told = msgspec.json.decode((await jobs.mux.request("llm.v1.tools.shared.register", asked)).payload)
    if "subject" not in told:
        raise AssertionError(f"the tool was refused: {told}")
    await jobs.mux.subscribe(told["subject"], hear, queue="tool")


async def classes(under: Stage, replicas: int) -> list[Figure]:
    """All three classes under full load, two tenants in each."""
    kind = Kind(input_tokens=60, output_tokens=15)
    weights = {"interactive": 100.0, "standard": 20.0, "batch": 1.0}
    tenants = [Tenant(name=f"{name}-{i}", kind=kind, job_class=name) for name in weights for i in (1, 2)]
    seen = await observe(under, replicas, tenants)
    total = sum(seen.tokens.values())
    group = f"classes, {replicas}"
    found = []
    for name, weight in weights.items():
        share = sum(v for tenant, v in seen.tokens.items() if tenant.startswith(name)) / total
        # Batch has a handful of jobs in the window: one more or less is a fifth.
        bar = Bar(value=0.9, is_least=True) if name != "batch" else None
        ratio = share / (weight / sum(weights.values()))
        found.append(
            Figure(name=f"{group}: share of {name} ÷ by weight", unit="", group=group, bar=bar, samples=(ratio,))
        )
    return found


async def on_off(under: Stage, replicas: int) -> list[Figure]:
    """A tenant that was silent comes with a flood, beside two that are always backlogged."""
    kind = Kind(input_tokens=300, output_tokens=80, max_tokens=160)
    tenants = [Tenant(name=name, kind=kind) for name in ("steady-1", "steady-2", "on-off")]
    quota = quota_for(tenants, burndown=1.0)
    await limit(under, quota)
    async with (
        fleet(under.nats.url, under.emulator, size=replicas, **settings(tenants, replicas, quota)),
        traffic(under.nats.url) as jobs,
    ):
        loads = [asyncio.ensure_future(jobs.keep(t.name, t.request, OUTSTANDING)) for t in tenants[:2]]
        async with running(*loads):
            await asyncio.sleep(WARM_S + 4.0)
            late = asyncio.ensure_future(jobs.keep("on-off", tenants[2].request, 3 * OUTSTANDING))
            async with running(late):
                before = await settled(under)
                await asyncio.sleep(12.0)
                after = await settled(under)
    got = after.by_tenant.get("on-off", 0.0) - before.by_tenant.get("on-off", 0.0)
    ratio = got / ((after.tokens - before.tokens) / 3)
    group = f"on-off, {replicas}"
    bar = Bar(value=1.1)
    return [
        Figure(name=f"{group}: of a flood after silence ÷ fair", unit="", group=group, bar=bar, samples=(ratio,))
    ]


def _without_bar(figure: Figure) -> Figure:
    return Figure(name=figure.name, unit=figure.unit, group=figure.group, samples=figure.samples, note=figure.note)
