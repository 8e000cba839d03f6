"""What is measured, group by group: each returns lines of the table, repeats interleaved with their anchors."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks import stack
from benchmarks.measures import Bar, Figure, percentile
from benchmarks.processes import ROOT, Child, NotMeasured

UNARY = "[[tokens=50]] What is JetStream, and when would you use it?"
STREAM = "[[tokens=200]] Explain JetStream to a newcomer."
PACED = "[[tokens=200 tps=200]] Explain JetStream to a newcomer."
LIVE = "[[tokens=400 tps=10]] Explain JetStream to a newcomer."

IN_FLIGHT = 64
THREADS = 16
ASK_S = 60.0
LIVE_STREAMS = 500

BARS: Mapping[str, Bar] = {
    "unary_cpu": Bar(value=0.9),
    "unary_share": Bar(value=1.0),
    "unary_rate": Bar(value=1_000, is_least=True),
    "stream_cpu": Bar(value=2.2),
    "latency_p50": Bar(value=4),
    "latency_p99": Bar(value=15),
    "idle_mb": Bar(value=70),
    "live_mb": Bar(value=150),
    "import_ms": Bar(value=50),
    "help_ms": Bar(value=250),
    "ready_s": Bar(value=1.5),
}


@dataclass
class Bench:
    """One run. `beside` holds a peer's figures by key; `scale` shortens everything for a quick look."""

    base: stack.Base
    repeats: int = 3
    scale: float = 1.0
    beside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def jobs(self, count: int) -> int:
        return max(50, round(count * self.scale))

    def figure(
        self,
        key: str,
        name: str,
        unit: str,
        samples: list[float],
        *,
        group: str,
        anchors: Mapping[str, list[float]] | None = None,
        note: str = "",
    ) -> Figure:
        """A line with its bar, what was measured beside it and the peer's figure."""
        beside = {name: statistics.median(values) for name, values in (anchors or {}).items()}
        return Figure(
            name=name,
            unit=unit,
            group=group,
            bar=BARS.get(key),
            samples=tuple(samples),
            anchors=(*beside.items(), *self.beside.get(key, {}).items()),
            note=note,
        )


@dataclass
class Costs:
    """Milliseconds of CPU a job, by process, one entry a repeat; and jobs a second."""

    sidecar: list[float] = field(default_factory=list)
    boto3: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    emulator: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    @property
    def shares(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.sidecar, self.boto3, strict=True)]

    @property
    def note(self) -> str:
        nats, emulator = statistics.median(self.nats), statistics.median(self.emulator)
        return f"NATS {nats:.2f}, emulator {emulator:.2f}"


def unary(bench: Bench) -> list[Figure]:
    """Durable jobs answered in one piece, a closed loop; beside boto3's `converse`."""
    jobs = bench.jobs(2_000)
    order = {"do": "closed", "jobs": jobs, "in_flight": IN_FLIGHT, "prompt": UNARY}
    costs, boto3_rate = _costs(bench, order, "converse", calls=bench.jobs(500))
    make = bench.figure
    return [
        make(
            "unary_cpu", "CPU per durable unary job", "ms", costs.sidecar, group="unary",
            anchors={"boto3": costs.boto3}, note=costs.note,
        ),
        make("unary_share", "the same, as a share of boto3's converse", "", costs.shares, group="unary"),
        make(
            "unary_rate", "durable unary jobs a second", "1/s", costs.rate, group="unary",
            anchors={"boto3": boto3_rate},
        ),
    ]  # fmt: skip


def stream(bench: Bench) -> list[Figure]:
    """Durable jobs streamed in 50 pieces: as fast as the emulator sends, and at the pace of a fast model."""
    jobs = bench.jobs(600)
    order = {"do": "closed", "jobs": jobs, "in_flight": IN_FLIGHT, "prompt": STREAM, "stream": True}
    fast, _ = _costs(bench, order, "converse_stream", calls=bench.jobs(150))
    order |= {"jobs": bench.jobs(400), "in_flight": 2 * IN_FLIGHT, "prompt": PACED}
    paced, _ = _costs(bench, order, "converse_stream", calls=bench.jobs(100), threads=64)
    make = bench.figure
    return [
        make(
            "stream_cpu", "CPU per durable 50-chunk streamed job", "ms", fast.sidecar, group="stream",
            anchors={"boto3": fast.boto3}, note=fast.note,
        ),
        make(
            "paced_cpu", "the same at 50 chunks a second", "ms", paced.sidecar, group="stream",
            anchors={"boto3": paced.boto3}, note=paced.note,
        ),
    ]  # fmt: skip


def _costs(
    bench: Bench, order: Mapping[str, Any], operation: str, *, calls: int, threads: int = THREADS
) -> tuple[Costs, list[float]]:
    """The repeats of a closed loop, each followed by its anchor, so that both meet the same machine."""
    costs, anchor_rate = Costs(), list[float]()
    question = {"do": operation, "calls": calls, "threads": threads, "prompt": order["prompt"]}
    with ExitStack() as processes:
        sidecar = processes.enter_context(stack.sidecar(bench.base)).process
        load = processes.enter_context(stack.load_generator(bench.base))
        anchor = processes.enter_context(stack.boto3_anchor(bench.base))
        load.ask({**order, "jobs": 300, "timeout_s": ASK_S}, timeout_s=ASK_S + 5)
        anchor.ask({**question, "calls": 50}, timeout_s=ASK_S)
        for _ in range(bench.repeats):
            _one(bench, order, sidecar=sidecar, load=load, costs=costs)
            bare = anchor.ask(question, timeout_s=ASK_S)
            costs.boto3.append(bare["cpu_s"] / calls * 1000)
            anchor_rate.append(calls / bare["elapsed_s"])
    return costs, anchor_rate


def _one(bench: Bench, order: Mapping[str, Any], *, sidecar: Child, load: Child, costs: Costs) -> None:
    jobs = order["jobs"]
    before = (sidecar.cpu_s(), bench.base.nats_cpu_s(), bench.base.emulator.cpu_s())
    done = load.ask({**order, "timeout_s": ASK_S}, timeout_s=ASK_S + 5)
    after = (sidecar.cpu_s(), bench.base.nats_cpu_s(), bench.base.emulator.cpu_s())
    spent = [(b - a) / jobs * 1000 for a, b in zip(before, after, strict=True)]
    for samples, value in zip((costs.sidecar, costs.nats, costs.emulator), spent, strict=True):
        samples.append(value)
    costs.rate.append(jobs / done["elapsed_s"])


def latency(bench: Bench) -> list[Figure]:
    """Submit to result at 300 jobs a second, sent at their times whatever comes back."""
    jobs = bench.jobs(1_200)
    order = {"do": "open", "jobs": jobs, "rate": 300, "prompt": UNARY, "timeout_s": ASK_S}
    p50, p99, cpu = list[float](), list[float](), list[float]()
    with stack.sidecar(bench.base) as sidecar, stack.load_generator(bench.base) as load:
        load.ask({**order, "jobs": 300}, timeout_s=ASK_S + 5)
        for _ in range(bench.repeats):
            before = sidecar.process.cpu_s()
            done = load.ask(order, timeout_s=ASK_S + 5)
            cpu.append((sidecar.process.cpu_s() - before) / jobs * 1000)
            taken_ms = [seconds * 1000 for seconds in done["latencies_s"]]
            p50.append(percentile(taken_ms, 0.5))
            p99.append(percentile(taken_ms, 0.99))
    note = f"CPU {statistics.median(cpu):.2f} ms a job"
    return [
        bench.figure("latency_p50", "submit to result at 300 jobs/s, p50", "ms", p50, group="latency", note=note),
        bench.figure("latency_p99", "submit to result at 300 jobs/s, p99", "ms", p99, group="latency"),
    ]


def memory(bench: Bench) -> list[Figure]:
    """Resident memory of a fresh sidecar: idle, and while 500 streams run."""
    order = {"do": "start", "jobs": LIVE_STREAMS, "prompt": LIVE, "stream": True, "timeout_s": 30.0}
    with stack.sidecar(bench.base) as sidecar, stack.load_generator(bench.base) as load:
        time.sleep(1.0)
        idle = sidecar.process.rss_mb()
        started = load.ask(order, timeout_s=35)
        if started["ended"]:
            raise NotMeasured(f"{started['ended']} of the streams ended before all were live")
        live = list[float]()
        for _ in range(8):
            time.sleep(0.25)
            live.append(sidecar.process.rss_mb())
    make = bench.figure
    return [
        make("idle_mb", "resident memory, idle", "MB", [idle], group="memory"),
        make("live_mb", f"resident memory, {LIVE_STREAMS} live streams", "MB", [max(live)], group="memory"),
    ]


def start(bench: Bench) -> list[Figure]:
    """What starting costs, with the bytecode compiled."""
    imports = "import time; t = time.perf_counter(); import sidecar; print((time.perf_counter() - t) * 1000)"
    imported = [float(_run("-c", imports)) for _ in range(4 + bench.repeats)][1:]
    bare, helped = list[float](), list[float]()
    for _ in range(2 + bench.repeats):
        bare.append(_elapsed_ms("-c", "pass"))
        helped.append(_elapsed_ms("-m", "sidecar", "--help"))
    ready, cpu = list[float](), list[float]()
    for _ in range(bench.repeats):
        with stack.sidecar(bench.base) as sidecar:
            ready.append(sidecar.ready_s)
            cpu.append(sidecar.ready_cpu_s)
    make, note = bench.figure, f"CPU {statistics.median(cpu):.2f} s"
    return [
        make("import_ms", "import sidecar", "ms", imported, group="start"),
        make("help_ms", "sidecar --help", "ms", helped[1:], group="start", anchors={"bare python": bare[1:]}),
        make("ready_s", "process start to ready, NATS up", "s", ready, group="start", note=note),
    ]


def _run(*arguments: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as e:
        raise NotMeasured(f"python {' '.join(arguments)} failed: {e}") from e
    return done.stdout


def _elapsed_ms(*arguments: str) -> float:
    started = time.perf_counter()
    _run(*arguments)
    return (time.perf_counter() - started) * 1000


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {
    "unary": unary,
    "stream": stream,
    "latency": latency,
    "memory": memory,
    "start": start,
}
