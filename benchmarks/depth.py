"""Questions about a deep queue on a real server: `./dev bench depth --jobs 1000000`.

A nats-server, the emulator and one sidecar, each a process. The jobs are queued before the sidecar starts, of a
thousand tenants, and hardly move: the model takes a minute. Measured are how long it takes until the queue is
known, what that costs, and then `get`, `jobs`, `cancel` and deadlines at that depth.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec

from benchmarks.load import MODEL
from benchmarks.measures import percentile
from benchmarks.processes import Child, python_module
from benchmarks.stack import Base, base
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import free_port
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.config.settings import NatsSettings, Settings, TenantPolicy
from sidecar.errors import BusUnavailable
from sidecar.models.base import epoch, rfc3339
from sidecar.models.subjects import Subjects

TENANTS = 1_000
AT_ONCE = 2_000
SLOW, FAST = "[[tokens=1 latency_ms=60000]] hello", "[[tokens=1 latency_ms=50]] hello"
PATIENCE_S = 300.0
POLL_S = 0.2
GETS, PAGES, ENDED = 500, 50, 20
DUE_S = 5.0
FILLED_S = 10.0
HALF = "[[tokens=1 latency_ms=500]] hello"
ESTIMATED, LEARNING_S = 400, 8.0

_CONFIG = """\
[nats]
url = "{nats}"
[bedrock]
endpoint_url = "{bedrock}"
max_connections = 256
[scheduler]
slots = 64
[tenants.default]
max_queue = {most}
[models."{model}"]
tokens_per_minute = 1_000_000_000
requests_per_minute = 10_000_000
[admin]
port = {admin}
[log]
level = "warning"
"""

SUBJECTS = Subjects()


class Deep:
    """A client of all tenants: job `d<n>` is of tenant `t<n % 1000>`."""

    def __init__(self, mux: Mux, jobs: int) -> None:
        self.mux = mux
        self.jobs = jobs
        self.ends: dict[str, float] = {}
        self._ended = asyncio.Event()

    async def listen(self) -> None:
        await self.mux.subscribe("llm.v1.job.*.*.result", self._hear)

    def _hear(self, message: BusMessage) -> None:
        self.ends[message.subject.split(".")[4]] = time.time()
        self._ended.set()

    async def end_of(self, job: str, limit_s: float = PATIENCE_S) -> float:
        async with asyncio.timeout(limit_s):
            while job not in self.ends:
                self._ended.clear()
                await self._ended.wait()
        return self.ends[job]

    async def publish(self, job: str, tenant: str, job_class: str, prompt: str, **more: str) -> None:
        deadline = more.pop("deadline", None)
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "model": MODEL,
            "params": {"max_tokens": 10},
            **({"deadline": deadline} if deadline else {}),
        }
        headers = {"Llm-Job-Id": job, **more}
        await self.mux.store(SUBJECTS.request(tenant, job_class), msgspec.json.encode(body), headers=headers)

    async def fill(self) -> None:
        for start in range(0, self.jobs, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, self.jobs))
            await asyncio.gather(*(self.publish(f"d{n}", f"t{n % TENANTS}", "batch", SLOW) for n in numbers))

    async def ask(self, verb: str, *tokens: str, body: object = None) -> tuple[float, dict[str, object]]:
        """How long the answer took (ms), and what it was."""
        began = time.perf_counter()
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.mux.request(SUBJECTS.endpoint(verb, *tokens), payload)
        took = 1000 * (time.perf_counter() - began)
        return took, msgspec.json.decode(message.payload)

    async def is_known(self) -> bool:
        n = self.jobs - 1
        with suppress(BusUnavailable):
            _, answer = await self.ask("get", f"t{n % TENANTS}", f"d{n}")
            return answer.get("state") == "queued"
        return False

    async def grants(self, stop: asyncio.Event) -> list[float]:
        """How long small jobs of another class take (ms), one after the other, until `stop`."""
        took: list[float] = []
        number = random.randrange(1 << 40)
        while not stop.is_set():
            job, number = f"g{number}", number + 1
            began = time.time()
            await self.publish(job, "quick", "interactive", FAST)
            took.append(1000 * (await self.end_of(job) - began))
        return took


async def measure(under: Base, jobs: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    async with client(under, jobs) as deep:
        with sidecar(under, jobs) as process:
            await deep.publish("warm", "quick", "interactive", FAST)
            await deep.end_of("warm")
            await asyncio.sleep(2.0)
            idle_mb = process.rss_mb()
        await deep.fill()
        with sidecar(under, jobs) as process:
            figures |= await rebuilt(deep, process)
            figures["memory over idle, MB"] = process.rss_mb() - idle_mb
            figures |= await asked(deep)
            figures |= await estimated(deep)
            figures |= await ended(deep)
            before = process.cpu_s()
            await asyncio.sleep(10.0)
            figures["CPU while payloads are read early, share of a core"] = (process.cpu_s() - before) / 10
            figures["payloads not read yet"] = await unread(deep)
            figures["memory over idle at the end, MB"] = process.rss_mb() - idle_mb
    return figures


async def rebuilt(deep: Deep, process: Child) -> dict[str, float]:
    began, cpu_s = time.monotonic(), process.cpu_s()
    # The first seconds are those in which the windows of all lanes are filled.
    await asyncio.sleep(FILLED_S)
    stop = asyncio.Event()
    grants = asyncio.ensure_future(deep.grants(stop))
    async with asyncio.timeout(PATIENCE_S):
        while not await deep.is_known():  # noqa: ASYNC110 - it is asked, it does not tell
            await asyncio.sleep(POLL_S)
    took = time.monotonic() - began
    used = (process.cpu_s() - cpu_s) / took
    stop.set()
    meanwhile = await grants
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(10.0, stop.set)
    after = await deep.grants(stop)
    return {
        "queue known after, s": took,
        "CPU meanwhile, share of a core": used,
        "small job meanwhile p99, ms": percentile(meanwhile[1:] or meanwhile, 0.99),
        "small job afterwards p99, ms": percentile(after, 0.99),
    }


async def asked(deep: Deep) -> dict[str, float]:
    dice = random.Random(1)
    gets: list[float] = []
    for _ in range(GETS):
        n = dice.randrange(deep.jobs // 2, deep.jobs)
        took, answer = await deep.ask("get", f"t{n % TENANTS}", f"d{n}")
        if answer.get("state") not in ("queued", "running"):
            raise RuntimeError(f"d{n}: {answer}")
        gets.append(took)
    pages = [
        (await deep.ask("jobs", f"t{dice.randrange(TENANTS)}", body={"limit": 100, "state": "queued"}))[0]
        for _ in range(PAGES)
    ]
    merged = [(await deep.ask("jobs", f"t{dice.randrange(TENANTS)}"))[0] for _ in range(PAGES)]
    return {
        "get p50, ms": percentile(gets, 0.5),
        "get p99, ms": percentile(gets, 0.99),
        "jobs page of 100 queued p99, ms": percentile(pages, 0.99),
        "jobs page of 100 of all states p99, ms": percentile(merged, 0.99),
    }


async def ended(deep: Deep) -> dict[str, float]:
    cancels: list[float] = []
    for n in range(deep.jobs - ENDED, deep.jobs):
        began = time.time()
        await deep.ask("cancel", f"t{n % TENANTS}", f"d{n}")
        cancels.append(await deep.end_of(f"d{n}") - began)
    due = time.time() + DUE_S
    for n in range(ENDED):
        at = rfc3339(due)
        await deep.publish(f"h{n}", f"t{n}", "batch", SLOW, **{"Llm-Deadline": at})
        await deep.publish(f"p{n}", f"t{n}", "batch", SLOW, deadline=at)
    by_header = [await deep.end_of(f"h{n}") - due for n in range(ENDED)]
    figures = {
        "cancel until the result, longest, s": max(cancels),
        "deadline in the header, longest overshoot, s": max(by_header),
    }
    with suppress(TimeoutError):
        by_payload = [await deep.end_of(f"p{n}", 120.0) - due for n in range(ENDED)]
        figures["deadline in the payload, longest overshoot, s"] = max(by_payload)
    return figures


async def estimated(deep: Deep) -> dict[str, float]:
    """How far what `get` said of a job's wait was from what it waited, as a share of that."""
    await asyncio.gather(*(deep.publish(f"e{n}", "lane", "interactive", HALF) for n in range(ESTIMATED)))
    await asyncio.sleep(LEARNING_S)
    said: dict[int, tuple[float, float]] = {}
    for n in range(0, ESTIMATED, ESTIMATED // 20):
        _, answer = await deep.ask("get", "lane", f"e{n}")
        estimate_ms = answer.get("estimate_ms")
        if isinstance(estimate_ms, int):
            said[n] = (time.time(), estimate_ms / 1000)
    errors: list[float] = []
    for n, (at, wait_s) in said.items():
        await deep.end_of(f"e{n}")
        _, answer = await deep.ask("get", "lane", f"e{n}")
        waited_s = epoch(str(answer["started"])) - at
        if waited_s > 1.0:
            errors.append(abs(wait_s - waited_s) / waited_s)
    return {
        "estimates told": float(len(errors)),
        "estimate of the wait, median error, %": 100 * percentile(errors or [0.0], 0.5),
        "estimate of the wait, p90 error, %": 100 * percentile(errors or [0.0], 0.9),
    }


async def unread(deep: Deep) -> float:
    _, answer = await deep.ask("admin", "jobs", body={"state": "queued", "limit": 1})
    found = answer.get("unread")
    return float(found) if isinstance(found, int) else -1.0


@asynccontextmanager
async def client(under: Base, jobs: int) -> AsyncIterator[Deep]:
    connection = Connection(NatsSettings(url=under.nats.url), name="depth")
    await connection.start()
    mux = Mux(connection, timeout_s=60.0)
    await mux.start()
    try:
        await ensure(mux, Settings(tenants={"default": TenantPolicy(max_queue=jobs + 10)}))
        deep = Deep(mux, jobs)
        await deep.listen()
        yield deep
    finally:
        await mux.close()
        await connection.close()


@contextmanager
def sidecar(under: Base, jobs: int) -> Iterator[Child]:
    config = under.folder / "depth.toml"
    config.write_text(
        _CONFIG.format(
            nats=under.nats.url, bedrock=under.emulator_url, most=jobs + 10, model=MODEL, admin=free_port()
        )
    )
    command = python_module("sidecar", "run", "--config", str(config))
    with Child(command, log=under.folder / "depth.log", name="sidecar") as process:
        yield process


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    options = parser.parse_args(arguments)
    with base() as under:
        figures = asyncio.run(measure(under, options.jobs))
    print(f"{options.jobs:,} jobs of {TENANTS:,} tenants")
    for name, figure in figures.items():
        print(f"{name:55} {figure:>12,.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
