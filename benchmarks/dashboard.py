"""`./dev run python -m benchmarks.dashboard`: what the web page costs a browser with so many tenants.

Statistics once a second as a scheduler sends them, headless Chromium, and its own counters of time: for the first
picture, and for each second's update of the views. Needs Chromium.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from typing import Any

import msgspec
import nats

from sidecar.adapters.nats.embedded import NatsServer
from tests.support.browser import Page, browser
from tests.support.dashboard import many_tenants, served

COUNTED = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration", "TaskDuration")
_SCROLL = """(async () => {
  const view = document.querySelector('.t-view');
  const start = performance.now();
  for (let i = 0; i < 100; i += 1) {
    view.scrollTop = i * 370;
    await new Promise((done) => requestAnimationFrame(done));
  }
  return (performance.now() - start) / 100;
})()"""
_SEARCH = """(() => {
  const field = document.querySelector('#view-tenants input');
  const start = performance.now();
  field.value = '99';
  field.dispatchEvent(new Event('input'));
  const taken = performance.now() - start;
  field.value = '';
  field.dispatchEvent(new Event('input'));
  return taken;
})()"""


async def measure(tenants: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of each second's update by view, and of the page's start."""
    server = NatsServer(websocket_origins=[])
    await asyncio.to_thread(server.start)
    bus = await nats.connect(server.url)
    speaking = asyncio.ensure_future(_speak(bus, tenants))
    found: dict[str, Any] = {"tenants": tenants, "message_bytes": len(_message(tenants, 0))}
    try:
        async with served(server.websocket_url) as url, browser() as chromium:
            started = time.monotonic()
            page = await chromium.page(url)
            await page.until("document.querySelector('.bars li') !== null")
            found["first_picture_ms"] = round(1000 * (time.monotonic() - started))
            found["dom_complete_ms"] = round(
                await page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
            )
            for view in ("", "tenants", "models"):
                await page.evaluate(f"location.hash = '#/{view}'")
                await asyncio.sleep(2)
                found[f"{view or 'overview'}_per_update"] = await _cost(page, seconds)
            await page.evaluate("location.hash = '#/tenants'")
            await page.until("document.querySelectorAll('.t-body .t-row').length > 0")
            found["tenant_rows_in_page"] = await page.evaluate(
                "document.querySelectorAll('.t-body .t-row').length"
            )
            found["scroll_ms_a_frame"] = round(await page.evaluate(_SCROLL), 1)
            found["search_ms"] = round(await page.evaluate(_SEARCH), 1)
            found["heap_mb"] = round((await page.metrics())["JSHeapUsedSize"] / 1e6, 1)
    finally:
        speaking.cancel()
        await bus.close()
        await asyncio.to_thread(server.stop)
    return found


async def _speak(bus: Any, tenants: int) -> None:
    for second in itertools.count():
        await bus.publish("llm.v1.sys.stats", _message(tenants, second))
        await asyncio.sleep(1)


def _message(tenants: int, second: int) -> bytes:
    return msgspec.json.encode(many_tenants(tenants, second))


async def _cost(page: Page, seconds: float) -> dict[str, float]:
    before = await page.metrics()
    await asyncio.sleep(seconds)
    after = await page.metrics()
    return {name: round(1000 * (after[name] - before[name]) / seconds, 1) for name in COUNTED}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args(arguments)
    print(json.dumps(asyncio.run(measure(options.tenants, options.seconds)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
