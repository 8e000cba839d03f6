"""Headless Chromium for tests of the web page, driven over its own debugging protocol.

Where there is none, `browser()` skips the test with the reason. Waits are for what the page shows, never for time.
"""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

PATIENCE_S = 90.0
POLL_S = 0.05
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Page:
    """A tab. `problems` are errors of its scripts, of its console, and what its content policy refused."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        self.requested: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.call(method, session=self._session, **parameters)

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited. Raises RuntimeError with what the page threw."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    async def until(self, expression: str, *, limit_s: float = PATIENCE_S) -> Any:
        """The value of an expression once it is true. Raises TimeoutError with what the page shows."""
        deadline = time.monotonic() + limit_s
        while True:
            value = await self.evaluate(f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()")
            if value:
                return value
            if time.monotonic() > deadline:
                shown = await self.evaluate("document.body.innerText")
                raise TimeoutError(f"not {expression}; {self.problems}; the page shows: {shown[:2000]}")
            await asyncio.sleep(POLL_S)

    async def shows(self, text: str) -> None:
        """Until the page shows this text."""
        await self.until(f"document.body.innerText.includes({json.dumps(text)})")

    async def key(self, name: str, *, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **text)

    async def write(self, text: str) -> None:
        """Into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def size(self, width: int, height: int, *, scale: float = 1.0) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    async def scheme(self, name: str) -> None:
        """`light` or `dark`, as the system would say."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def picture(self) -> bytes:
        """PNG of what is in sight."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    async def metrics(self) -> dict[str, float]:
        """Chromium's own counters: `ScriptDuration`, `LayoutDuration`, `TaskDuration` in seconds, and others."""
        found = await self.call("Performance.getMetrics")
        return {each["name"]: each["value"] for each in found["metrics"]}

    def hear(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
            self.problems.append(" ".join(str(value.get("value")) for value in parameters["args"]))
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"a dialog: {parameters['message']}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requested.append(parameters["url"])


class Browser:
    """A running Chromium; see `browser()`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def call(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json({**message, "sessionId": session} if session else message)
        async with asyncio.timeout(PATIENCE_S):
            return await self._waiting[number]

    async def page(self, url: str = "about:blank") -> Page:
        """A new tab of 1,360 by 900 pixels at this address."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            await page.call(f"{domain}.enable")
        await page.size(1360, 900)
        if url != "about:blank":
            await page.go(url)
        return page

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        async for message in self._socket:
            heard = json.loads(message.data)
            waiting = self._waiting.pop(heard.get("id", 0), None)
            if waiting is not None and not waiting.done():
                if "error" in heard:
                    waiting.set_exception(RuntimeError(str(heard["error"])))
                else:
                    waiting.set_result(heard["result"])
            elif heard.get("sessionId") in self._pages:
                self._pages[heard["sessionId"]].hear(heard["method"], heard["params"])


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of its own, with an empty profile, ended by its pid. Raises FileNotFoundError without one."""
    binary = find_chromium()
    if binary is None:
        raise FileNotFoundError("Chromium is not installed")
    with tempfile.TemporaryDirectory(prefix="sidecar-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220
            [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        try:
            address = await _address(Path(profile) / "DevToolsActivePort", process)
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(address, max_msg_size=0) as socket,
                Browser(socket) as up,
            ):
                yield up
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def _address(path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        lines = await asyncio.to_thread(_lines, path)
        if len(lines) >= 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Chromium did not start: {process.poll()}")
        await asyncio.sleep(POLL_S)
