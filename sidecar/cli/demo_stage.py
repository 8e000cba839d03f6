"""What the demo runs on: an embedded NATS server, the Bedrock emulator and a sidecar, in one process tree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from sidecar import logs
from sidecar.adapters.nats.embedded import HOST, NatsServer
from sidecar.app import App
from sidecar.emulator import Emulator
from sidecar.settings import Settings, load

REGIONS = ("us-east-1", "us-west-2")
_JETSTREAM = (
    "JetStream is the persistence layer of NATS. It stores messages in streams, lets readers take them up at "
    "their own pace, and acknowledges a publish only when the message is safe."
)
SCENARIO = {
    "seed": 1,
    "default": "latency_ms=40 ttft_ms=60 tps=80 jitter=0.3",
    "rule": [
        {"prompt": "What is JetStream", "behave": f'text="{_JETSTREAM}" tps=40 chunk_tokens=2'},
        {
            "prompt": "weather in Oslo",
            "behave": '[[tool=weather input={"city":"Oslo"}]] '
            '[[turn=2 text="In Oslo it is 3 °C with light snow: take a coat."]]',
        },
        {"prompt": "(?i)summarize", "behave": "tokens=30"},
        {"prompt": "(?i)history of everything", "behave": "tokens=4000 tps=40"},
        {"prompt": "(?i)translate", "model": "*claude*", "behave": "fault=throttling"},
        {"prompt": "(?i)translate", "behave": 'text="Guten Morgen!"'},
    ],
}


class Stage(NamedTuple):
    """Where everything listens."""

    nats: str
    bedrock: str
    admin: str


@asynccontextmanager
async def stage(*, port: int) -> AsyncIterator[Stage]:
    """Everything up and ready; taken down in reverse. `port` 0: any free one for NATS.

    Raises StartupError where there is no nats-server or the port is taken.
    """
    logs.set_up(level="warning", form="text")
    async with AsyncExitStack() as stack:
        server = NatsServer(port=port, name="demo")
        stack.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        emulator = await stack.enter_async_context(Emulator(scenario=SCENARIO))
        app = App(_settings(server.url, emulator.url))
        stack.push_async_callback(app.stop)
        await app.start()
        admin = f"http://{HOST}:{app.admin.port}" if app.admin is not None else ""
        yield Stage(server.url, emulator.url, admin)


def _settings(nats_url: str, bedrock_url: str) -> Settings:
    return load(
        None,
        {
            "name": "demo",
            "nats": {"url": nats_url},
            "bedrock": {"endpoint_url": bedrock_url, "regions": REGIONS},
            "jobs": {"drain_s": 2},
            "admin": {"host": HOST, "port": 0},
            "tenants": {"acme": {"weight": 3}, "globex": {"weight": 1}, "initech": {"weight": 1}},
        },
    )
