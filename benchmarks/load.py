"""The load generator: a process of its own, told by JSON lines on stdin, answering by JSON lines on stdout.

    python -m benchmarks.load nats://127.0.0.1:4222

It is cheap on purpose, for it shares the machine with what it measures: plain publishes that nats-py writes in
batches, all results by one wildcard subscription, nothing of a result decoded but whether it succeeded.

    {"do": "closed", "jobs": 2000, "in_flight": 64, "prompt": "…", "stream": false, "timeout_s": 60}
    {"do": "open", "jobs": 1500, "rate": 300, …}      latencies count from the moment a job was due
    {"do": "start", "jobs": 500, …}                    publish, wait for each job's first delta, leave them running
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.measures import arrivals

TENANTS = 8
MODEL = "claude-sonnet-4-5"
_OK = b'"state":"succeeded"'


class Load:
    """Publishes jobs and counts what comes back, one command at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = count()
        # A job id that was seen is never run again, and generators come and go before one sidecar.
        self._prefix = f"bench-{os.getpid()}-{time.time_ns() // 1_000_000}"
        self._sent: dict[str, float] = {}
        self._latencies: list[float] = []
        self._failed = 0
        self._sample = ""
        self._on_done: Callable[[], None] = lambda: None

    async def listen(self) -> None:
        await self._client.subscribe(
            "llm.v1.job.*.*.result", cb=self._hear_result, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._client.flush()

    async def _hear_result(self, message: Msg) -> None:
        sent = self._sent.pop(message.subject.split(".", 5)[4], None)
        if sent is None:
            return
        self._latencies.append(time.perf_counter() - sent)
        if _OK not in message.data:
            self._failed += 1
            self._sample = self._sample or message.data[:1000].decode("utf-8", "replace")
        self._on_done()

    async def _publish(self, payload: bytes, *, due: float | None = None) -> str:
        number = next(self._numbers)
        job = f"{self._prefix}-{number}"
        self._sent[job] = due if due is not None else time.perf_counter()
        await self._client.publish(
            f"llm.v1.request.tenant{number % TENANTS}.standard", payload, headers={"Llm-Job-Id": job}
        )
        return job

    async def closed(self, order: dict[str, Any]) -> dict[str, Any]:
        """A new job for each that ends, `in_flight` at once."""
        payload, jobs, in_flight = request(order), int(order["jobs"]), int(order["in_flight"])
        room = asyncio.Semaphore(in_flight)
        self._begin(room.release)
        started = time.perf_counter()
        async with asyncio.timeout(order["timeout_s"]):
            for _ in range(jobs):
                await room.acquire()
                await self._publish(payload)
            for _ in range(in_flight):
                await room.acquire()
        return self._outcome(time.perf_counter() - started)

    async def open(self, order: dict[str, Any]) -> dict[str, Any]:
        """A job at each due moment, whatever has come back."""
        payload, jobs = request(order), int(order["jobs"])
        done = asyncio.Event()
        left = count(1)
        self._begin(lambda: done.set() if next(left) == jobs else None)
        started = time.perf_counter() + 0.05
        async with asyncio.timeout(order["timeout_s"]):
            for offset in arrivals(float(order["rate"]), jobs):
                due = started + offset
                if (wait_s := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                await self._publish(payload, due=due)
            await done.wait()
        return self._outcome(time.perf_counter() - started)

    async def start(self, order: dict[str, Any]) -> dict[str, Any]:
        """Publish all, return when each has streamed something. They run on."""
        payload, jobs = request(order), int(order["jobs"])
        live: set[str] = set()
        all_live = asyncio.Event()

        async def hear(message: Msg) -> None:
            live.add(message.subject.split(".", 5)[4])
            if len(live) >= jobs:
                all_live.set()

        self._begin(lambda: None)
        subscription = await self._client.subscribe("llm.v1.job.*.*.delta", cb=hear, pending_msgs_limit=-1)
        started = time.perf_counter()
        async with asyncio.timeout(order["timeout_s"]):
            for _ in range(jobs):
                await self._publish(payload)
            await all_live.wait()
        await subscription.unsubscribe()
        return {"live": len(live), "ended": len(self._latencies), "elapsed_s": time.perf_counter() - started}

    def _begin(self, on_done: Callable[[], None]) -> None:
        self._sent, self._latencies, self._failed, self._sample = {}, [], 0, ""
        self._on_done = on_done

    def _outcome(self, elapsed_s: float) -> dict[str, Any]:
        if self._failed:
            return {"error": f"{self._failed} jobs did not succeed, such as {self._sample}"}
        return {"jobs": len(self._latencies), "elapsed_s": elapsed_s, "latencies_s": self._latencies}

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do one command. Trouble comes back as `{"error": …}`."""
        work = {"closed": self.closed, "open": self.open, "start": self.start}[order["do"]]
        try:
            return await work(order)
        except TimeoutError:
            done, asked = len(self._latencies), order["jobs"]
            return {"error": f"{done} of {asked} jobs ended within {order['timeout_s']:g} s"}


def request(order: dict[str, Any]) -> bytes:
    """The payload of the jobs that `order` asks for."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": order["prompt"]}],
        "model": MODEL,
        "params": {"max_tokens": 512},
    }
    if order.get("stream"):
        body["stream"] = True
    return json.dumps(body).encode()


async def main(url: str) -> None:
    client = await nats.connect(url, pending_size=64 * 1024 * 1024, allow_reconnect=False)
    load = Load(client)
    await load.listen()
    say({"ready": True})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        say(await load.obey(json.loads(line)))
    await client.close()


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
