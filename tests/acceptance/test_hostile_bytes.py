"""A tenant that speaks NATS by hand, within the permissions of `sidecar nats-config`, on a real server.

globex attacks; acme works meanwhile, with its jobs, its tools and its client, and must notice nothing. Whatever is
sent by chance is made from a seed that a failure shows; SIDECAR_FUZZ_SEED and SIDECAR_FUZZ_CASES choose others.
"""

import asyncio
import os
import random
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from sidecar import tool
from sidecar.client import JobResult, SidecarClient
from sidecar.errors import CallTimeout, JobCancelled
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import spawn_sidecar
from tests.support.raw_tenant import Hostile, RawTenant, raw_tenant
from tests.support.stranger import asks
from tests.support.tenancy import Tenancy, configured, connected

pytestmark = pytest.mark.nats

WAIT_S = 60.0
ANSWER_S = 10.0
QUICK = "[[tokens=3]] quick"
CASES = int(os.environ.get("SIDECAR_FUZZ_CASES", "400"))
SEED = int(os.environ.get("SIDECAR_FUZZ_SEED", random.randrange(1 << 32)))
FORGED = b'{"balance":-999999}'
# What a reply inbox of the sidecar looked like when its last token was a counter: a prefix of 30 bytes.
INBOX_PREFIX_BYTES = 30
MOST_TOKENS = 800
ROUNDS = 6


@pytest.fixture(scope="module", params=["accounts", "users"])
def tenancy(request: pytest.FixtureRequest, bedrock: EmulatorProcess) -> Iterator[Tenancy]:
    with running(make_server(config=configured(request.param))) as server:
        url = server.url.replace("nats://", "nats://sidecar:p@")
        with spawn_sidecar(url, bedrock.url, jobs={"drain_s": 0}, short_leases=False) as sidecar:
            yield Tenancy(request.param, server.url, sidecar)
            assert sidecar.is_running, sidecar.log[-2000:]


@pytest.fixture
async def acme(tenancy: Tenancy) -> AsyncIterator[SidecarClient]:
    async with await SidecarClient.connect(
        tenancy.url("acme"), tenant="acme", connect_timeout_s=WAIT_S, request_timeout_s=ANSWER_S
    ) as client:
        yield client


@pytest.fixture
async def globex(tenancy: Tenancy) -> AsyncIterator[RawTenant]:
    async with raw_tenant(tenancy.url("globex"), "globex") as speaker:
        yield speaker


def misdelivered(tenancy: Tenancy) -> int:
    """How many messages the sidecar dropped because they did not fit the subscription that they came for."""
    with urlopen(f"http://127.0.0.1:{tenancy.sidecar.admin_port}/metrics", timeout=WAIT_S) as page:
        found = re.search(rb"^sidecar_misdelivered_messages_total (\S+)$", page.read(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def ask(tenancy: Tenancy, acme: SidecarClient, prompt: str = QUICK, **more: Any) -> JobResult:
    """A job of acme's that has succeeded, while whatever is going on goes on."""
    job = await acme.submit(prompt, **more)
    try:
        result = await job.result(timeout_s=WAIT_S)
    except CallTimeout as e:
        raise AssertionError(f"{await acme.get(job.id)}\n{tenancy.sidecar.log[-4000:]}") from e
    assert result.state == "succeeded"
    return result


async def forge(globex: RawTenant, payload: bytes, *, verb: bytes = b"get") -> None:
    """Aim `payload` at every reply that the sidecar may wait for, as if the last token were counted from 1."""
    start = b"llm.v1.%b.globex." % verb
    filler = b"f" * (INBOX_PREFIX_BYTES - len(start))
    for number in range(1, MOST_TOKENS):
        for between in (b"\x0b", b"\x0c"):
            globex.publish(b"%b%b%d%bw1" % (start, filler, number, between), payload, reply=b"_INBOX_globex.x")
    await globex.flush()


async def test_nobody_writes_another_tenants_tool_output(
    tenancy: Tenancy, acme: SidecarClient, globex: RawTenant
) -> None:
    called, may_answer = asyncio.Event(), asyncio.Event()

    @tool
    async def balance(account: str) -> dict[str, int]:
        """Tell an account's balance."""
        called.set()
        await may_answer.wait()
        return {"balance": 12}

    async with acme.provide([balance]):
        prompt = '[[tool=balance input={"account":"a"}]] look'
        job = await acme.submit(prompt, tools=["balance"], stream=True, model="claude-sonnet-4-5")
        async with asyncio.timeout(WAIT_S):
            await called.wait()
        for verb in (b"get", b"cancel"):
            await forge(globex, FORGED, verb=verb)
        may_answer.set()
        result = await job.result(timeout_s=WAIT_S)
        outputs = [
            e.data.output async for e in acme.replay(job.id) if e.type == "tool" and e.data.phase == "returned"
        ]
    assert result.state == "succeeded"
    assert outputs == [{"balance": 12}]
    assert misdelivered(tenancy) == 0


@pytest.mark.parametrize(
    "ack",
    [
        b'{"stream":"KV_LLM_JOB","seq":1}',
        b'{"stream":"KV_LLM_CTL","seq":9999999}',
        b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"}}',
        b"no acknowledgement",
    ],
)
async def test_no_forged_acknowledgement_reaches_a_lone_replica(
    tenancy: Tenancy, acme: SidecarClient, globex: RawTenant, ack: bytes
) -> None:
    for _ in range(ROUNDS):
        await asyncio.gather(forge(globex, ack), ask(tenancy, acme))
    await ask(tenancy, acme)
    assert tenancy.sidecar.is_running, tenancy.sidecar.log[-2000:]
    assert misdelivered(tenancy) == 0
    assert "Traceback" not in tenancy.sidecar.log


async def test_no_acknowledgement_of_a_foreign_request_misleads_a_client(
    tenancy: Tenancy, acme: SidecarClient, globex: RawTenant
) -> None:
    """Users of one account can aim them at each other's events; accounts cannot."""
    job = await acme.submit("[[tokens=4000 tps=100]] take your time", stream=True)
    pieces = job.text()
    await anext(pieces)
    for last in (b"status", b"delta", b"result", b"x\x0b1", b"\xff", b"\xed\xa0\x80"):
        aimed = b"llm.v1.job.acme.%b.%b" % (job.id.encode(), last)
        for _ in range(20):
            globex.publish(b"llm.v1.request.globex.standard", b"{}", reply=aimed)
        await globex.flush()
    await anext(pieces)
    await job.cancel()
    with pytest.raises(JobCancelled):
        async for _ in pieces:
            pass
    assert (await job.result(timeout_s=WAIT_S)).state == "cancelled"
    if tenancy.mode == "users":
        assert acme.bus.misdelivered > 0


async def test_bytes_by_chance_hurt_nobody_else(tenancy: Tenancy, acme: SidecarClient, globex: RawTenant) -> None:
    print(f"SIDECAR_FUZZ_SEED={SEED}")
    calls: list[str] = []

    @tool
    def search(q: str) -> str:
        """Search."""
        calls.append(q)
        return f"found {q}"

    hostile = Hostile("globex", SEED)
    globex.subscribe(b"_INBOX_globex.>", b"1")
    asked: list[str] = []
    async with acme.provide([search]):
        for number in range(CASES):
            one = hostile.next()
            globex.publish(one.subject, one.payload, reply=one.reply, header=one.header)
            if number % (CASES // 8) == 0:
                await globex.flush()
                asked.append(uuid.uuid4().hex)
                prompt = f'[[tool=search input={{"q":"{asked[-1]}"}}]] look'
                await ask(tenancy, acme, prompt, tools=["search"], model="claude-sonnet-4-5")
        await globex.flush()
    assert sorted(calls) == sorted(asked)
    assert acme.bus.misdelivered == 0
    assert misdelivered(tenancy) == 0
    assert "Traceback" not in tenancy.sidecar.log
    assert "protocol" not in tenancy.sidecar.log.lower()
    # Nor is its own queue stopped by what lies in it.
    async with connected(tenancy, "globex") as own:
        for job_class in ("standard", "interactive"):
            data = await own.run(asks(QUICK), job=uuid.uuid4().hex, job_class=job_class)
            assert data["state"] == "succeeded"
