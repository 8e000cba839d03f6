"""The pictures of the dashboard in docs/img: NATS, the emulator, a sidecar under load, headless Chromium."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sidecar.adapters.nats.embedded import HOST, NatsServer
from sidecar.app import App
from sidecar.cli.dashboard_command import serving
from sidecar.client import SidecarClient
from sidecar.config.settings import load
from sidecar.emulator import Emulator
from sidecar.telemetry import logs
from tests.support.browser import Page, browser

LOAD_S = 75.0
END_S = 10.0
LARGEST_BYTES = 300_000
WEIGHTS = {"acme": 4, "globex": 2, "initech": 2, "hooli": 1, "umbrella": 1, "stark": 1, "wonka": 1, "tyrell": 1}
# How often a tenant asks, each second: some want far more than their share.
DEMAND = {"acme": 6, "globex": 4, "initech": 3, "hooli": 6, "umbrella": 2, "stark": 2, "wonka": 0.4, "tyrell": 0.5}
CLASSES = ("standard", "standard", "standard", "standard", "batch")
MODELS = ("nova-lite", "nova-lite", "nova-pro", "claude-haiku-4-5", "claude-sonnet-4-5")
FOLLOWED = "quarterly-report"
ANSWER = (
    "JetStream is the persistence layer of NATS. A publish is acknowledged only once the message is stored, so a "
    "job that was accepted is never lost: it waits in the stream until a sidecar takes it up, whatever crashes in "
    "between. Consumers read at their own pace, and what they have not acknowledged is delivered again. "
)
SCENARIO = {
    "seed": 1,
    "default": "latency_ms=60 ttft_ms=250 tps=60 jitter=0.4 tokens=90",
    "rule": [
        {"prompt": "Translate", "model": "*claude-haiku*", "behave": "fault=throttling"},
        {"prompt": "report", "behave": f'text="{ANSWER * 3}" tps=120 chunk_tokens=3'},
    ],
}
SETTINGS = {
    "name": "sidecar-7f9c",
    "scheduler": {"slots": 20},
    "jobs": {"drain_s": 1},
    "admin": {"enabled": False},
    "tenants": {name: {"weight": weight} for name, weight in WEIGHTS.items()},
}


async def take(folder: Path) -> list[Path]:
    """Write the pictures; returns their paths. Raises RuntimeError where one is too large."""
    async with _stage() as (nats_url, page_url), browser() as chromium:
        page = await chromium.page(page_url)
        await page.size(1360, 860)
        await page.shows("Connected to")
        crowd = [asyncio.ensure_future(_keep_asking(nats_url, tenant)) for tenant in WEIGHTS]
        try:
            await asyncio.sleep(LOAD_S)
            overview = await _picture(page, folder / "dashboard.png")
            async with await SidecarClient.connect(nats_url, tenant="acme") as client:
                models = ["claude-haiku-4-5", "nova-lite"]
                job = await client.submit(
                    "Translate the report.", model=models, stream=True, job_class="interactive", job_id=FOLLOWED
                )
                await page.scheme("dark")
                await page.size(1360, 640)
                await page.evaluate(f"location.hash = '#/job/acme/{job.id}'")
                await page.shows("Stopped by")
                followed = await _picture(page, folder / "dashboard-job.png")
            return [overview, followed]
        finally:
            for each in crowd:
                each.cancel()
            await asyncio.wait(crowd, timeout=END_S)


@asynccontextmanager
async def _stage() -> AsyncIterator[tuple[str, str]]:
    logs.set_up(level="error", form="text")
    async with AsyncExitStack() as stack:
        server = NatsServer(name="pictures", websocket_origins=[])
        stack.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        emulator = await stack.enter_async_context(Emulator(scenario=SCENARIO))
        endpoints = {"nats": {"url": server.url}, "bedrock": {"endpoint_url": emulator.url}}
        app = App(load(None, {**SETTINGS, **endpoints}))
        stack.push_async_callback(app.stop)
        await app.start()
        config = {"websocket": server.websocket_url, "prefix": "llm", "tenant": None}
        pages = await stack.enter_async_context(serving(host=HOST, port=0, config=config))
        yield server.url, f"http://{HOST}:{pages.port}/"


async def _keep_asking(nats_url: str, tenant: str) -> None:
    chance = random.Random(tenant)  # noqa: S311
    async with await SidecarClient.connect(nats_url, tenant=tenant) as client:
        for i in range(10_000):
            text = chance.choice(("Summarize page", "Explain chapter", "Translate line", "Review change"))
            await client.submit(
                f"{text} {i}.",
                model=[chance.choice(MODELS), "nova-lite"],
                job_class=chance.choice(CLASSES),
                stream=True,
                job_id=f"{text.split()[0].lower()}-{i:04d}",
            )
            await asyncio.sleep(chance.expovariate(DEMAND[tenant]))


async def _picture(page: Page, path: Path) -> Path:
    picture = await page.picture()
    if len(picture) > LARGEST_BYTES:
        raise RuntimeError(f"{path.name} is {len(picture):,} bytes, at most {LARGEST_BYTES:,} are wanted")
    await asyncio.to_thread(path.write_bytes, picture)
    return path
