"""Many jobs of several tenants at once. The sidecar queues them and shares the quota; nobody waits in Python."""

import asyncio
import os
from collections import Counter

from sidecar import SidecarClient
from sidecar.client import JobResult

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
TENANTS = ("acme", "globex", "initech")
JOBS = 20


async def summarize(client: SidecarClient, page: int) -> JobResult:
    # The id makes this repeatable: run twice in a row, it is the same job, and paid for once.
    job = await client.submit(
        f"Summarize page {page}.", job_class="batch", job_id=f"fan-out-page-{page}", params={"max_tokens": 64}
    )
    return await job.result(timeout_s=120)


async def run_tenant(tenant: str) -> None:
    async with await SidecarClient.connect(NATS_URL, tenant=tenant) as client:
        results = await asyncio.gather(*(summarize(client, page) for page in range(1, JOBS + 1)))
    states = Counter(result.state for result in results)
    cost = sum(result.cost_usd or 0 for result in results)
    print(f"{tenant}: {dict(states)}, ${cost:.6f}")


async def main() -> None:
    await asyncio.gather(*map(run_tenant, TENANTS))


if __name__ == "__main__":
    asyncio.run(main())
