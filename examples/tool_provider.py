"""Tools for models, from a Python process: two functions, their annotations and their docstrings.

Start a sidecar by `./dev demo --serve`, then run `./dev run python examples/tool_provider.py` in another terminal.
A request names the tools: `{"messages": …, "tools": ["word_count", "wait@^1"]}`. Start it twice: both share the
calls, and one may be stopped while the other goes on.
"""

import asyncio
import os
from typing import Annotated

import msgspec

from sidecar import SidecarClient, ToolContext, ToolError, tool

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")


class Count(msgspec.Struct):
    words: int
    longest: str


@tool(version="1.0.0", idempotent=True)
def word_count(text: str, at_least: Annotated[int, msgspec.Meta(ge=1)] = 1) -> Count:
    """Count the words of a text, and find the longest.

    Args:
        text: What to count in.
        at_least: Shorter words are not counted; in characters.
    """
    words = [word for word in text.split() if len(word) >= at_least]
    if not words:
        # The model reads this, and may do better.
        raise ToolError(f"no word of the text has {at_least} characters or more", code=422)
    return Count(words=len(words), longest=max(words, key=len))


@tool(version="1.0.0", timeout_s=5, concurrency=4)
async def wait(seconds: Annotated[float, msgspec.Meta(ge=0, le=60)], context: ToolContext) -> str:
    """Wait for some time. Longer than `timeout_s` is fine: the provider says that it is alive.

    Args:
        seconds: How long.
    """
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print(f"job {context.job_id} waits no more", flush=True)
        raise
    return f"waited {seconds} s for {context.tenant}"


async def main() -> None:
    async with (
        await SidecarClient.connect(NATS_URL, tenant="acme") as client,
        client.provide([word_count, wait]) as provider,
    ):
        print("registered" if provider.is_registered else "no sidecar yet, trying on", flush=True)
        await provider.run_until_signal()


if __name__ == "__main__":
    asyncio.run(main())
