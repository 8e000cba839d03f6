"""What the demo runs on: an embedded NATS server, the Bedrock emulator and a sidecar, in one process tree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from sidecar.adapters.nats.embedded import HOST, NatsServer
from sidecar.app import App
from sidecar.cli.dashboard_command import serving
from sidecar.config.settings import Settings, load
from sidecar.emulator import Emulator
from sidecar.telemetry import logs

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
    """Where everything listens; `dashboard` is empty where there is none."""

    nats: str
    bedrock: str
    admin: str
    dashboard: str = ""


@asynccontextmanager
async def stage(*, port: int, dashboard_port: int | None = None) -> AsyncIterator[Stage]:
    """Everything up and ready; taken down in reverse. `port` 0: any free one for NATS.

    With `dashboard_port`, a free one, the web page is served there, and NATS listens for its WebSocket alone.

    Raises StartupError where there is no nats-server or the port is taken.
    """
    logs.set_up(level="warning", form="text")
    async with AsyncExitStack() as stack:
        pages = None
        if dashboard_port is not None:
            pages = [f"http://{name}:{dashboard_port}" for name in (HOST, "localhost")]
        server = NatsServer(port=port, name="demo", websocket_origins=pages)
        stack.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        emulator = await stack.enter_async_context(Emulator(scenario=SCENARIO))
        app = App(_settings(server.url, emulator.url))
        stack.push_async_callback(app.stop)
        await app.start()
        admin = f"http://{HOST}:{app.admin.port}" if app.admin is not None else ""
        dashboard = ""
        if dashboard_port is not None:
            config = {"websocket": server.websocket_url, "prefix": "llm", "tenant": None}
            await stack.enter_async_context(serving(host=HOST, port=dashboard_port, config=config))
            dashboard = f"http://{HOST}:{dashboard_port}/"
        yield Stage(server.url, emulator.url, admin, dashboard)


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
