"""As whom the dashboard connects: users that `sidecar nats-config` makes can look and nothing more, and the
credentials that `sidecar dashboard --creds` is given reach this machine's browser and no address or log.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import msgspec
import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client

from sidecar.adapters.nats.embedded import NatsServer
from sidecar.cli.nats_config import Mode, Watchers, password_variable, render
from tests.support.browser import Browser, Page, browser, find_chromium
from tests.support.dashboard import many_tenants, served
from tests.support.demo import end, first_line, started
from tests.support.fake_sidecar import FakeSidecar
from tests.support.nats_jwt import Operator

pytestmark = [pytest.mark.nats, pytest.mark.asyncio(loop_scope="module")]
needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")

TENANTS = ("acme", "globex")
PATIENCE_S = 60.0
USERS = ("sidecar", *TENANTS, "dashboard", *(f"{tenant}-dashboard" for tenant in TENANTS))
CHANGING = (
    "llm.v1.request.acme.standard",
    "llm.v1.ask.acme.standard",
    "llm.v1.cancel.acme.j1",
    "llm.v1.tools.acme.register",
    "llm.v1.job.acme.j1.result",
    "llm.v1.log.acme.j1.result",
    "llm.v1.sys.stats",
    "llm.v1.call.acme.t.1_0_0",
    "$KV.LLM_JOB.acme.j1",
    "$JS.API.STREAM.PURGE.LLM_REQ",
    "_INBOX_acme.x",
)
HIDDEN = (
    ">",
    "llm.v1.>",
    "llm.v1.sys.>",
    "llm.v1.request.>",
    "llm.v1.log.>",
    "$KV.>",
    "_INBOX.>",
    "_INBOX_acme.>",
)


Refused = asyncio.Queue[str]


class Guarded(NamedTuple):
    mode: Mode
    server: NatsServer

    def url(self, user: str) -> str:
        return self.server.url.replace("nats://", f"nats://{user}:p@")


@pytest.fixture(scope="module", params=["accounts", "users"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    text = render(TENANTS, mode=request.param, watchers=Watchers(all_tenants=True, each_tenant=True))
    # Longer names first: one variable's name may begin with another's.
    for variable in sorted(map(password_variable, USERS), key=len, reverse=True):
        text = text.replace(f"${variable}", '"p"')
    server = NatsServer(config=text, websocket_origins=[])
    server.start()
    yield Guarded(request.param, server)
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as up:
        yield up


@asynccontextmanager
async def connected(guarded: Guarded, user: str) -> AsyncIterator[tuple[Client, Refused]]:
    """A connection of this user, and what the server refused it so far."""
    refused: Refused = asyncio.Queue()

    async def note(error: Exception) -> None:
        await refused.put(str(error))

    connection = await nats.connect(guarded.url(user), error_cb=note)
    try:
        yield connection, refused
    finally:
        await connection.close()


async def refusals(connection: Client, refused: Refused, count: int) -> list[str]:
    """The refused subjects, once there are so many; all there are by then. nats.py hands them on in lower case."""
    async with asyncio.timeout(PATIENCE_S):
        texts = [await refused.get() for _ in range(count)]
    await connection.flush()
    texts += [refused.get_nowait() for _ in range(refused.qsize())]
    return [re.findall(r'"([^"]+)"', text)[0] for text in texts if "ermissions" in text]


@pytest.mark.parametrize("user", ["dashboard", "acme-dashboard"])
async def test_a_watcher_can_publish_nothing_that_changes_anything(guarded: Guarded, user: str) -> None:
    async with connected(guarded, user) as (connection, refused):
        for subject in CHANGING:
            await connection.publish(subject, b"{}")
        assert await refusals(connection, refused, len(CHANGING)) == [subject.lower() for subject in CHANGING]


@pytest.mark.parametrize("user", ["dashboard", "acme-dashboard"])
async def test_a_watcher_hears_nothing_else(guarded: Guarded, user: str) -> None:
    others = () if user == "dashboard" else ("llm.v1.sys.stats", "llm.v1.job.globex.>", "llm.v1.job.>")
    async with connected(guarded, user) as (connection, refused):
        wanted = [*HIDDEN, *others]
        for subject in wanted:
            await connection.subscribe(subject)
        assert await refusals(connection, refused, len(wanted)) == [subject.lower() for subject in wanted]


async def test_a_tenants_watcher_cannot_ask_of_another_tenant(guarded: Guarded) -> None:
    subjects = [f"llm.v1.{verb}" for verb in ("get.globex.j1", "replay.globex.j1", "jobs.globex", "models.globex")]
    async with connected(guarded, "acme-dashboard") as (connection, refused):
        for subject in subjects:
            await connection.publish(subject, b"{}", reply="_INBOX_acme.dashboard.x")
        assert await refusals(connection, refused, len(subjects)) == subjects


async def sign_in(page: Page, user: str, password: str) -> None:
    await page.evaluate("document.querySelector('[name=kind][value=user]').click()")
    for field, value in (("f-user", user), ("f-password", password)):
        await page.evaluate(f"document.getElementById('{field}').value = {json.dumps(value)}")
    await page.evaluate("document.getElementById('connect-button').click()")


@needs_chromium
@pytest.mark.parametrize("user", ["dashboard", "acme-dashboard"])
async def test_the_page_works_with_a_watchers_rights(guarded: Guarded, chromium: Browser, user: str) -> None:
    sidecar = FakeSidecar()
    await sidecar.start(guarded.url("sidecar"), with_stream=False)
    job = sidecar.job("j1")
    job.set_state("running")
    await job.delta("Stored, ", live=False)
    tenant = None if user == "dashboard" else "acme"
    async with served(guarded.server.websocket_url, tenant=tenant) as url:
        page = await chromium.page(url)
        await page.shows("The server wants credentials.")
        await sign_in(page, user, "wrong")
        await page.shows("The server did not take these credentials.")
        await sign_in(page, user, "p")
        await page.shows("Connected to")
        await sidecar.nc.publish("llm.v1.sys.stats", msgspec.json.encode(many_tenants(3, 0)))
        if tenant is None:
            await page.shows("sidecar-0")
        await page.evaluate("location.hash = '#/job/acme/j1'")
        await page.shows("Stored,")
        await job.delta("heard.")
        await page.until("document.querySelector('.answer').textContent === 'Stored, heard.'")
        await page.evaluate("location.hash = '#/jobs?of=acme'")
        await page.shows("acme / j1")
        kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert '"p"' not in kept
        assert "wrong" not in kept
        # The refused sign-ins are the browser's own lines; the page had none.
        assert [problem for problem in page.problems if "WebSocket" not in problem] == []
    await sidecar.stop()


@needs_chromium
async def test_credentials_reach_the_browser_for_the_key_alone(tmp_path: Path, chromium: Browser) -> None:
    operator = Operator()
    creds = tmp_path / "dashboard.creds"
    operator.write_creds(creds)
    seed = re.findall(r"SU[A-Z0-9]{50,}", creds.read_text())[0]
    server = NatsServer(config=operator.config, websocket_origins=[])
    await asyncio.to_thread(server.start)
    arguments = ["--websocket", server.websocket_url, "--creds", str(creds), "--port", "0", "--json"]
    try:
        with started(["dashboard", *arguments]) as process:
            url = (await asyncio.to_thread(first_line, process))["url"]
            address, _, key = url.partition("#key=")
            assert len(key) >= 32
            page = await chromium.page(url)
            await page.shows("Connected to")
            assert await page.evaluate("location.href") == address
            assert not any(key in each or seed in each for each in page.requested)
            without = await chromium.page(address)
            await without.shows("with its key")
            assert await without.evaluate("document.getElementById('f-creds').value") == ""
            process.terminate()
            printed = "".join(await asyncio.to_thread(process.communicate))
            assert process.returncode == 0
            assert seed not in printed
    finally:
        await asyncio.to_thread(server.stop)


async def test_the_command_prints_an_address_that_answers() -> None:
    with started(["dashboard", "--port", "0", "--json", "--tenant", "acme"]) as process:
        url = (await asyncio.to_thread(first_line, process))["url"]
        assert "#" not in url
        for path, part in (("", "<title>LLM sidecar"), ("config.json", '"tenant":"acme"')):
            assert part in await asyncio.to_thread(fetched, url + path)
        assert await asyncio.to_thread(end, process) == 0


def fetched(url: str) -> str:
    with urlopen(url, timeout=30) as answer:  # noqa: S310
        text: str = answer.read().decode()
        return text
