"""What tenants write and models answer, and whatever is a credential, is in no log, no metric and no statistics.

Canaries go through whole jobs of a real process that logs all it can; then whatever it said is searched for them.
"""

import asyncio
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import MODEL, SidecarProcess, spawn_sidecar
from tests.support.stranger import Stranger, asks, stranger

PROMPT, ANSWER, THOUGHT, SYSTEM = "canary-prompt", "canary-answer", "canary-thought", "canary-system"
SECRET, PASSWORD, SESSION, ERROR = "canary-secret-key", "canary-password", "canary-session", "canary-error"
CANARY = "canary"
LIMIT_S = 60.0


class Watched(NamedTuple):
    url: str
    sidecar: SidecarProcess


@pytest.fixture(scope="module", params=["aiohttp", "boto3"])
def watched(request: pytest.FixtureRequest, bedrock: EmulatorProcess) -> Iterator[Watched]:
    config = f'authorization {{ users: [{{ user: sidecar, password: "{PASSWORD}" }}] }}'
    environment = {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SESSION, "SIDECAR_LOG__LEVEL": "debug"}
    with running(make_server(config=config)) as server:
        url = server.url.replace("nats://", f"nats://sidecar:{PASSWORD}@")
        with spawn_sidecar(
            url,
            bedrock.url,
            environment=environment,
            bedrock={"transport": request.param},
            jobs={"max_attempts": 1},
            models={MODEL: {"tokens_per_minute": 10**9, "requests_per_minute": 10**7, "fallback": []}},
        ) as sidecar:
            yield Watched(url, sidecar)


def prompt(directives: str = "", **more: Any) -> dict[str, Any]:
    return asks(f'{directives} {PROMPT} [[text="{ANSWER}"]]', system=SYSTEM, metadata={"note": CANARY}, **more)


JOBS: dict[str, Any] = {
    "whole": prompt(),
    "streamed": prompt(f'[[reasoning="{THOUGHT}" tokens=60]]', stream=True),
    "tool": prompt(
        f'[[tool=search input={{"q":"{CANARY}"}}]]',
        tools=[{"name": "search", "description": CANARY, "input_schema": {"type": "object"}}],
    ),
    "no-such-shape": prompt(output={"schema": {"type": "object", "required": [CANARY]}}),
    "schema-that-is-none": prompt(output={"schema": {"type": CANARY}}),
    "refused": prompt(f'[[fault=validation message="{ERROR}"]]'),
    "overflow": prompt(f'[[fault=overflow message="{ERROR}"]]'),
    # What is said about access is logged, for it speaks of the sidecar and of no request.
    "denied": prompt("[[fault=access_denied]]", timeout_s=5),
    "broken-stream": prompt("[[tokens=60 tps=200]] [[fault=cut at=3]]", stream=True, timeout_s=5),
    "bad-frame": prompt("[[tokens=60 tps=200]] [[fault=bad_crc at=3]]", stream=True, timeout_s=5),
    "page": prompt("[[fault=html]]", timeout_s=5),
    "late": prompt("[[tokens=5000 tps=20]]", timeout_s=1, stream=True),
    "unknown-model": prompt(model=CANARY),
    "unknown-tool": prompt(tools=[CANARY]),
    "unknown-field": prompt(**{CANARY: CANARY}),
    "wrong-type": prompt(timeout_s=CANARY),
    "no-json": f'{{"messages": "{CANARY}'.encode(),
    "object": {"messages": [{"role": "user", "content": [{"type": "image", "object": CANARY}]}]},
}


async def everything_said(watched: Watched, client: Stranger) -> str:
    """Metrics, pages, one message of statistics, and the log."""
    statistics: list[bytes] = []
    subscription = await client.connection.subscribe("llm.v1.sys.stats")
    statistics.append((await subscription.next_msg(timeout=LIMIT_S)).data)
    await subscription.unsubscribe()
    pages = [await asyncio.to_thread(page, watched.sidecar, path) for path in ("/metrics", "/info", "/readyz")]
    return "\n".join([*pages, *(data.decode() for data in statistics), watched.sidecar.log])


def page(sidecar: SidecarProcess, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=LIMIT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


async def test_no_canary_is_found_in_what_the_process_says(watched: Watched) -> None:
    async with stranger(watched.url, "acme") as client:
        feeds = {name: await client.submit(payload, job=name) for name, payload in JOBS.items()}
        slow = await client.submit(prompt("[[tokens=6000 tps=20]]", stream=True), job="cancelled")
        await slow.first_delta()
        await client.answer("cancel", "acme", "cancelled", payload={"reason": CANARY})
        ended = {name: (await feed.result(limit_s=LIMIT_S))["data"] for name, feed in feeds.items()}
        await slow.result()
        for verb, payload in (("ask", PROMPT.encode()), ("ask", b'{"canary'), ("jobs", b'{"state": "canary"}')):
            await client.ask(verb, "acme", *(["standard"] if verb == "ask" else []), payload=payload)
        said = await everything_said(watched, client)
    assert ended["whole"]["output"]["text"] == ANSWER
    assert ended["broken-stream"]["state"] == ended["refused"]["state"] == "failed"
    assert {r["state"] for r in ended.values()} >= {"succeeded", "failed", "rejected"}
    lines = [line for line in said.splitlines() if CANARY in line]
    assert not lines, json.dumps(lines[:5])


async def test_the_log_is_one_json_object_a_line(watched: Watched) -> None:
    lines = watched.sidecar.log.splitlines()
    assert lines
    for line in lines:
        found = json.loads(line)
        assert {"time", "level", "logger", "message"} <= set(found), line
