"""Accounts, roles, keys and hosts of the operator: in nothing that a tenant can read, and in the operator's log.

Whole jobs through a real process, by both transports: each kind of failure, then all that a tenant can ask for.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import AccountPool
from tests.support.process import SidecarProcess, spawn_sidecar
from tests.support.stranger import Stranger, asks, stranger

ACCOUNT, KEY_ID = "424242424242", "ASIACANARY0123456789"
HOST = "vpce-0a1b2c3d4e5f60718-canary.bedrock-runtime.us-east-1.vpce.amazonaws.com"
ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/canary-role/canary-session"
PROFILE = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/canaryprofile"
SAID = (
    f"User: {ROLE} is not authorized to perform: bedrock:InvokeModel on resource: {PROFILE} with key {KEY_ID} "
    f"at {HOST} (10.20.30.40)"
)
CANARIES = (ACCOUNT, "canary", "CANARY", "10.20.30.40")
MODEL = "own-model"
LIMIT_S = 60.0
KINDS = (
    "validation",
    "access_denied",
    "throttling",
    "service_quota",
    "model_not_ready",
    "model_error",
    "model_timeout",
    "unavailable",
    "internal",
    "not_found",
    "expired_token",
)


class Watched(NamedTuple):
    url: str
    sidecar: SidecarProcess


@pytest.fixture(scope="module", params=["aiohttp", "boto3"])
def watched(
    request: pytest.FixtureRequest, nats_server: AccountPool, bedrock: EmulatorProcess
) -> Iterator[Watched]:
    url = nats_server.take().url
    # One for each kind, so that one's breaker keeps nothing from another.
    plain = {"base": "claude-sonnet-4-5", "fallback": [], "tokens_per_minute": 10**9, "requests_per_minute": 10**7}
    models = {name: {"id": f"{PROFILE}{name.replace('_', '')}", **plain} for name in (*KINDS, MODEL)}
    held = {"standard": {"weight": 20, "max_hold_s": 2}}
    with spawn_sidecar(
        url,
        bedrock.url,
        bedrock={"transport": request.param},
        models=models,
        classes=held,
        jobs={"max_attempts": 1},
    ) as sidecar:
        yield Watched(url, sidecar)


def failing(kind: str, *, stream: bool) -> dict[str, Any]:
    directive = f'[[fault={kind} message="{SAID}"]]'
    return asks(directive, model=kind, stream=stream, timeout_s=4)


async def everything_a_tenant_reads(client: Stranger, jobs: list[str]) -> str:
    found = []
    for job in jobs:
        found += [json.dumps(event) for event in await client.replay(job)]
        found.append(json.dumps(await client.answer("get", client.tenant, job)))
    for verb in ("jobs", "models"):
        found.append(json.dumps(await client.answer(verb, client.tenant)))
    for subject in ("$SRV.STATS.llm-sidecar", "$SRV.INFO.llm-sidecar"):
        reply = await client.connection.request(subject, b"", timeout=LIMIT_S)
        found.append(reply.data.decode())
    statistics = await client.connection.subscribe("llm.v1.sys.stats")
    found.append((await statistics.next_msg(timeout=LIMIT_S)).data.decode())
    await statistics.unsubscribe()
    return "\n".join(found)


async def test_no_exit_shows_a_name_of_the_operators(watched: Watched) -> None:
    async with stranger(watched.url, "acme") as client:
        heard = await client.follow("*", "*")
        feeds = {
            f"{kind}-{stream}": await client.submit(failing(kind, stream=stream), job=f"{kind}-{stream}")
            for kind in KINDS
            for stream in (False, True)
        }
        ended = {name: (await feed.result(limit_s=LIMIT_S))["data"] for name, feed in feeds.items()}
        reply = await client.ask("ask", "acme", "standard", payload=failing("access_denied", stream=False))
        fine = await client.run(asks("[[tokens=2]] hi", model=MODEL), job="fine")
        read = await everything_a_tenant_reads(client, [*feeds, "fine"])
    assert {result["state"] for result in ended.values()} <= {"failed", "expired"}
    assert (fine["state"], fine["model"], fine["model_id"]) == ("succeeded", MODEL, MODEL)
    assert fine["cost_usd"] > 0
    for text in (read, json.dumps(heard.events), reply.data.decode(), str(reply.headers)):
        shown = [line for line in text.splitlines() if any(canary in line for canary in CANARIES)]
        assert not shown, shown[0]
    logged = watched.sidecar.log
    assert [canary for canary in (*CANARIES, ROLE, PROFILE) if canary not in logged] == []
    identifiers = {
        attempt["error"]["details"]["error_id"]
        for result in ended.values()
        for attempt in result["attempts"]
        if attempt["error"] is not None
    }
    assert identifiers
    assert [name for name in identifiers if name not in logged] == []
    assert all(json.loads(line) for line in logged.splitlines())
    pages = [await asyncio.to_thread(watched.sidecar.get, path) for path in ("/livez", "/readyz", "/startupz")]
    assert ACCOUNT not in str(pages)
