"""CPU and rate of one round trip to JetStream: our mux against nats-py, on an embedded server.

    python -m benchmarks.reply_mux [--loop asyncio]

Prints, for each number of requests under way, round trips a second and microseconds of this process's CPU each.
The stream is in memory, so that the disk does not decide. `docs/decisions/0001-reply-mux.md` has figures.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import nats
import uvloop

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.embedded import NatsServer
from sidecar.config.settings import NatsSettings

PAYLOAD = b"x" * 300
FENCE = {"Nats-Expected-Last-Subject-Sequence": "1", "Nats-Expected-Last-Subject-Sequence-Subject": "t.fence"}
STREAM = {"name": "T", "subjects": ["t.>"], "storage": "memory", "allow_direct": True, "num_replicas": 1}
GET = "$JS.API.DIRECT.GET.T"

RoundTrip = Callable[[], Awaitable[object]]


async def measure(name: str, round_trip: RoundTrip, *, concurrency: int, count: int) -> None:
    async def work() -> None:
        for _ in range(count // concurrency):
            await round_trip()

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f"{name:28s} {concurrency:4d} under way {count / elapsed:9,.0f}/s {cpu / count * 1e6:7.1f} us CPU")


async def run(url: str) -> None:
    connection = Connection(NatsSettings(url=url))
    await connection.start()
    mux = Mux(connection, timeout_s=60)
    await mux.start()
    client = await nats.connect(url)
    js = client.jetstream(timeout=60)
    await mux.api("STREAM.CREATE.T", STREAM)
    await mux.store("t.fence", b"")
    round_trips: dict[str, RoundTrip] = {
        "store, mux": lambda: mux.store("t.a", PAYLOAD),
        "store, js.publish": lambda: js.publish("t.a", PAYLOAD),
        "store with fence, mux": lambda: mux.store("t.a", PAYLOAD, headers=FENCE),
        "store with fence, js.publish": lambda: js.publish("t.a", PAYLOAD, headers=FENCE),
        "direct get, mux": lambda: mux.request(GET, b'{"seq":1}'),
        "direct get, nc.request": lambda: client.request(GET, b'{"seq":1}', timeout=60),
    }
    for concurrency, count in ((1, 3000), (10, 10_000), (100, 20_000)):
        for name, round_trip in round_trips.items():
            await measure(name, round_trip, concurrency=concurrency, count=count)
    await client.close()
    await mux.close()
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    server = NatsServer()
    server.start()
    try:
        (uvloop.run if parser.parse_args().loop == "uvloop" else asyncio.run)(run(server.url))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
