"""What jobs take of JetStream: bytes by kind of message, and the server's memory by message and subject.

    ./dev bench sizing

Prints what `sidecar sizing` reckons with. A server, the emulator and one sidecar, each a process; for memory a
server alone, filled with documents and events by hand.
"""

import argparse
import asyncio
import sys
from base64 import b64decode
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.chaos_figures import Stage, stage
from benchmarks.real_load import Kind, Traffic, traffic
from benchmarks.real_workloads import TOOL, provide
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import NatsServer
from sidecar.adapters.nats.streams.provision import ensure
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings, Settings
from sidecar.models.subjects import HEADER_TTL, JOB_BUCKET
from tests.support.chaos import fleet

JOBS = 60
AT_ONCE = 20
# Four characters are a token of the emulator's.
SMALL_TOKENS, LARGE_TOKENS = 250, 2_500
SETTLE_S = 4.0
# Jobs, and deltas of each.
FILLED = [(40_000, 0), (120_000, 0), (2_000, 100), (4_000, 100)]
KINDS: Mapping[str, Kind] = {
    "whole": Kind(input_tokens=250, call_s=0.05),
    "streamed at 50 tokens a second": Kind(
        input_tokens=250, stream=True, behave="[[tps=50 chunk_tokens=1]]", call_s=0.05
    ),
    "streamed at once": Kind(input_tokens=250, stream=True, call_s=0.05),
    "one tool call": Kind(
        input_tokens=250, tools=(TOOL,), behave=f"[[turn=1 tool={TOOL} input={{}}]]", call_s=0.05
    ),
}


async def by_kind(under: Stage, name: str, kind: Kind, tokens: int) -> dict[str, tuple[float, float]]:
    """By kind of message: how many there are of a job, and the bytes of one as the stream counts them."""
    sized = Kind(
        **{f: getattr(kind, f) for f in kind.__dataclass_fields__ if f not in ("output_tokens", "max_tokens")},
        output_tokens=tokens,
        max_tokens=2 * tokens,
    )
    async with fleet(under.nats.url, under.emulator, size=1), traffic(under.nats.url) as jobs:
        if kind.tools:
            await provide(jobs)
        for _ in range(JOBS // AT_ONCE):
            await asyncio.gather(*(jobs.submit(f"size{tokens}", sized.request()) for _ in range(AT_ONCE)))
        if not await jobs.until(lambda: len(jobs.ended) >= JOBS, limit_s=120):
            raise AssertionError(f"{name}: {len(jobs.ended)} of {JOBS} jobs ended")
        return await counted(jobs, f"size{tokens}")


async def counted(jobs: Traffic, tenant: str) -> dict[str, tuple[float, float]]:
    found: dict[str, list[int]] = defaultdict(list)
    info = await jobs.mux.api("STREAM.INFO.KV_LLM_JOB")
    for seq in range(info["state"]["first_seq"], info["state"]["last_seq"] + 1):
        answer = msgspec.json.decode(
            (await jobs.mux.request("$JS.API.STREAM.MSG.GET.KV_LLM_JOB", b'{"seq":%d}' % seq)).payload
        )
        message = answer.get("message")
        if message is None or f".{tenant}." not in message["subject"]:
            continue
        found[kind_of(message)].append(stored_bytes(message))
    return {kind: (len(sizes) / JOBS, sum(sizes) / len(sizes)) for kind, sizes in found.items()}


def kind_of(message: Mapping[str, Any]) -> str:
    if message["subject"].endswith(".journal"):
        return "step"
    if message["subject"].startswith("$KV."):
        return "last document" if message_is_terminal(message) else "earlier document"
    return str(message["subject"]).rpartition(".")[2] + " event"


def message_is_terminal(message: Mapping[str, Any]) -> bool:
    return msgspec.json.decode(b64decode(message.get("data", "")))["result"] is not None


def stored_bytes(message: Mapping[str, Any]) -> int:
    """As the file store counts a message: 22 bytes before, 8 of checksum behind, 4 for headers' length."""
    headers = len(b64decode(message.get("hdrs", "")))
    return 30 + len(message["subject"]) + len(b64decode(message.get("data", ""))) + (4 + headers if headers else 0)


async def memory(jobs_in_all: int, deltas: int) -> tuple[float, float]:
    """Resident memory (MB) of an empty server, and with so many jobs' documents and events."""
    server = NatsServer()
    await asyncio.to_thread(server.start)
    connection = Connection(NatsSettings(url=server.url), name="sizing", environment=NatsEnvironment)
    await connection.start()
    mux = Mux(connection, timeout_s=60.0)
    await mux.start()
    try:
        await ensure(mux, Settings())
        empty = rss_mb(server.pid or 0)
        await fill(mux, jobs_in_all, deltas)
        await asyncio.sleep(SETTLE_S)
        return empty, rss_mb(server.pid or 0)
    finally:
        await mux.close()
        await connection.close()
        await asyncio.to_thread(server.stop)


async def fill(mux: Mux, jobs_in_all: int, deltas: int) -> None:
    numbers = iter(range(jobs_in_all))
    brief = {HEADER_TTL: "3600"}

    async def work() -> None:
        for number in numbers:
            key = f"acme.job-{number:012d}"
            await mux.store(f"$KV.{JOB_BUCKET}.{key}", b"x" * 400, headers={HEADER_TTL: "21600"})
            await mux.store(f"llm.v1.log.{key}.status", b"x" * 250, headers=brief)
            for _ in range(deltas):
                await mux.store(f"llm.v1.log.{key}.delta", b"x" * 200, headers=brief)
            await mux.store(f"$KV.{JOB_BUCKET}.{key}", b"x" * 1_200)
            await mux.store(f"llm.v1.log.{key}.result", b"x" * 1_200, headers=brief)

    await asyncio.gather(*(work() for _ in range(64)))


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


async def measure(sizes: list[tuple[int, int]], *, is_memory_alone: bool) -> None:
    for name, kind in () if is_memory_alone else KINDS.items():
        for tokens in (SMALL_TOKENS, LARGE_TOKENS):
            async with stage(jobs=0, repeats=1, minutes=0) as under:
                found = await by_kind(under, name, kind, tokens)
            parts = "; ".join(f"{k} {n:.2f} × {size:,.0f}" for k, (n, size) in sorted(found.items()))
            whole = sum(n * size for n, size in found.values())
            print(f"{name}, {tokens * 4:,} characters: {whole:,.0f} bytes a job: {parts}", flush=True)
    for jobs_in_all, deltas in sizes:
        empty, full = await memory(jobs_in_all, deltas)
        each = (full - empty) * 1e6 / jobs_in_all
        print(
            f"server with {jobs_in_all:,} jobs of {deltas} deltas: {full:.0f} MB, {each:,.0f} bytes a job",
            flush=True,
        )


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(prog="./dev bench sizing", description=__doc__.partition("\n")[0])
    made.add_argument("--memory", action="store_true", help="the server's memory alone")
    options = made.parse_args(arguments)
    asyncio.run(measure(FILLED, is_memory_alone=options.memory))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
