"""One question, one answer.

Start a sidecar by `./dev demo --serve`, then run `./dev run python examples/minimal.py` in another terminal.
NATS_URL says where NATS is, if not on this machine.
"""

import asyncio
import os

from sidecar import SidecarClient

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


async def main() -> None:
    async with await SidecarClient.connect(NATS_URL, tenant="acme") as client:
        result = await client.ask("What is JetStream?", wait_s=60)
        result.raise_for_state()
        print(result.text)
        print(f"{result.model}: {result.usage.output_tokens} tokens, ${result.cost_usd}")


if __name__ == "__main__":
    asyncio.run(main())
