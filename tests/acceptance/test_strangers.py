"""Documents of running jobs that are deleted, purged, aged or written over on a real server: nothing is stuck."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.fleet_processes import Fleet
from tests.support.nats_server import Access
from tests.support.stranger import Feed, Stranger, asks, stranger
from tests.support.strangers import DOCUMENTS, Target, attacker

SLOTS = 4
BOUND_S = 3.0
# Long enough that all documents are there, and none has ended, when they are attacked.
LONG = "[[tokens=30 tps=20]] go on"
QUICK = "[[tokens=3]] quick"

pytestmark = pytest.mark.nats


@asynccontextmanager
async def replicas(nats_url: str, bedrock: EmulatorProcess, count: int) -> AsyncIterator[Fleet]:
    """`SLOTS` slots in all."""
    scheduler = {"slots": SLOTS // count, "interactive_reserve": 0}
    with Fleet(nats_url, bedrock.url, scheduler=scheduler) as fleet:
        await fleet.start(count)
        yield fleet


async def answered_s(client: Stranger) -> float:
    began = time.monotonic()
    reply = await client.answer("ask", client.tenant, "standard", payload=asks(QUICK))
    assert reply["state"] == "succeeded"
    return time.monotonic() - began


async def until_running(feeds: list[Feed]) -> None:
    for feed in feeds:
        await feed.until(lambda events: any(e["data"].get("state") == "running" for e in events))


@pytest.mark.parametrize("count", [1, 2])
async def test_every_job_ends_once_and_all_slots_are_usable_afterwards(
    count: int, nats_access: Access, bedrock: EmulatorProcess
) -> None:
    url = nats_access.url
    async with (
        replicas(url, bedrock, count) as fleet,
        attacker(url) as by,
        stranger(url, "acme") as acme,
        stranger(url, "globex") as globex,
    ):
        quiet_s = await answered_s(globex)
        names = list(DOCUMENTS)
        # Each round attacks all slots at once, each job in another way; then whole, then streamed.
        for part in range(0, 2 * len(names), SLOTS):
            attacks = [names[(part + i) % len(names)] for i in range(SLOTS)]
            jobs = [f"j{part + i}" for i in range(SLOTS)]
            request = asks(LONG, stream=part >= len(names))
            feeds = [await acme.submit(request, job=job) for job in jobs]
            await until_running(feeds)
            for name, job in zip(attacks, jobs, strict=True):
                await DOCUMENTS[name](by, Target("acme", job))
            results = await asyncio.gather(*(feed.result() for feed in feeds))
            assert [result["data"]["state"] for result in results] == ["succeeded"] * SLOTS, attacks
            taken_s = await answered_s(globex)
            print({"another tenant's job (s)": round(taken_s, 3), "after": attacks})
            assert taken_s < quiet_s + BOUND_S, attacks
        await check_slots(globex, fleet)
        for process in fleet.running:
            assert process.is_running
            assert "Traceback" not in process.log
        assert any(restored(process) for process in fleet.running)
        heard = [feed.events for feed in feeds]
        assert all([e["type"] for e in events].count("result") == 1 for events in heard)


async def check_slots(client: Stranger, fleet: Fleet) -> None:
    """As many jobs as there are slots run at once."""
    feeds = [await client.submit(asks(LONG), job=f"after-{i}") for i in range(SLOTS)]
    await until_running(feeds)
    running = [await asyncio.to_thread(process.get, "/info") for process in fleet.running]
    assert sum(info["running"] for _, info in running) == SLOTS
    assert {(await feed.result())["data"]["state"] for feed in feeds} == {"succeeded"}


def restored(process: Any) -> bool:
    status, body = process.get("/readyz")
    return bool(status == 200 and "documents" in body.get("reasons", {}))
