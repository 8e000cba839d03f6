"""A newcomer behind a flood on a real bus, and the use of the quota: `python -m benchmarks.flood --jobs 1000000`.

A nats-server, the emulator with a quota, and one sidecar with the same quota, each a process. One tenant's jobs
are queued first; then the sidecar starts, works off part of the flood, and a second tenant sends one job. Counted
are the flood's jobs that start between the newcomer's arrival and its own start; measured are the quota's use,
refusals and memory.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec

from benchmarks.load import MODEL
from benchmarks.processes import Child, python_module
from benchmarks.stack import READY_S, Base, base
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import free_port
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.config.settings import NatsSettings, Settings, TenantPolicy
from sidecar.models.subjects import Subjects

# This many are worked off in a second at the quota, where an output token counts five times.
JOBS_A_S = 40
BURNDOWN = 5
TOKENS_A_JOB = 70 + BURNDOWN * 300
QUOTA = JOBS_A_S * TOKENS_A_JOB * 60
PROMPT = "[[tokens=300 latency_ms=400]] " + "word " * 50
PATIENCE_S = 600.0
AT_ONCE = 2_000

_CONFIG = """\
[nats]
url = "{nats}"
[bedrock]
endpoint_url = "{bedrock}"
[scheduler]
slots = 128
[tenants.default]
max_queue = {max_queue}
[models."{model}"]
tokens_per_minute = {quota}
burndown = {burndown}
fallback = []
[admin]
port = {admin}
[log]
level = "warning"
"""


class Seen:
    """Who started, in order, and who ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = 0
        self.failed = 0
        self.changed = asyncio.Event()

    def status(self, message: BusMessage) -> None:
        if b'"state":"running"' in message.payload:
            self.begun.append(message.subject.split(".")[3])
            self.changed.set()

    def result(self, message: BusMessage) -> None:
        self.ended += 1
        self.failed += b'"state":"succeeded"' not in message.payload
        self.changed.set()

    async def until(self, count: int, *, who: str | None = None) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.begun) < count or (who is not None and who not in self.begun):
                self.changed.clear()
                await self.changed.wait()


async def measure(under: Base, jobs: int, seconds: float) -> dict[str, float]:
    connection = Connection(NatsSettings(url=under.nats.url), name="flood")
    await connection.start()
    mux = Mux(connection, timeout_s=60.0)
    await mux.start()
    try:
        await ensure(mux, Settings(tenants={"default": TenantPolicy(max_queue=jobs + 10)}))
        seen = Seen()
        await mux.subscribe("llm.v1.job.*.*.status", seen.status)
        await mux.subscribe("llm.v1.job.*.*.result", seen.result)
        began = time.monotonic()
        await publish(mux, "flood", jobs)
        publish_s = time.monotonic() - began
        with sidecar(under, jobs) as process:
            await seen.until(20)
            # Where the burst is used up the quota is what limits.
            await asyncio.sleep(seconds)
            before, at_first = len(seen.begun), await asyncio.to_thread(quota, under)
            await publish(mux, "newcomer", 1)
            await seen.until(before + 1, who="newcomer")
            position = seen.begun.index("newcomer") - before
            await asyncio.sleep(seconds)
            at_last = await asyncio.to_thread(quota, under)
            rss = rss_mb(process)
        used = (at_last[0] - at_first[0]) / (QUOTA / 60 * (at_last[2] - at_first[2]))
        return {
            "jobs queued": jobs,
            "publishing s": round(publish_s, 1),
            "flood jobs started before the newcomer": position,
            "quota used while there is backlog": round(used, 4),
            "refusals": at_last[1],
            "calls": seen.ended,
            "failed": seen.failed,
            "sidecar MB": round(rss, 1),
        }
    finally:
        await mux.close()
        await connection.close()


async def publish(mux: Mux, tenant: str, count: int) -> None:
    """Queue jobs, some thousands at a time."""
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "model": MODEL,
        "params": {"max_tokens": 310},
    }
    payload, subject = msgspec.json.encode(body), Subjects().request(tenant, "standard")
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        await asyncio.gather(*(mux.store(subject, payload) for _ in range(size)))


@contextmanager
def sidecar(under: Base, jobs: int) -> Iterator[Child]:
    config = under.folder / "flood.toml"
    urls = {"nats": under.nats.url, "bedrock": under.emulator_url}
    limits = {"model": MODEL, "quota": QUOTA, "burndown": BURNDOWN, "max_queue": jobs + 10}
    config.write_text(_CONFIG.format(**urls, **limits, admin=free_port()))
    command = python_module("sidecar", "run", "--config", str(config))
    with Child(command, log=under.folder / "flood.log", name="sidecar") as process:
        yield process


def quota(under: Base) -> tuple[float, int, float]:
    """Tokens settled, refusals, and the time of looking."""
    with urlopen(f"{under.emulator_url}/_emulator/quota", timeout=READY_S) as response:  # noqa: S310
        pools = json.load(response).values()
    settled = sum(tokens for pool in pools for _, tokens in pool["settled_by_second"])
    return settled, sum(pool["throttles"] for pool in pools), time.monotonic()


def rss_mb(process: Child) -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="before and after the newcomer")
    arguments = parser.parse_args()
    with base() as under:
        rules = json.dumps([{"model": "*claude*", "tokens_per_minute": QUOTA, "burndown": BURNDOWN}]).encode()
        request = Request(f"{under.emulator_url}/_emulator/quota", data=rules, method="PUT")  # noqa: S310
        with urlopen(request, timeout=READY_S):  # noqa: S310
            pass
        figures = asyncio.run(measure(under, arguments.jobs, arguments.seconds))
    for name, figure in figures.items():
        print(f"{name:45} {figure:>12,}")
    return int(figures["flood jobs started before the newcomer"] > 2)


if __name__ == "__main__":
    sys.exit(main())
