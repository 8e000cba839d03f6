"""Cancel a job while it streams. Works in any state, and for a job that nobody has read yet."""

import asyncio
import os
from contextlib import aclosing

from sidecar import JobCancelled, SidecarClient
from sidecar.models.event import Delta

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


async def main() -> None:
    async with await SidecarClient.connect(NATS_URL, tenant="acme") as client:
        job = await client.submit("Tell me the history of everything.", stream=True)
        async with aclosing(job.events()) as events:
            async for event in events:
                if isinstance(event.data, Delta):
                    print(f"the answer begins: {event.data.text!r}")
                    await job.cancel(reason="seen enough")
                    break
        result = await job.result(timeout_s=60)
        print(f"the job is {result.state}; about {result.usage.output_tokens} tokens were paid for")
        try:
            result.raise_for_state()
        except JobCancelled as e:
            print(f"raised where success is needed: {e}")


if __name__ == "__main__":
    asyncio.run(main())
