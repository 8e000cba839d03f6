"""Tools that the client runs itself: the job ends with `tool_use`, and a new one goes on with the results."""

import asyncio
import os

from sidecar import SidecarClient, tool
from sidecar.client import continue_with, run_calls
from sidecar.client.requests import Request

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
# The emulator calls a tool where the prompt says so; a model decides by itself.
PROMPT = os.environ.get("PROMPT", '[[tool=weather input={"city":"Rome"}]] How warm is it in Rome?')
MAX_TURNS = 5


@tool
async def weather(city: str) -> dict[str, float]:
    """The weather of a city now.

    Args:
        city: The city's English name.
    """
    return {"celsius": 10.0 + len(city)}


async def main() -> None:
    async with await SidecarClient.connect(NATS_URL, tenant="acme") as client:
        messages = [{"role": "user", "content": PROMPT}]
        request: Request = {"messages": messages, "tools": [weather.inline()]}
        result = await client.ask(request, wait_s=60)
        for _ in range(MAX_TURNS):
            if result.stop_reason != "tool_use":
                break
            outputs = await run_calls(result.tool_calls, [weather])
            for output in outputs:
                print(f"{output.tool_use_id}: {output.content}")
            request = continue_with(request, result, outputs)
            result = await client.ask(request, wait_s=60)
        print(result.raise_for_state().text)


if __name__ == "__main__":
    asyncio.run(main())
