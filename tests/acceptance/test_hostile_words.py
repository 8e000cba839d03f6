"""Words of a tenant that go out again: line breaks in its trace headers, replies that are no subjects."""

import asyncio
import json

import nats
import pytest

from sidecar.adapters.nats.embedded import NatsServer
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import running
from tests.support.process import spawn_sidecar
from tests.support.raw_tenant import raw_tenant
from tests.support.stranger import asks, check_story
from tests.support.tenancy import Tenancy, configured, connected

FIELDS = (b"traceparent: a\rb", b"traceparent: a\nNats-Rollup: all", b"tracestate: a\n\rb")

pytestmark = pytest.mark.nats


async def requests_left(url: str) -> int:
    operator = await nats.connect(url, inbox_prefix=b"_INBOX.op")
    try:
        return int(
            json.loads((await operator.request("$JS.API.STREAM.INFO.LLM_REQ", b"")).data)["state"]["messages"]
        )
    finally:
        await operator.close()


@pytest.mark.parametrize("mode", ["users", "accounts"])
async def test_a_job_whose_trace_headers_are_none_ends_like_any(mode: str, bedrock: EmulatorProcess) -> None:
    with running(NatsServer(config=configured(mode))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        with spawn_sidecar(url, bedrock.url) as sidecar:
            house = Tenancy(mode, server.url, sidecar)
            async with connected(house, "acme") as acme, raw_tenant(house.url("acme"), "acme") as raw:
                for i, field in enumerate(FIELDS):
                    head = b"NATS/1.0\r\nLlm-Job-Id: j%d\r\n" % i + field + b"\r\n\r\n"
                    body = json.dumps(asks("[[tokens=3]] x")).encode()
                    raw.publish(b"llm.v1.request.acme.standard", body, header=head)
                await raw.flush()
                async with asyncio.timeout(30):
                    while await requests_left(url):  # noqa: ASYNC110 - the deletion has no event
                        await asyncio.sleep(0.1)
                for i in range(len(FIELDS)):
                    check_story(await acme.replay(f"j{i}"))
            assert "the bus refused a job's records" not in sidecar.log


async def test_answers_that_may_go_nowhere_fill_no_log(bedrock: EmulatorProcess) -> None:
    with running(NatsServer(config=configured("users"))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        with spawn_sidecar(url, bedrock.url) as sidecar:
            house = Tenancy("users", server.url, sidecar)
            async with connected(house, "globex") as globex, raw_tenant(house.url("acme"), "acme") as raw:
                for reply in (b"*", b"LLM.v1.x", b"_INBOX_acme..x"):
                    for _ in range(200):
                        raw.publish(b"llm.v1.jobs.acme", reply=reply)
                await raw.flush()
                await globex.ask("jobs", "globex")
                assert sidecar.log.count("NATS denied something") <= 10
