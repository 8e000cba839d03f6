"""An answer as it is written, and what a careful reader does when it begins anew.

A job survives crashes of whoever runs it. Its output may then start again: `text` raises by default, so that
nobody shows half of one answer and half of another; here the restart is marked and shown.
"""

import asyncio
import os

from sidecar import SidecarClient

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


async def main() -> None:
    async with await SidecarClient.connect(NATS_URL, tenant="acme") as client:
        job = await client.submit(
            "What is JetStream?",
            system="Answer in one sentence.",
            params={"max_tokens": 200},
            stream=True,
        )
        async for piece in job.text(on_restart="mark"):
            if piece.restarts:
                print("\n--- the answer begins anew ---")
            print(piece, end="", flush=True)
        result = await job.result()
        print(f"\n\n{result.model}: first token after {result.timings.first_token_ms} ms")

        # Anybody with the job's id can read it again later, from the start or from any place.
        kinds = [event.type async for event in client.job(job.id).events()]
        print(f"{len(kinds)} events are stored, the last one is the {kinds[-1]}")


if __name__ == "__main__":
    asyncio.run(main())
