"""The load generator for peers that speak OpenAI's HTTP interface: the same orders as `benchmarks.load`.

python -m benchmarks.http_load http://127.0.0.1:4000/v1/chat/completions KEY
"""

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop

from benchmarks.load import MODEL, say
from benchmarks.measures import arrivals


class HttpLoad:
    """Posts chat completions and reads each answer to its end."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do one command. Trouble comes back as `{"error": …}`."""
        # Connections of an earlier order may be closed by now, in the moment that they are used again.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as self._session:
            return await self._do(order)

    async def _do(self, order: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(order["timeout_s"]):
                latencies = await (self._closed(order) if order["do"] == "closed" else self._open(order, started))
        except TimeoutError:
            return {"error": f"{order['jobs']} calls were not done within {order['timeout_s']:g} s"}
        except (aiohttp.ClientError, ValueError) as e:
            return {"error": f"a call failed: {e}"}
        return {"jobs": len(latencies), "elapsed_s": time.perf_counter() - started, "latencies_s": latencies}

    async def _closed(self, order: dict[str, Any]) -> list[float]:
        numbers = iter(range(int(order["jobs"])))
        body = completion(order)

        async def work() -> list[float]:
            return [await self._one(body, time.perf_counter()) for _ in numbers]

        done = await asyncio.gather(*(work() for _ in range(int(order["in_flight"]))))
        return [latency for worker in done for latency in worker]

    async def _open(self, order: dict[str, Any], started: float) -> list[float]:
        body = completion(order)

        async def at(due: float) -> float:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            return await self._one(body, due)

        offsets = arrivals(float(order["rate"]), int(order["jobs"]))
        return list(await asyncio.gather(*(at(started + offset) for offset in offsets)))

    async def _one(self, body: bytes, since: float) -> float:
        async with self._session.post(self._url, data=body) as response:
            said = await response.read()
            if response.status != 200:
                raise ValueError(f"status {response.status}: {said[:300]!r}")
            return time.perf_counter() - since


def completion(order: dict[str, Any]) -> bytes:
    """The body of the calls that `order` asks for."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": order["prompt"]}],
        "model": MODEL,
        "max_tokens": 512,
    }
    if order.get("stream"):
        body["stream"] = True
    return json.dumps(body).encode()


async def main(url: str, key: str) -> None:
    load = HttpLoad(url, key)
    say({"ready": True})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        say(await load.obey(json.loads(line)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
