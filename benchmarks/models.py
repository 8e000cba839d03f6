"""Figures of choosing models and calling them: selection, event loop lag, throughput at the quota.

    python -m benchmarks.models [selection] [lag] [quota] [--quick]

The replica runs in this process, on the bus in memory, with the real Bedrock client; the emulator is a process of
its own. What a job costs in CPU is measured by `./dev bench`.
"""

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measures import Bar, Figure, percentile
from benchmarks.processes import Child, python_module
from benchmarks.report import table
from sidecar.config.settings import BedrockSettings, Policy, TenantPolicy
from sidecar.coordinator.catalogue import InferenceRow, ModelRow
from sidecar.coordinator.service import Coordinator
from sidecar.models.content import Message
from sidecar.models.profile import Price, Traits
from sidecar.models.request import JobRequest, Params, Task
from sidecar.models.result import Result
from tests.support.emulator import EmulatorProcess, spawn_emulator
from tests.support.way import Way, way

CANDIDATES = 60
ROUNDS = 2_000
STREAMS = 500
MODEL = "nova-lite"
REGIONS = ("us-east-1", "us-west-2", "us-east-2")
TOKENS_A_MINUTE = 60_000
OUTPUT_TOKENS = 50
LOAD = 0.95
KEYS_TAKE_S = 1.5
TICK_S = 0.005
SPREAD_S = 4.0


def selection(scale: float) -> list[Figure]:
    """CPU of one choice among 60 candidates that all pass the filters, for requests that differ."""
    coordinator = Coordinator(
        policy=Policy(),
        bedrock=BedrockSettings(regions=REGIONS[:2]),
        rows=[_row(i) for i in range(CANDIDATES // 2)],
    )
    tenant, messages = TenantPolicy(), (Message(role="user", content="hello"),)
    asked = {
        "by task": JobRequest(
            messages=messages, task=Task(kind="code", quality="best"), params=Params(max_tokens=500)
        ),
        "named": JobRequest(messages=messages, model=tuple(f"m{i}" for i in range(16))),
    }
    figures = []
    for name, request in asked.items():
        samples = []
        for _ in range(5):
            rounds = round(ROUNDS * scale)
            started = time.process_time()
            for i in range(rounds):
                coordinator.candidates(
                    request, tenant=tenant, input_tokens=100 + i, job_class="batch", now=1e9 + i
                )
            samples.append((time.process_time() - started) / rounds * 1000)
        title = f"CPU of a selection among {CANDIDATES} candidates, {name}"
        figures.append(Figure(name=title, unit="ms", group="models", bar=Bar(value=0.1), samples=tuple(samples)))
    return figures


def _row(i: int) -> ModelRow:
    return ModelRow(
        alias=f"m{i}",
        model_id=f"acme.m{i}-v1:0",
        family="other",
        name=f"m{i}",
        traits=Traits(),
        inference=(InferenceRow(profile="", regions=REGIONS),),
        kinds=("chat", "code"),
        context_tokens=100_000,
        max_output_tokens=8_000,
        capabilities=("tools", "streaming"),
        prices=(Price(input=1.0 + i / 10, output=5.0),),
    )


async def lag(emulator: EmulatorProcess, scale: float) -> list[Figure]:
    """How late the event loop comes round while 500 streams run and keys are fetched again and again."""
    seconds = max(3.0, 20.0 * scale)
    idle = await _measure_lag(None, seconds / 2, refreshes=False)
    with _slow_keys():
        async with way(emulator.url, scheduler={"slots": STREAMS + 50}, models_policy=_unlimited()) as on:
            prompt = f"[[tokens={round((2 * seconds + 30) * 10)} tps=10 chunk_tokens=4 jitter=0.5]] go"
            for _ in range(STREAMS):
                await on.submit(prompt, model=MODEL, stream=True)
                await asyncio.sleep(SPREAD_S / STREAMS)
            await _until(lambda: emulator.control("GET", "counters")["active"] >= STREAMS)
            lags = await _measure_lag(on, seconds, refreshes=True)
            calm = await _measure_lag(on, seconds, refreshes=False)
            note = f"{STREAMS} streams, keys fetched again and again, {KEYS_TAKE_S:g} s each"
    name = "event loop lag p99 while credentials refresh"
    return [
        Figure(
            name=name,
            unit="ms",
            group="models",
            bar=Bar(value=15),
            samples=(percentile(lags, 0.99),),
            anchors=(("without a refresh", percentile(calm, 0.99)), ("an idle loop", percentile(idle, 0.99))),
            note=note,
        ),
        Figure(name="the same, p50", unit="ms", group="models", samples=(percentile(lags, 0.5),)),
    ]


async def _measure_lag(on: Way | None, seconds: float, *, refreshes: bool) -> list[float]:
    """Milliseconds by which short sleeps were late."""
    # The bus in memory keeps every event, which a sidecar does not: the collector must not walk over all of them.
    gc.collect()
    gc.freeze()
    loop, lags = asyncio.get_running_loop(), []
    ends = loop.time() + seconds
    next_refresh = 0.0
    while (now := loop.time()) < ends:
        if refreshes and on is not None and now >= next_refresh:
            # Keys near their end are fetched anew beside the calls, when a call asks for some.
            next_refresh = now + KEYS_TAKE_S
            await on.submit(model=MODEL)
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        lags.append((loop.time() - due) * 1000)
    return lags


@contextmanager
def _slow_keys() -> Iterator[None]:
    """The credential chain of this process ends at a source that takes its time."""
    name, hidden = (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"),
    )
    kept = {key: os.environ.pop(key) for key in (name, *hidden) if key in os.environ}
    command = python_module("benchmarks.slow_keys", str(KEYS_TAKE_S))
    with tempfile.TemporaryDirectory() as folder, Child(command, log=Path(folder) / "log", name="keys") as source:
        os.environ[name] = source.read(timeout_s=20)["url"]
        try:
            yield
        finally:
            del os.environ[name]
            os.environ.update(kept)


async def quota(emulator: EmulatorProcess, scale: float) -> list[Figure]:
    """An open loop at 95 % of three pools' quota: what is answered in time, and how much of it was refused."""
    seconds, settle_s = max(15.0, 60.0 * scale), 5.0
    emulator.control("POST", "reset")
    emulator.control("PUT", "quota", [{"model": "*", "tokens_per_minute": TOKENS_A_MINUTE, "burst_s": 15}])
    policy = {MODEL: {"tokens_per_minute": TOKENS_A_MINUTE, "fallback": []}}
    async with way(emulator.url, bedrock={"regions": REGIONS}, models_policy=policy) as on:
        prompt = f"[[tokens={OUTPUT_TOKENS} latency_ms=300]] go"
        first = await on.ask(prompt, model=MODEL, params={"max_tokens": 100})
        cost = first.usage.input_tokens + first.usage.output_tokens
        rate = LOAD * TOKENS_A_MINUTE / 60 * len(REGIONS) / cost
        jobs = await _open_loop(on, prompt, rate=rate, seconds=seconds)
        await asyncio.sleep(settle_s)
        done = [r for job in jobs for r in await on.results(job)]
    pools = emulator.control("GET", "quota")
    emulator.control("PUT", "quota", [])
    return _quota_figures(done, len(jobs), pools)


def _quota_figures(done: Sequence[Result], offered: int, pools: dict[str, Any]) -> list[Figure]:
    calls, throttles = (sum(pool[name] for pool in pools.values()) for name in ("calls", "throttles"))
    answered = sum(r.state == "succeeded" for r in done)
    share = 100 * answered / offered
    note = f"{offered} jobs, {len(pools)} pools of {TOKENS_A_MINUTE} tokens a minute"
    return [
        Figure(
            name="throughput at 95 % of the quota, of the ideal",
            unit="%",
            group="models",
            bar=Bar(value=90, is_least=True),
            samples=(share,),
            note=note,
        ),
        Figure(
            name="calls throttled there",
            unit="%",
            group="models",
            bar=Bar(value=1),
            samples=(100 * throttles / max(1, calls + throttles),),
            note=f"{throttles} of {calls + throttles}",
        ),
    ]


async def _open_loop(on: Way, prompt: str, *, rate: float, seconds: float) -> list[str]:
    """Send evenly for `seconds`, whatever comes back. Returns the jobs."""
    started, jobs = time.monotonic(), []
    for i in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, started + i / rate - time.monotonic()))
        jobs.append(await on.submit(prompt, model=MODEL, params={"max_tokens": 100}))
    return jobs


def _unlimited() -> dict[str, Any]:
    return {MODEL: {"tokens_per_minute": 1_000_000_000, "requests_per_minute": 10_000_000}}


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - asks another process
            await asyncio.sleep(0.1)


def _with_emulator(measure: Callable[[EmulatorProcess, float], Awaitable[list[Figure]]]) -> "Measure":
    async def measured(scale: float) -> list[Figure]:
        with spawn_emulator() as emulator:
            return await measure(emulator, scale)

    return lambda scale: asyncio.run(measured(scale))


Measure = Callable[[float], list[Figure]]
FIGURES: dict[str, Measure] = {
    "selection": selection,
    "lag": _with_emulator(lag),
    "quota": _with_emulator(quota),
}


def main(arguments: list[str]) -> int:
    """Exit code 1 when a bar was missed."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.models")
    made.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; default all")
    made.add_argument("--quick", action="store_true", help="shorter: for a look, not for a figure")
    options = made.parse_args(arguments)
    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        made.error(f"no figures named {', '.join(unknown)}: there are {', '.join(FIGURES)}")
    figures = [f for name in options.names or FIGURES for f in FIGURES[name](0.2 if options.quick else 1.0)]
    print(table(figures))
    return 1 if any(f.verdict == "FAIL" for f in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
