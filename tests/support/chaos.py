"""Several sidecars as processes, a load on them, and what goes wrong in between."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from tests.support.audit import last
from tests.support.emulator import EmulatorProcess
from tests.support.process import SidecarProcess, wait_until

LIMIT_S = 180.0
LEASE = "$KV.LLM_CTL.lease.scheduler"


class Fleet:
    """Sidecars `r0`, `r1`, … on one NATS and one emulator. A killed one is followed by another of its name."""

    def __init__(
        self,
        nats_url: str,
        bedrock_url: str,
        *,
        size: int,
        module: str = "sidecar",
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self._nats_url = nats_url
        self._bedrock_url = bedrock_url
        self._module = module
        self._environment = dict(environment or {})
        self._settings = settings
        self._size = size
        self.processes: list[SidecarProcess] = []
        self.kills = 0
        self.last_words: list[str] = []

    def _spawn(self, place: int) -> SidecarProcess:
        return SidecarProcess(
            self._nats_url,
            self._bedrock_url,
            module=self._module,
            environment={**self._environment, "SIDECAR_NAME": f"r{place}"},
            **self._settings,
        )

    async def start(self) -> None:
        """Return when all are ready to work."""
        self.processes = [self._spawn(place) for place in range(self._size)]
        await self.wait_ready()

    async def wait_ready(self) -> None:
        for process in list(self.processes):
            await asyncio.to_thread(process.wait_ready)

    async def wait_acquainted(self) -> None:
        """Until each has heard of all."""

        def look() -> bool:
            return all(process.get("/info")[1]["replicas"] == len(self.processes) for process in self.processes)

        await asyncio.to_thread(wait_until, look, what="all to hear of each other")

    async def wait_some_ready(self) -> list[int]:
        """The places of those that are ready, as soon as there is one."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [i for i, process in enumerate(self.processes) if process.get("/readyz")[0] == 200]
            return bool(found)

        await asyncio.to_thread(wait_until, look, what="ready")
        return found

    def kill(self, place: int) -> None:
        """SIGKILL."""
        self.kills += 1
        self.processes[place].kill()

    def respawn(self, place: int) -> SidecarProcess:
        """Put a new process in the place of one that ended; does not wait until it is ready."""
        old = self.processes[place]
        self.last_words.append(old.log[-1500:])
        old.__exit__()
        self.processes[place] = self._spawn(place)
        return self.processes[place]

    async def terminate(self, place: int) -> int:
        """SIGTERM. Returns the exit code."""
        process = self.processes[place]
        process.signal(signal.SIGTERM)
        return await asyncio.to_thread(process.wait)

    def place_of(self, name: str) -> int:
        """Of the replica whose name begins a member name of the cluster."""
        return int(name.partition("-")[0].removeprefix("r"))

    def logs(self) -> str:
        """The ends of all logs, for a failure's message."""
        ends = [f"r{place}: {process.log[-4000:]}" for place, process in enumerate(self.processes)]
        return "\n".join(ends)

    def close(self) -> None:
        for process in self.processes:
            process.__exit__()


@asynccontextmanager
async def fleet(nats_url: str, emulator: EmulatorProcess, *, size: int = 3, **more: Any) -> AsyncIterator[Fleet]:
    """Ready replicas; killed at the end."""
    made = Fleet(nats_url, emulator.url, size=size, **more)
    try:
        await made.start()
        yield made
    finally:
        await asyncio.to_thread(made.close)


async def scheduler_of(connection: Client) -> str | None:
    """The member name of the replica that holds the lease."""
    with suppress(NatsError, TimeoutError):
        found = await last(connection, "KV_LLM_CTL", LEASE)
        if found is not None and found.payload:
            return found.payload.decode()
    return None


async def wait_scheduler(connection: Client, *, other_than: Iterable[str] = ()) -> str:
    """Wait until somebody holds the lease. Raises TimeoutError."""
    excluded = set(other_than)
    async with asyncio.timeout(LIMIT_S):
        while True:
            holder = await scheduler_of(connection)
            if holder is not None and holder not in excluded:
                return holder
            await asyncio.sleep(0.05)


async def stream_leader(connection: Client, stream: str) -> str:
    """The name of the server that leads a replicated stream now."""
    info = json.loads((await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=30)).data)
    return str(info["cluster"]["leader"])


async def havoc(replicas: Fleet, connection: Client, *, kills: int, every_s: float, chance: random.Random) -> int:
    """A random one of the ready replicas ends by SIGKILL, and is followed at once, `kills` times.

    One that is still starting is left alone: on a slow machine none would ever be up. Returns how many of the
    killed held the lease.
    """
    schedulers = 0
    next_at = time.monotonic()
    for _ in range(kills):
        next_at = max(time.monotonic(), next_at + every_s)
        await asyncio.sleep(next_at - time.monotonic())
        place = chance.choice(await replicas.wait_some_ready())
        holder = await scheduler_of(connection)
        schedulers += holder is not None and replicas.place_of(holder) == place
        await asyncio.to_thread(replicas.kill, place)
        replicas.respawn(place)
    return schedulers


async def keep_up(replicas: Fleet) -> None:
    """Start again whatever has ended by itself. Runs until it is cancelled."""
    while True:
        await asyncio.sleep(0.05)
        for place, process in enumerate(replicas.processes):
            if not process.is_running:
                replicas.respawn(place)


def fault_environment(folder: Path) -> dict[str, str]:
    """What `tests.support.fault_points` reads."""
    return {"FAULT_LATCHES": str(folder)}
