"""Fair share on a real bus: processes, a real NATS server, the emulator's quota. Counted, never timed."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.emulator import EmulatorProcess, spawn_emulator
from tests.support.nats_server import Access
from tests.support.process import MODEL, spawn_sidecar
from tests.support.queueing import Queue, queue, tokens_by

pytestmark = pytest.mark.nats

PROMPT = "[[tokens=40 latency_ms=20]] " + "word " * 60
# Tokens are scarcer than slots, also where a slow machine takes its time over the first calls of a process: the
# time in slots would count as service, and these tests count tokens.
QUOTA = 300_000
SLOTS = 16


@pytest.fixture
async def jobs(nats_access: Access) -> AsyncIterator[Queue]:
    async with queue(nats_access) as made:
        yield made


@pytest.fixture(scope="module")
def limited() -> Any:
    """An emulator that refuses what is over its quota."""
    with spawn_emulator() as emulator:
        emulator.control("PUT", "quota", [{"model": "*claude*", "tokens_per_minute": QUOTA}])
        yield emulator


def settings(**more: Any) -> dict[str, Any]:
    models = {MODEL: {"tokens_per_minute": QUOTA, "fallback": []}}
    return {"scheduler": {"slots": SLOTS}, "models": models, **more}


def throttles(emulator: EmulatorProcess) -> int:
    return sum(pool["throttles"] for pool in emulator.control("GET", "quota").values())


async def test_two_backlogged_tenants_share_by_weight(
    jobs: Queue, limited: EmulatorProcess, nats_access: Access
) -> None:
    await jobs.publish("acme", 400, prompt=PROMPT)
    await jobs.publish("beta", 400, prompt=PROMPT)
    tenants = {"acme": {"weight": 3}, "beta": {"weight": 1}}
    with spawn_sidecar(nats_access.url, limited.url, **settings(tenants=tenants)):
        ran = await jobs.first(240)
    assert {job.state for job in ran} == {"succeeded"}
    tokens = tokens_by(ran, lambda job: job.tenant)
    assert 2.6 < tokens["acme"] / tokens["beta"] < 3.4
    assert throttles(limited) == 0


async def test_a_tenant_with_long_answers_gets_no_more_than_one_with_short_ones(
    jobs: Queue, limited: EmulatorProcess, nats_access: Access
) -> None:
    """Shares are of cost, not of requests: three times the tokens a job, a third of the jobs."""
    await jobs.publish("long", 200, prompt="[[tokens=360 latency_ms=20]] hi", max_tokens=400)
    await jobs.publish("short", 400, prompt="[[tokens=100 latency_ms=20]] hi", max_tokens=400)
    with spawn_sidecar(nats_access.url, limited.url, **settings()):
        ran = await jobs.first(200)
    tokens = tokens_by(ran, lambda job: job.tenant)
    assert 0.75 < tokens["long"] / tokens["short"] < 1.33
    assert Counter(job.tenant for job in ran)["short"] > 2 * Counter(job.tenant for job in ran)["long"]


async def test_a_newcomer_behind_a_flood_is_among_the_next_to_start(
    jobs: Queue, limited: EmulatorProcess, nats_access: Access
) -> None:
    await jobs.publish("flood", 5_000, prompt="[[tokens=10 latency_ms=1500]] hi")
    # One slot, so that starts follow one another and can be counted; calls are long beside a publish's way.
    with spawn_sidecar(nats_access.url, limited.url, **settings(scheduler={"slots": 1})):
        await jobs.until(lambda: len(jobs.begun) >= 2)
        before = len(jobs.begun)
        await jobs.publish("newcomer", 1, prompt="[[tokens=10]] hi")
        await jobs.until(lambda: "newcomer" in jobs.begun)
    assert jobs.begun.index("newcomer") - before <= 2


async def test_classes_side_by_side_get_their_weights_share(
    jobs: Queue, limited: EmulatorProcess, nats_access: Access
) -> None:
    for job_class, count in (("batch", 50), ("standard", 250), ("interactive", 800)):
        await jobs.publish("acme", count, prompt=PROMPT, job_class=job_class)
    with spawn_sidecar(nats_access.url, limited.url, **settings()):
        ran = await jobs.first(684)
    # The first calls of a process take longer, and what they cost is made up for in the next hundred.
    tokens = tokens_by(ran[200:], lambda job: job.job_class)
    total = sum(tokens.values())
    for job_class, weight in (("interactive", 100), ("standard", 20)):
        assert tokens[job_class] >= 0.9 * total * weight / 121, job_class
    assert "batch" in {job.job_class for job in ran}


async def test_two_replicas_share_out_the_same_as_one(
    jobs: Queue, limited: EmulatorProcess, nats_access: Access
) -> None:
    await jobs.publish("acme", 500, prompt=PROMPT)
    await jobs.publish("beta", 500, prompt=PROMPT)
    tenants = {"acme": {"weight": 3}, "beta": {"weight": 1}}
    before = throttles(limited)
    half = settings(tenants=tenants, scheduler={"slots": SLOTS // 2})
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(spawn_sidecar(nats_access.url, limited.url, **half))
        ran = await jobs.first(400)
    tokens = tokens_by(ran, lambda job: job.tenant)
    assert 2.5 < tokens["acme"] / tokens["beta"] < 3.5
    assert throttles(limited) == before
