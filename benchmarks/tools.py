"""Tools over the bus: what a call adds, and what a thousand registrations cost.

    ./dev bench tools [--calls-s 200] [--seconds 10] [--tools 1000] [--renew-s 30] [--replicas 2] [--idle-s 20]

Calls: a provider in a process of its own works for `--own-ms` and says how long that took; what the caller waited
beyond is the bus's part. Calls are sent at their times, whatever comes back, and counted from when they were due.

Registrations: real sidecars, each tool renewed by its provider every `--renew-s` seconds, evenly spread, over two
rounds. CPU is user and system time of each sidecar's process, beside that of the same processes while idle, and
while as many questions are refused at once: what the bus itself costs. In the end every replica has answered the
list, and each answer has to hold every tool with time left.
"""

import argparse
import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from benchmarks.measures import percentile
from benchmarks.processes import Child, python_module
from benchmarks.stack import READY_S, Base, base, sidecar
from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.message import BusMessage
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.tool_bus import NatsToolBus
from sidecar.config.connection import NatsEnvironment
from sidecar.config.settings import NatsSettings
from sidecar.models.base import epoch
from sidecar.models.subjects import Subjects
from sidecar.ports.tools import ToolCall

SUBJECT = Subjects().call("acme", "orders", "1.2.0")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        f"field_{i}": {"type": "string", "description": "One of the things it needs."} for i in range(8)
    },
    "required": ["field_0"],
}
INPUT = json.dumps({f"field_{i}": "some text" for i in range(8)}).encode()
WARM_S = 2.0
SETTLE_S = 3.0


async def connect(stack: AsyncExitStack, url: str) -> Mux:
    connection = Connection(NatsSettings(url=url), environment=NatsEnvironment)
    stack.push_async_callback(connection.close)
    await connection.start()
    mux = Mux(connection, timeout_s=30)
    stack.push_async_callback(mux.close)
    await mux.start()
    return mux


async def provide(url: str, own_ms: float) -> None:
    """Answer calls until the end of stdin."""
    tasks: set[asyncio.Task[None]] = set()
    async with AsyncExitStack() as stack:
        mux = await connect(stack, url)

        async def work(message: BusMessage) -> None:
            began = time.perf_counter()
            await asyncio.sleep(own_ms / 1000)
            took_ms = (time.perf_counter() - began) * 1000
            mux.publish(message.reply, b'{"own_ms":%.4f}' % took_ms)

        def receive(message: BusMessage) -> None:
            task = asyncio.get_running_loop().create_task(work(message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        await mux.subscribe(SUBJECT, receive, queue="tool")
        sys.stdout.write("{}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


async def call_at_rate(url: str, *, calls_s: float, seconds: float, timeout_s: float = 30.0) -> list[float]:
    """What each call took beyond the tool's own time, in ms."""
    added: list[float] = []
    async with AsyncExitStack() as stack:
        bus = NatsToolBus(await connect(stack, url))
        loop = asyncio.get_running_loop()

        async def one(i: int, due: float) -> None:
            call = ToolCall(
                subject=SUBJECT, payload=INPUT, headers={"Idempotency-Key": f"k{i}"}, timeout_s=timeout_s
            )
            output = await bus.call(call)
            added.append((loop.time() - due) * 1000 - json.loads(output)["own_ms"])

        async with asyncio.TaskGroup() as group:
            began = loop.time()
            for i in range(int(calls_s * seconds)):
                due = began + i / calls_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                group.create_task(one(i, due))
    return added


def measure_calls(under: Base, options: argparse.Namespace) -> None:
    command = python_module("benchmarks.tools", "--provide", under.nats.url, "--own-ms", str(options.own_ms))
    with Child(command, log=under.folder / "provider.log", name="provider") as provider:
        provider.read(timeout_s=READY_S)
        asyncio.run(call_at_rate(under.nats.url, calls_s=options.calls_s, seconds=WARM_S))
        added = asyncio.run(call_at_rate(under.nats.url, calls_s=options.calls_s, seconds=options.seconds))
    p50, p99 = percentile(added, 0.5), percentile(added, 0.99)
    verdict = "pass" if p50 <= 2.0 else "FAIL"
    print(
        f"a call adds, p50      {p50:8.2f} ms   bar <= 2.00  {verdict}   ({len(added)} at {options.calls_s:g}/s)"
    )
    print(f"a call adds, p99      {p99:8.2f} ms")


def registration(i: int) -> bytes:
    return json.dumps(
        {
            "name": f"tool{i}",
            "version": "1.2.0",
            "description": "Looks up what belongs to a number, and says so in a few words.",
            "input_schema": SCHEMA,
            "output_schema": SCHEMA,
            "ttl_s": 90,
        }
    ).encode()


async def renew(mux: Mux, tools: int, every_s: float, rounds: int) -> list[float]:
    """Register all tools again and again, evenly spread. Returns how long each took, in ms."""
    took: list[float] = []
    loop = asyncio.get_running_loop()
    payloads = [registration(i) for i in range(tools)]

    async def one(payload: bytes) -> None:
        began = loop.time()
        reply = await mux.request("llm.v1.tools.acme.register", payload)
        assert b'"expires"' in reply.payload, reply.payload
        took.append((loop.time() - began) * 1000)

    async with asyncio.TaskGroup() as group:
        began = loop.time()
        for n in range(tools * rounds):
            await asyncio.sleep(max(0.0, began + n * every_s / tools - loop.time()))
            group.create_task(one(payloads[n % tools]))
    return took


async def ask_in_vain(mux: Mux, rate: float, seconds: float) -> None:
    """The anchor: questions of the same size and pace, for a scope that is none: the answer costs nothing."""
    loop, payload = asyncio.get_running_loop(), registration(0)
    async with asyncio.TaskGroup() as group:
        began = loop.time()
        for n in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + n / rate - loop.time()))
            group.create_task(mux.request("llm.v1.tools.no$scope.register", payload))


async def listed(mux: Mux) -> int:
    """How many tools a replica lists with time left."""
    live = 0
    cursor: str | None = None
    while True:
        reply = await mux.request("llm.v1.tools.acme.list", json.dumps({"cursor": cursor}).encode())
        page = json.loads(reply.payload)
        live += sum(epoch(tool["expires"]) > time.time() for tool in page["tools"])
        cursor = page["cursor"]
        if cursor is None:
            return live


async def registrations(under: Base, sidecars: list[Child], options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        mux = await connect(stack, under.nats.url)
        await asyncio.sleep(SETTLE_S)
        idle = await _cpu_share(sidecars, asyncio.sleep(options.idle_s))
        bare = await _cpu_share(sidecars, ask_in_vain(mux, options.tools / options.renew_s, options.idle_s))
        await renew(mux, options.tools, 5.0, 2)
        await asyncio.sleep(SETTLE_S)
        took: list[float] = []

        async def work() -> None:
            took.extend(await renew(mux, options.tools, options.renew_s, 2))

        busy = await _cpu_share(sidecars, work())
        views = {await listed(mux) for _ in range(8 * len(sidecars))}
    for before, asked, after in zip(idle, bare, busy, strict=True):
        more = (after - before) * 100
        verdict = "pass" if more <= 1.0 else "FAIL"
        print(
            f"CPU of a replica      {more:8.2f} %    bar <= 1.00  {verdict}   "
            f"(idle {before * 100:.2f} %, with {options.tools} tools {after * 100:.2f} %, "
            f"with as many questions that do nothing {asked * 100:.2f} %)"
        )
    is_whole = views == {options.tools}
    print(f"tools in every view   {min(views):8d}      bar {options.tools}     {'pass' if is_whole else 'FAIL'}")
    print(f"a renewal takes, p50  {percentile(took, 0.5):8.2f} ms   p99 {percentile(took, 0.99):.2f} ms")


async def _cpu_share(processes: list[Child], work: Any) -> list[float]:
    """CPU seconds a second of each process while `work` goes on."""
    before, began = [process.cpu_s() for process in processes], time.monotonic()
    await work
    elapsed_s = time.monotonic() - began
    return [(p.cpu_s() - cpu) / elapsed_s for p, cpu in zip(processes, before, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench tools", description=__doc__.partition("\n")[0])
    parser.add_argument("--calls-s", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of calls")
    parser.add_argument("--own-ms", type=float, default=5.0, help="the tool's own time")
    parser.add_argument("--tools", type=int, default=1000)
    parser.add_argument("--renew-s", type=float, default=30.0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--provide", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.provide:
        asyncio.run(provide(options.provide, options.own_ms))
        return
    with ExitStack() as stack:
        under = stack.enter_context(base())
        measure_calls(under, options)
        sidecars = [stack.enter_context(sidecar(under)).process for _ in range(options.replicas)]
        asyncio.run(registrations(under, sidecars, options))


if __name__ == "__main__":
    main()
