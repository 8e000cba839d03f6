"""The dashboard in headless Chromium: over a fake sidecar on a real NATS server, and over a live demo."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio

from sidecar.adapters.nats.embedded import NatsServer
from sidecar.models.stats import MAX_TENANTS, PAGE_OF_TENANTS
from tests.support.browser import Browser, Page, browser, find_chromium
from tests.support.dashboard import many_tenants, served, tenant_name
from tests.support.demo import Demo
from tests.support.fake_sidecar import FakeJob, FakeSidecar
from tests.support.stranger import stranger

pytestmark = [
    pytest.mark.nats,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed: apt-get install chromium"),
]

TENANTS = 1_000
# What must never become markup or a program, in every place that a stranger's text can reach.
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
LINK = "javascript:window.hacked=1"


# Bars of one day, and which names have a colour of their own.
STACKED = """(async () => {
  const { ranked, stacked } = await import('/js/spend.js');
  const costs = { a: 2, b: 3, c: 2.5, d: 1, e: 1, f: 1, g: 0.5, h: 0.5 };
  const rows = Object.entries(costs).map(([tenant, cost_usd]) => ({ day: 'x', tenant, cost_usd }));
  const elsewhere = { day: 'y', tenant: 'a', cost_usd: 9 };
  const given = { by: 'tenant', names: ['b', 'd', 'others'], days: ['x'] };
  const [bar] = stacked([...rows, elsewhere], given);
  return [[bar.parts[0].usd, bar.parts[1].usd, bar.usd], ranked(rows, 'tenant').names];
})()"""


class Scene(NamedTuple):
    server: NatsServer
    sidecar: FakeSidecar
    page: Page

    async def tell(self, payload: Any) -> None:
        """On the subject of the statistics, whatever it is."""
        data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        await self.sidecar.nc.publish("llm.v1.sys.stats", data)
        await self.sidecar.nc.flush()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as up:
        yield up


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[NatsServer]:
    made = NatsServer(websocket_origins=[])
    await asyncio.to_thread(made.start)
    yield made
    await asyncio.to_thread(made.stop)


@asynccontextmanager
async def scene_of(server: NatsServer, chromium: Browser, *, tenant: str | None = None) -> AsyncIterator[Scene]:
    sidecar = FakeSidecar()
    await sidecar.start(server.url, with_stream=False)
    async with served(server.websocket_url, tenant=tenant) as url:
        page = await chromium.page(url)
        await page.shows("Connected to")
        yield Scene(server, sidecar, page)
        await page.go("about:blank")
    await sidecar.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(server: NatsServer, chromium: Browser) -> AsyncIterator[Scene]:
    async with scene_of(server, chromium) as made:
        yield made


@asynccontextmanager
async def speaking(scene: Scene, messages: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Statistics as a sidecar sends them, only faster, while a test looks."""

    async def speak() -> None:
        async for message in messages:
            await scene.tell(message)
            await asyncio.sleep(0.1)

    task = asyncio.ensure_future(speak())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def thousand(**more: object) -> AsyncIterator[Any]:
    for second in itertools.count():
        yield many_tenants(TENANTS, second, **more)


async def retold(job: FakeJob) -> None:
    """An event again and again until somebody hears it."""
    payload = await job.say("delta", {"index": 0, "text": "!"}, live=False)
    while True:
        await job.tell("delta", payload)
        await asyncio.sleep(0.2)


async def finished_job(job: FakeJob, text: str = "It is a stream.", **more: Any) -> None:
    await job.say("status", {"state": "running", "model": "nova-lite", "model_id": "x", "region": "us-east-1"})
    for piece in text.split(" "):
        await job.delta(f"{piece} ")
    usage = {"input_tokens": 11, "output_tokens": 222}
    await job.result(text, data={"usage": usage, "cost_usd": 0.0125, "model": "nova-lite", **more})


async def test_a_thousand_tenants_are_sorted_and_found_in_a_few_rows(scene: Scene) -> None:
    page = scene.page
    async with speaking(scene, thousand()):
        await page.until("document.querySelector('#view-overview .value').textContent !== '–'")
        await page.evaluate("location.hash = '#/tenants'")
        await page.shows("1,000 tenants · the 100 busiest each second, the others in turn every 10 s.")
        rows = "document.querySelectorAll('.t-body .t-row').length"
        assert 10 < await page.until(rows) < 60
        await page.evaluate("document.querySelector('.t-view').scrollTop = 1e9")
        await page.until("document.querySelector('.t-row[aria-rowindex=\"1001\"]') !== null")
        assert await page.evaluate(rows) < 60
        await page.evaluate("document.querySelector('[data-column=name] button').focus()")
        await page.key("Enter", code=13)
        first = "document.querySelector('.t-row[aria-rowindex=\"2\"] a').textContent"
        await page.until(f"{first} === {json.dumps(tenant_name(0))}")
        assert await page.evaluate("document.querySelector('[data-column=name]').ariaSort") == "ascending"
        await page.evaluate("document.querySelector('#view-tenants input').focus()")
        far = tenant_name(MAX_TENANTS + 6 * PAGE_OF_TENANTS + 77)
        await page.write(far[-4:])
        await page.shows("1 of 1,000 tenants")
        await page.until(f"{first} === {json.dumps(far)}")
    assert page.problems == []


async def test_a_job_is_replayed_then_followed_to_its_result(scene: Scene) -> None:
    page, job = scene.page, scene.sidecar.job("followed")
    await job.say("status", {"state": "running", "model": "nova-lite", "model_id": "x", "region": "us-east-1"})
    job.set_state("running")
    await job.delta("Stored before ", live=False)
    await page.evaluate("location.hash = '#/job/acme/followed'")
    await page.shows("Stored before")
    await job.delta("and heard live.")
    await page.until("document.querySelector('.answer').textContent === 'Stored before and heard live.'")
    # Lost on its way: the next one shows the hole, and what is stored fills it.
    await job.delta(" Lost,", live=False)
    await job.delta(" but found.")
    await page.until("document.querySelector('.answer').textContent.endsWith('live. Lost, but found.')")
    call = {"tool": "search", "version": "1.0.0", "tool_use_id": "u1"}
    await job.say("tool", {"phase": "called", **call, "input": {"q": "oslo"}})
    await job.say("tool", {"phase": "returned", **call, "output": {"hits": 3}, "elapsed_ms": 40})
    await page.shows("search@1.0.0")
    await job.delta("Second try.", attempt=2)
    await page.until("document.querySelector('.answer').textContent === 'Second try.'")
    usage = {"input_tokens": 11, "output_tokens": 222}
    await job.result(
        "Second try.", attempt=2, data={"usage": usage, "cost_usd": 0.0125, "warnings": ["mind this"]}
    )
    for text in ("succeeded", "$0.01", "222", "mind this", "attempt 2"):
        await page.shows(text)
    assert page.problems == []


async def test_jobs_are_listed_as_they_come_and_those_of_before_on_request(scene: Scene) -> None:
    page = scene.page
    scene.sidecar.job("earlier", "initech").set_state("succeeded")
    await page.evaluate("location.hash = '#/jobs'")
    await page.shows("No job has been heard of yet.")
    await finished_job(scene.sidecar.job("now", "globex"))
    await page.shows("globex / now")
    await page.shows("222 tokens")
    await page.evaluate("document.querySelector('.find input').focus()")
    await page.write("initech")
    await page.key("Enter", code=13)
    await page.shows("initech / earlier")
    assert "globex" not in await page.evaluate("document.querySelector('#view-jobs .rows').innerText")
    await page.evaluate("document.querySelector('.find input').value = ''")
    await page.evaluate("document.querySelector('.find input').focus()")
    await page.write("globex/now")
    await page.key("Enter", code=13)
    await page.until("document.querySelector('.answer').textContent.includes('It is a stream.')")
    await page.evaluate("location.hash = '#/job/globex/never'")
    await page.shows("There is no such job")
    assert page.problems == []


async def test_text_of_strangers_stays_text(scene: Scene) -> None:
    page, job = scene.page, scene.sidecar.job("hostile")
    stats = msgspec.to_builtins(many_tenants(1, 0))
    stats["replica"] = stats["version"] = EVIL
    stats["tenants"][0]["tenant"] = EVIL
    stats["classes"][0]["class"] = EVIL
    stats["pools"][0].update(model=EVIL, invoke_id=EVIL, region=LINK, health=EVIL)
    stats["models"][0].update(model=EVIL, health=LINK)
    await scene.tell(stats)
    await job.say("status", {"state": "running", "model": EVIL, "reason": EVIL, "region": LINK})
    await job.delta(EVIL)
    await job.say("delta", {"index": 0, "reasoning": EVIL})
    await job.say("tool", {"phase": EVIL, "tool": EVIL, "tool_use_id": "u", "input": EVIL, "output": {EVIL: EVIL}})
    error = {"code": EVIL, "message": EVIL}
    attempt = {"model_id": EVIL, "region": EVIL, "outcome": EVIL, "elapsed_ms": 1, "error": error}
    more = {"error": error, "warnings": [EVIL], "stop_reason": LINK, "model": EVIL, "attempts": [attempt]}
    await job.result(EVIL, "failed", data=more)
    for view in ("#/", "#/tenants", "#/jobs", "#/models", "#/job/acme/hostile"):
        await scene.tell(stats)
        await page.evaluate(f"location.hash = {json.dumps(view)}")
        await page.until("document.querySelector('main').innerText.includes('window.hacked=1')")
        made = "document.querySelectorAll('main img, main script, main iframe, main [onerror]').length"
        assert await page.evaluate(made) == 0, view
        links = "[...document.querySelectorAll('a')].every((a) => a.protocol === 'http:')"
        assert await page.evaluate(links), view
    assert await page.evaluate("window.hacked === undefined")
    assert page.problems == []


async def test_what_is_not_of_the_protocol_is_left_out(scene: Scene) -> None:
    page, good = scene.page, scene.sidecar.job("good")
    odd: list[Any] = [b"", b"\xff", b"[]", b"1", b"null", b'"x"', {"replica": 1}, {"is_scheduler": True}]
    odd += [{"replica": "r", "is_scheduler": True, "tenants": 7, "pools": [None, 1], "models": "x", "classes": {}}]
    odd += [{"replica": "r", "is_scheduler": True, "tenants": [{"tenant": "t", "lanes": [None], "share": "much"}]}]
    for each in odd:
        await scene.tell(each)
    for kind in ("status", "delta", "tool", "result"):
        for payload in (b"", b"{", b"null", b"[1]", b'{"attempt":1,"n":1,"data":7}', b'{"data":{"candidates":5}}'):
            await scene.sidecar.nc.publish(f"llm.v1.job.acme.odd.{kind}", payload)
            await scene.sidecar.nc.publish(f"llm.v1.job.acme.good.{kind}", payload)
    await page.evaluate("location.hash = '#/job/acme/good'")
    await finished_job(good, "Still here.")
    await page.until("document.querySelector('.answer').textContent.includes('Still here.')")
    await scene.tell(many_tenants(3, 0))
    await page.evaluate("location.hash = '#/tenants'")
    await page.shows(tenant_name(2))
    assert not [problem for problem in page.problems if "was left out" not in problem]


async def test_it_says_so_when_nobody_speaks_and_when_the_connection_is_lost(chromium: Browser) -> None:
    server = NatsServer(websocket_origins=[])
    await asyncio.to_thread(server.start)
    try:
        async with scene_of(server, chromium) as scene:
            page, job = scene.page, scene.sidecar.job("long")
            await page.shows("no sidecar speaks on llm.v1.sys.stats")
            job.set_state("running")
            await job.delta("Before")
            await page.evaluate("location.hash = '#/job/acme/long'")
            await page.shows("Before")
            await asyncio.to_thread(server.kill)
            await page.shows("Reconnecting")
            await page.shows("The connection was lost.")
            await job.delta(" between", live=False)
            await asyncio.to_thread(server.start)
            await page.shows("Connected to")
            # The fake sidecar may be back later than the page, which asks again whenever it hears of a hole.
            await job.delta(" and after.", live=False)
            hears = asyncio.ensure_future(retold(job))
            await page.until("document.querySelector('.answer').textContent === 'Before between and after.!'")
            hears.cancel()
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_real_job_on_the_demo(demo: Demo, chromium: Browser) -> None:
    assert demo.dashboard
    page = await chromium.page(demo.dashboard)
    await page.shows("Connected to")
    await page.until("document.querySelector('.replica-line') !== null")
    async with stranger(demo.nats, "webby") as client:
        await page.evaluate("location.hash = '#/job/webby/live-one'")
        request = {"messages": [{"role": "user", "content": "What is JetStream?"}], "stream": True}
        feed = await client.submit({**request, "model": "nova-lite"}, job="live-one")
        await page.until("document.querySelector('.answer').textContent.includes('persistence layer')")
        result = (await feed.result())["data"]
    await page.shows("succeeded")
    assert await page.evaluate("document.querySelector('.answer').textContent") == result["output"]["text"]
    await page.shows(f"${result['cost_usd']:.6f}")
    await page.evaluate("location.hash = '#/tenants'")
    await page.shows("webby")
    await page.evaluate("location.hash = '#/models'")
    await page.shows("us-east-1")
    await page.evaluate("location.hash = '#/spend'")
    await page.shows("Jobs that ended up to")
    await page.until(
        "[...document.querySelectorAll('.stack rect')].some((r) => Number(r.getAttribute('height')) > 0)"
    )
    assert await page.evaluate(STACKED) == [[3, 1, 11.5], ["b", "c", "a", "d", "e", "f", "others"]]
    assert page.problems == []
    assert {url.split("/")[2].split(":")[0] for url in page.requested} == {"127.0.0.1"}
    assert not any("@" in url or "key=" in url for url in page.requested)


async def test_a_page_of_another_origin_cannot_reach_the_demos_bus(demo: Demo, chromium: Browser) -> None:
    page = await chromium.page(demo.dashboard)
    await page.shows("Connected to")
    (bus,) = {url for url in page.requested if url.startswith("ws:")}
    async with served(bus) as elsewhere:
        other = await chromium.page(elsewhere)
        await other.shows("No NATS server answers there.")


async def test_a_tenants_own_view_hears_that_tenant_alone(server: NatsServer, chromium: Browser) -> None:
    async with scene_of(server, chromium, tenant="acme") as scene:
        await scene.tell(many_tenants(3, 0))
        await finished_job(scene.sidecar.job("other", "globex"))
        await finished_job(scene.sidecar.job("mine", "acme"))
        await scene.page.shows("acme / mine")
        assert "globex" not in await scene.page.evaluate("document.body.innerText")
        assert not await scene.page.evaluate("document.querySelector('[data-view=tenants]').checkVisibility()")
        assert scene.page.problems == []


ORDERS = {
    "1.1=a 1.2=b 1.3=c": "abc",
    "1.1=a 1.1=a 1.2=b 1.1=a": "ab",
    "1.2=b 1.1=a": "ab",
    "1.1=a 1.4=d": "a",
    "1.1=a 1.4=d 1.3=c 1.2=b": "abcd",
    "1.1=a 1.4=d release": "ad",
    "1.1=a 1.4=d release 1.5=e 1.2=b": "ade",
    "1.1=a 2.1=x 1.2=b 2.2=y": "xy",
    "1.1=a 1.3=c 2.1=x release 2.2=y": "xy",
    "2.2=y 1.1=a 2.1=x": "xy",
    "3.2=z release": "z",
}
_TELL = """async (steps) => {
  const { Story } = await import('/js/story.js');
  const story = new Story();
  for (const step of steps) {
    const [, attempt, n, text] = /(\\d+)\\.(\\d+)=(.)/.exec(step) ?? [];
    if (step === 'release') story.release(story.held);
    else story.hear({ attempt: Number(attempt), n: Number(n), type: 'delta', data: { index: 0, text } });
  }
  return story.text;
}"""


async def test_events_are_told_in_their_order_and_once(scene: Scene) -> None:
    told = {each: await scene.page.evaluate(f"({_TELL})({json.dumps(each.split(' '))})") for each in ORDERS}
    assert told == ORDERS
