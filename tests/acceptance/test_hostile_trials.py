"""One tenant does what it should not, within its permissions, against running replicas. Each trial asserts:
another tenant's plain job is answered within 3 s all the while, every job ends in one result, no slot is lost, no
process ends. SIDECAR_HEAVY_TRIALS=1 adds the floods.
"""

import asyncio
import itertools
import json
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import nats
import pytest
from nats.aio.msg import Msg

from sidecar import SidecarClient, tool
from sidecar.adapters.nats.embedded import NatsServer
from tests.support.emulator import EmulatorProcess, spawn_emulator
from tests.support.hostile_shapes import (
    HEADERS,
    HTTP,
    POLICIES,
    REPLIES,
    REQUESTS,
    SCHEMAS,
    STATUS_LINES,
    TOOL_REPLIES,
)
from tests.support.nats_server import running
from tests.support.process import SidecarProcess
from tests.support.raw_tenant import raw_tenant
from tests.support.stranger import TERMINAL, Stranger, asks, check_story
from tests.support.tenancy import Intruder, Tenancy, configured, connected

HEAVY = bool(os.environ.get("SIDECAR_HEAVY_TRIALS"))
BOUND_S = 3.0
LIMIT_S = 60.0
SLOTS = 4
PLAIN = json.dumps(asks("[[tokens=3]] hi")).encode()
NUMBERS = itertools.count(1)


class House(NamedTuple):
    tenancy: Tenancy
    replicas: Sequence[SidecarProcess]
    emulator: EmulatorProcess


@pytest.fixture(scope="module", params=[("users", 2), ("accounts", 1)], ids=["users-two", "accounts-one"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    mode, count = request.param
    with running(NatsServer(config=configured(mode))) as server, ExitStack() as stack:
        emulator = stack.enter_context(spawn_emulator())
        url = server.url.replace("nats://", "nats://sidecar:p@")
        replicas = [
            stack.enter_context(SidecarProcess(url, emulator.url, short_leases=False, scheduler={"slots": SLOTS}))
            for _ in range(count)
        ]
        for replica in replicas:
            replica.wait_ready()
        yield House(Tenancy(mode, server.url, replicas[0]), replicas, emulator)


class Neighbour(threading.Thread):
    """Another tenant that asks for plain jobs, in a thread of its own: the attack's work here is not its."""

    def __init__(self, tenancy: Tenancy) -> None:
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self.wrong: list[object] = []
        self._url = tenancy.url("globex")
        self._over = threading.Event()

    def run(self) -> None:
        asyncio.run(self._ask())

    async def _ask(self) -> None:
        connection = await nats.connect(self._url, inbox_prefix=b"_INBOX_globex")
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                reply = await connection.request("llm.v1.ask.globex.interactive", PLAIN, timeout=LIMIT_S)
                if json.loads(reply.data).get("state") != "succeeded":
                    self.wrong.append(reply.data)
            except Exception as e:  # noqa: BLE001 - whatever it is, it is wrong
                self.wrong.append(e)
            self.waits.append(time.monotonic() - begun)
            await asyncio.sleep(0.1)
        await connection.close()

    def end(self) -> None:
        self._over.set()
        self.join(LIMIT_S)


@asynccontextmanager
async def attacked(house: House) -> AsyncIterator[Intruder]:
    """The hostile tenant's connection; the promises are held against what became of everybody else."""
    neighbour = Neighbour(house.tenancy)
    neighbour.start()
    try:
        async with connected(house.tenancy, "acme") as acme:
            yield acme
            await settled(acme)
    finally:
        neighbour.end()
    assert not neighbour.wrong
    assert neighbour.waits
    assert max(neighbour.waits) < BOUND_S
    for replica in house.replicas:
        assert replica.is_running, replica.log[-2000:]
        status, page = await asyncio.to_thread(replica.get, "/readyz")
        assert (status, page["status"]) == (200, "ready"), page
    await all_slots_work(house)


async def settled(tenant: Stranger) -> None:
    """Wait until none of a tenant's newest thousand jobs is under way."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            reply = await tenant.ask("jobs", tenant.tenant, payload={"limit": 1000})
            listed = json.loads(reply.data).get("jobs")
            if listed is not None and all(entry["state"] in TERMINAL for entry in listed):
                break
            await asyncio.sleep(0.2)


async def all_slots_work(house: House) -> None:
    """As many calls at once as there are slots; one slot of each replica is interactive's."""
    async with connected(house.tenancy, "globex") as globex:
        jobs = [f"slot{next(NUMBERS)}" for _ in range(SLOTS * len(house.replicas))]
        for i, job in enumerate(jobs):
            job_class = "interactive" if i < len(house.replicas) else "standard"
            await globex.publish(asks("[[latency_ms=30000]] hold"), job=job, job_class=job_class)
        async with asyncio.timeout(LIMIT_S):
            while house.emulator.control("GET", "counters")["active"] < len(jobs):  # noqa: ASYNC110 - a page
                await asyncio.sleep(0.05)
        for job in jobs:
            await globex.answer("cancel", "globex", job)
        await settled(globex)


async def ended(tenant: Stranger, job: str) -> dict[str, Any]:
    """The state document of a job, once it is final."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            document: dict[str, Any] = json.loads((await tenant.ask("get", tenant.tenant, job)).data)
            if document.get("state") in TERMINAL:
                return document
            await asyncio.sleep(0.1)


async def ended_once(tenant: Stranger, jobs: Sequence[str]) -> list[dict[str, Any]]:
    """The state documents of jobs, each with a whole story of one result."""
    documents = [await ended(tenant, job) for job in jobs]
    for job, document in zip(jobs, documents, strict=True):
        assert check_story(await tenant.replay(job)) == document["result"], job
    return documents


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n"


async def test_headers_of_every_kind_leave_each_job_one_result(house: House) -> None:
    """Names that servers and replicas use, twice, odd, huge; and first lines that mean something in an answer."""
    jobs = {f"head{next(NUMBERS)}": pair for pair in itertools.product(STATUS_LINES, HEADERS)}
    async with attacked(house) as acme, raw_tenant(house.tenancy.url("acme"), "acme") as raw:
        for job, (line, field) in jobs.items():
            raw.publish(
                b"llm.v1.request.acme.standard", PLAIN, header=head(line, b"Llm-Job-Id: " + job.encode(), field)
            )
        await raw.flush()
        documents = await ended_once(acme, list(jobs))
        assert {document["state"] for document in documents} == {"succeeded"}


async def test_odd_replies_and_long_lines_hurt_nobody(house: House) -> None:
    """Wildcards, empty tokens, others' inboxes, and replies as long as the server's line allows.

    Not tried between accounts: wildcards, with which nats-server 2.15.1 loses other replies to the same account.
    """
    verbs = [b"jobs.acme", b"get.acme.x", b"replay.acme.x", b"tools.acme.list", b"ask.acme.standard"]
    async with attacked(house), raw_tenant(house.tenancy.url("acme"), "acme") as raw:
        wild = () if house.tenancy.mode == "users" else (b"*", b">")
        replies = [reply for reply in REPLIES if not reply.endswith(wild)]
        for verb, reply in itertools.product(verbs, replies):
            raw.publish(b"llm.v1." + verb, PLAIN if verb.startswith(b"ask") else b"", reply=reply)
        await raw.flush()


async def _settle_costs(acme: Stranger, name: str, schema: Any, instance: bytes) -> list[bytes]:
    """Have one schema checked at every place that takes one; what was answered."""
    tools = {f"out_{name}": {"type": "object"}, f"in_{name}": schema}
    definition = {"description": "x", "ttl_s": 600, "version": "1.0.0"}
    for tool_name, given in tools.items():
        output = {"output_schema": schema} if tool_name.startswith("out") else {}
        body = {**definition, **output, "name": tool_name, "input_schema": given}
        await acme.ask("tools", "acme", "register", payload=body)
    changed = {**schema, "title": "another"}
    body = {**definition, "version": "1.1.0", "name": f"in_{name}", "input_schema": changed}
    called = f"[[tool=in_{name} input={instance.decode()}]] x"
    text = f"[[text={json.dumps(instance.decode())}]] x"
    asked = [
        acme.ask("tools", "acme", "register", payload=body),
        acme.ask("ask", "acme", "standard", payload=asks(text, output={"schema": schema})),
        acme.ask("ask", "acme", "standard", payload=asks(called, tools=[f"in_{name}"])),
        acme.ask("ask", "acme", "standard", payload=asks(f"[[tool=out_{name}]] x", tools=[f"out_{name}"])),
    ]
    return [reply.data for reply in await asyncio.gather(*asked)]


async def test_schemas_of_every_shape_cost_nobody_else(house: House) -> None:
    async with attacked(house) as acme:

        async def provide(message: Msg) -> None:
            if message.reply:
                name = message.subject.split(".")[4].partition("_")[2]
                await message.respond(SCHEMAS[name][1])

        await acme.connection.subscribe("llm.v1.call.acme.*.*", queue="tool", cb=provide)
        for name, (schema, instance) in SCHEMAS.items():
            for answer in await _settle_costs(acme, name, schema, instance):
                body = json.loads(answer)
                assert (body.get("error") or {}).get("code") != "internal", (name, answer)


async def test_requests_of_every_shape_are_answered(house: House) -> None:
    async with attacked(house) as acme:
        for request in REQUESTS:
            answer = json.loads((await acme.ask("ask", "acme", "standard", payload=request)).data)
            assert "state" in answer or answer["error"]["code"] == "invalid_request", (request[:80], answer)


async def test_whatever_a_tool_replies_its_job_ends_once(house: House) -> None:
    chance = random.Random(5)
    tool_of = {"description": "x", "input_schema": {"type": "object"}, "output_schema": {"type": "object"}}
    async with attacked(house) as acme, raw_tenant(house.tenancy.url("acme"), "acme") as raw:

        async def provide(message: Msg) -> None:
            for _ in range(chance.choice([1, 1, 2, 100]) if message.reply else 0):
                line, field, payload = (chance.choice(kind) for kind in TOOL_REPLIES)
                raw.publish(message.reply.encode(), payload, header=head(line, field))

        await acme.connection.subscribe("llm.v1.call.acme.odd.1_0_0", queue="tool", cb=provide)
        body = {"name": "odd", "version": "1.0.0", "ttl_s": 600, "timeout_s": 1, "idempotent": True, **tool_of}
        await acme.ask("tools", "acme", "register", payload=body)
        jobs = [f"tool{next(NUMBERS)}" for _ in range(60)]
        for i, job in enumerate(jobs):
            await acme.publish(asks("[[tool=odd]] x", tools=["odd"], stream=bool(i % 2), timeout_s=20), job=job)
        await ended_once(acme, jobs)


async def test_a_cancel_that_races_the_end_tells_the_truth(house: House) -> None:
    chance = random.Random(7)

    async def race(acme: Stranger, job: str) -> list[dict[str, Any]]:
        delay = chance.choice([0, 0, 5, 20, 50])
        await acme.publish(asks(f"[[latency_ms={delay} tokens=3]] x", stream=chance.random() < 0.5), job=job)
        await asyncio.sleep(chance.random() * 0.1)
        return [json.loads((await acme.ask("cancel", "acme", job)).data) for _ in range(2)]

    async with attacked(house) as acme:
        jobs = [f"race{next(NUMBERS)}" for _ in range(80)]
        replies = [
            r for i in range(0, 80, 10) for r in await asyncio.gather(*[race(acme, j) for j in jobs[i : i + 10]])
        ]
        documents = await ended_once(acme, jobs)
        for said, document in zip(replies, documents, strict=True):
            assert not any(s["cancelled"] for s in said) or document["state"] == "cancelled", (said, document)


@pytest.mark.skipif(not HEAVY, reason="SIDECAR_HEAVY_TRIALS is not set")
async def test_floods_and_callers_that_do_not_read(house: House) -> None:
    long = asks("[[tokens=20000]] x", params={"max_tokens": 30000}, stream=True)
    async with attacked(house) as acme:
        job = f"long{next(NUMBERS)}"
        await acme.run(long, job=job)
        async with unread(house.tenancy.url("acme")) as writer:
            for i in range(300):
                writer.writelines(_flood(job.encode(), i))
                await writer.drain()
            # For so long the answers find nobody who takes them.
            await asyncio.sleep(2)


@asynccontextmanager
async def unread(url: str) -> AsyncIterator[asyncio.StreamWriter]:
    """A connection that subscribes to its answers and reads none."""
    at = urlsplit(url)
    _, writer = await asyncio.open_connection(at.hostname, at.port, limit=1024)
    options = {"user": at.username, "pass": at.password, "headers": True, "verbose": False}
    writer.write(b"CONNECT %b\r\nSUB _INBOX_acme.> 1\r\n" % json.dumps(options).encode())
    try:
        yield writer
    finally:
        writer.close()


def _flood(job: bytes, i: int) -> Iterator[bytes]:
    schema = {"type": "object", "properties": {"a": {"enum": list(range(i, i + 200))}}}
    piece = json.dumps({"name": f"o{i}", "upload": f"u{i}", "part": 0, "bytes": "QUFB" * 2000}).encode()
    ask = json.dumps(asks("x", output={"schema": schema})).encode()
    for verb, payload in (
        (b"replay.acme." + job, b""),
        (b"get.acme." + job, b""),
        (b"jobs.acme", b'{"limit":1000}'),
        (b"cancel.acme.new%d" % i, b""),
        (b"objects.acme.put", piece),
        (b"request.acme.c%d" % i, b"x"),
        *([(b"ask.acme.batch", ask)] if i % 5 == 0 else []),
    ):
        yield b"PUB llm.v1.%b _INBOX_acme.unread %d\r\n%b\r\n" % (verb, len(payload), payload)


@tool(version="1.0.0")
async def pay(seq: int = 0, stream: str = "") -> dict[str, int]:
    """Pay."""
    return {"paid": seq + 1000}


async def test_refusals_aimed_as_acknowledgements_are_believed_by_nobody(house: House) -> None:
    """JetStream's refusal of a publish has another form than its acknowledgement; both go where replies point."""
    if house.tenancy.mode != "users":
        pytest.skip("between accounts nothing can be aimed")
    refusal = head(b"NATS/1.0", b"Nats-Expected-Stream: X")
    async with attacked(house) as acme, connected(house.tenancy, "globex") as globex:
        ended, under_way = f"ended{next(NUMBERS)}", [f"aimed{next(NUMBERS)}" for _ in range(6)]
        before = await globex.run(asks("[[tokens=3]] x"), job=ended)
        for job in under_way:
            await globex.publish(asks("[[tokens=40 tps=20]] x", stream=True), job=job)
        client = await SidecarClient.connect(house.tenancy.url("globex"), tenant="globex")
        async with client, client.provide([pay]), raw_tenant(house.tenancy.url("acme"), "acme") as raw:
            for _, subject in itertools.product(range(12), aims([ended, *under_way])):
                raw.publish(b"llm.v1.request.acme.batch", b"x", reply=subject, header=refusal)
                raw.publish(b"llm.v1.request.acme.batch", b"x", reply=subject)
            await raw.flush()
            paid = await client.ask(asks('[[tool=pay input={"seq":1}]] x', tools=["pay"]))
        assert "1001" in paid.text
        for document in await ended_once(globex, [ended, *under_way]):
            assert document["state"] == "succeeded"
        assert (await globex.answer("get", "globex", ended))["result"] == before
        await settled(acme)


def aims(jobs: Sequence[str]) -> list[bytes]:
    """Subjects of everything that is kept, heard or asked of another tenant's jobs."""
    of_job = [
        "$KV.LLM_JOB.{}",
        "$KV.LLM_JOB.{}.journal",
        "$KV.LLM_CANCEL.{}",
        "llm.v1.dead.{}",
        "llm.v1.cancel.{}",
    ]
    of_job += [f"llm.v1.{kind}.{{}}.{type_}" for kind in ("log", "job") for type_ in ("status", "delta", "result")]
    common = [
        "$KV.LLM_CTL.lease.scheduler",
        "$KV.LLM_CTL.checkpoint.scheduler",
        "$KV.LLM_CONFIG.policy",
        "$SRV.INFO",
    ]
    common += ["$KV.LLM_PROMPT.shared.x.9", "$KV.LLM_TOOL.globex.pay.9_0_0", "llm.v1.request.globex.batch"]
    common += ["llm.v1.tools.globex.register", "llm.v1.tools.globex.deregister", "llm.v1.ask.globex.interactive"]
    common += ["llm.v1.call.globex.pay.1_0_0", "llm.v1.call.globex.pay.1_0_0.cancel", "llm.v1.objects.globex.put"]
    common += [f"llm.v1.sys.{verb}" for verb in ("heartbeat", "rollcall", "released", "stats", "present", "grant")]
    return [s.encode() for s in common] + [s.format(f"globex.{job}").encode() for job in jobs for s in of_job]


async def _speak(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(LIMIT_S):
            return await reader.readline()
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


async def test_hostile_http_at_the_admin_port_drains_nothing(house: House) -> None:
    async with attacked(house):
        port = house.replicas[0].admin_port
        for first, sent in zip(await asyncio.gather(*[_speak(port, s) for s in HTTP]), HTTP, strict=True):
            assert b"/drain" not in sent or b" 200 " not in first, (sent[:200], first)


async def test_odd_policies_end_nothing(house: House) -> None:
    operator = await nats.connect(house.tenancy.url("sidecar"), inbox_prefix=b"_INBOX.operator")
    bucket = await operator.jetstream().key_value("LLM_CONFIG")
    async with attacked(house) as acme:
        for policy in POLICIES:
            await bucket.put("policy", policy)
            assert (await acme.run(asks("[[tokens=3]] x"), job=f"policy{next(NUMBERS)}"))["state"] == "succeeded"
        await bucket.put("policy", b"[tenants.acme]\nweight = 1\n")
        async with asyncio.timeout(LIMIT_S):
            for replica in house.replicas:
                while "config" in (await asyncio.to_thread(replica.get, "/info"))[1]["degraded"]:  # noqa: ASYNC110 - a page
                    await asyncio.sleep(0.1)
    await operator.close()
