"""Jobs whose calls all fail are one tenant's trouble: the model stays open for others, and each ends soon."""

import asyncio

from tests.acceptance.conftest import World
from tests.support.process import MODEL
from tests.support.stranger import Stranger, asks, stranger

POISONED, HEALTHY = 5, 30
MOST_SLOWER_MS = 500


async def percentile_95_ms(client: Stranger, name: str) -> int:
    """Of what one job after the other took."""
    took = []
    for n in range(HEALTHY):
        result = await client.run(asks("[[tokens=4 latency_ms=40]] hi", model=[MODEL]), job=f"{name}{n}")
        assert result["state"] == "succeeded", result["error"]
        took.append(result["timings"]["total_ms"])
    return sorted(took)[int(0.95 * HEALTHY)]


async def test_five_poisoned_jobs_of_one_tenant_slow_nobody_else(world: World) -> None:
    async with stranger(world.nats_url, "poisoner") as bad, stranger(world.nats_url, "healthy") as good:
        alone = await percentile_95_ms(good, "alone")
        request = asks("[[fault=model_error]] go", model=[MODEL], timeout_s=120)
        poisoned = [asyncio.create_task(bad.run(request, job=f"bad{n}")) for n in range(POISONED)]
        beside = await percentile_95_ms(good, "beside")
        results = await asyncio.gather(*poisoned)
    assert beside - alone < MOST_SLOWER_MS
    for result in results:
        assert (result["state"], result["error"]["code"]) == ("failed", "model_error")
        assert result["error"]["details"]["limit"] == "same_failure"
        assert [call["may_be_billed"] for call in result["attempts"]] == [True] * 3
