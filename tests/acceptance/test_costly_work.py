"""Schemas, texts and documents made to take long, on real processes: each ends its own job, and nobody waits."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.aio.msg import Msg

from tests.support.emulator import EmulatorProcess
from tests.support.fleet_processes import Fleet
from tests.support.nats_server import Access
from tests.support.process import SidecarProcess
from tests.support.stranger import Stranger, asks, check_story, stranger

pytestmark = pytest.mark.nats

BOUND_S = 3.0
QUICK = "[[tokens=3]] quick"
ROUNDS = 2
PATIENCE_S = 300.0
# A model that reads prompts as long as a message of the bus.
LONG = "nova-premier"

# 181 bytes of JSON or fewer: two ways into one and the same property, and a value that fits neither in the end.
TWICE = {
    "$defs": {"a": {"anyOf": [{"properties": {"a": {"$ref": "#/$defs/a"}}, "type": "object"}] * 2}},
    "$ref": "#/$defs/a",
}
WIDE = {"type": "array", "items": {"anyOf": [{"const": n} for n in range(3_000)]}}
PATTERNS = {"type": "object", "patternProperties": {f"^a{n}$": {"type": "integer"} for n in range(1_500)}}
EXPRESSION = {
    "$defs": {
        "e": {
            "anyOf": [
                {"type": "number"},
                {"type": "object", "properties": {"l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}}},
                {"type": "object", "properties": {"l": {"$ref": "#/$defs/e"}}, "required": ["l"]},
            ]
        }
    },
    "$ref": "#/$defs/e",
}
ANY = {"type": "object"}


def nested(depth: int, end: Any = 1) -> str:
    return '{"a":' * depth + json.dumps(end) + "}" * depth


def tree(depth: int) -> Any:
    return 1 if depth == 0 else {"l": tree(depth - 1), "r": tree(depth - 1)}


def answers(value: Any, **more: Any) -> dict[str, Any]:
    """A request whose answer is `value`: schemas that contain themselves are asked for by a tool."""
    given = json.dumps({"value": value})
    return asks(f"[[tool=structured_output input={given}]] go on", budget={"max_turns": 1}, **more)


def calls(tool: str, *, given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A request whose model calls a tool."""
    return asks(f"[[tool={tool} input={json.dumps(given or {})}]] go on", tools=[tool], **more)


def groups(size: int) -> str:
    """Numbers in groups, as the filter `pii` has most to do with."""
    chance = random.Random(3)
    return " ".join(str(chance.randrange(10_000)) for _ in range(size // 5))[:size]


class Expected(NamedTuple):
    """How a job ends: its state, the code of its error, and a word of its message."""

    state: str
    code: str | None = None
    says: str = ""


async def provide(client: Stranger, name: str, reply: bytes, output_schema: Any) -> None:
    """A tool of the client's tenant that always gives `reply`."""

    async def answer(message: Msg) -> None:
        await message.respond(reply)

    await client.connection.subscribe(f"llm.v1.call.{client.tenant}.{name}.1_0_0", queue="tool", cb=answer)
    registration = {"name": name, "version": "1.0.0", "description": "gives", "input_schema": ANY}
    registered = await client.answer(
        "tools", client.tenant, "register", payload={**registration, "output_schema": output_schema}
    )
    assert registered["subject"]


Attack = Callable[[Stranger], Awaitable[tuple[dict[str, Any], Expected]]]


async def deep_answer(by: Stranger) -> tuple[dict[str, Any], Expected]:
    return answers(json.loads(nested(30)), output={"schema": TWICE}), Expected("failed", "output_invalid")


async def deep_expression(by: Stranger) -> tuple[dict[str, Any], Expected]:
    """A legal recursive schema, and an answer that fits it: allowed, and held against it in time."""
    request = answers(tree(9), output={"schema": EXPRESSION})
    return request, Expected("succeeded")


async def wide_output(by: Stranger) -> tuple[dict[str, Any], Expected]:
    await provide(by, "wide", b"[" + b"2999," * 149_999 + b"-1]", WIDE)
    return calls("wide"), Expected("succeeded")


async def many_patterns(by: Stranger) -> tuple[dict[str, Any], Expected]:
    reply = json.dumps({f"k{n}": 1 for n in range(60_000)}).encode()
    await provide(by, "patterns", reply, PATTERNS)
    return calls("patterns"), Expected("succeeded")


async def deep_output(by: Stranger) -> tuple[dict[str, Any], Expected]:
    await provide(by, "deep", b"[" * 100_000, ANY)
    return calls("deep"), Expected("succeeded", None, "JSON")


async def long_prompt(by: Stranger) -> tuple[dict[str, Any], Expected]:
    return asks(QUICK + " plain words " * 60_000, filters=["pii"], model=LONG), Expected("succeeded")


async def long_numbers(by: Stranger) -> tuple[dict[str, Any], Expected]:
    """Either it is filtered in time, and may have what is blocked, or the job says that it was not."""
    codes = "invalid_request|guardrail_blocked"
    return asks(QUICK + groups(900_000), filters=["pii", "never"], model=LONG), Expected("any", codes)


async def dear_numbers(by: Stranger) -> tuple[dict[str, Any], Expected]:
    schema = b'{"enum":[1' + b",1e308" * 150_000 + b"]}"
    payload = json.dumps(asks(QUICK)).encode()[:-1] + b',"output":{"schema":' + schema + b"}}"
    return payload, Expected("rejected", "invalid_request", "exponents")  # type: ignore[return-value]


async def deep_request(by: Stranger) -> tuple[dict[str, Any], Expected]:
    payload = json.dumps(asks(QUICK)).encode()[:-1] + b',"metadata":' + b"[" * 500_000
    return payload, Expected("rejected", "invalid_request")  # type: ignore[return-value]


async def dear_schema(by: Stranger) -> tuple[dict[str, Any], Expected]:
    """Twenty thousand references, each to the next: they take long to make ready."""
    chain: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(18_000)}
    schema = {"$defs": {**chain, "d18000": {}}, "$ref": "#/$defs/d0"}
    return answers(1, output={"schema": schema}), Expected("any", "invalid_request", "")


ATTACKS: tuple[Attack, ...] = (
    deep_answer,
    deep_expression,
    wide_output,
    many_patterns,
    deep_output,
    long_prompt,
    long_numbers,
    dear_numbers,
    deep_request,
    dear_schema,
)


@asynccontextmanager
async def replicas(nats_url: str, bedrock: EmulatorProcess, count: int) -> AsyncIterator[Fleet]:
    filters = {
        "pii": {"kind": "pii", "options": {"on": ["input"]}},
        "never": {
            "kind": "pii",
            "action": "block",
            "options": {"on": ["input"], "kinds": ["iban", "national_id"]},
        },
    }
    work = {"time_limit_s": 2.0}
    plenty = {LONG: {"tokens_per_minute": 10**9, "requests_per_minute": 10**7}}
    with Fleet(
        nats_url, bedrock.url, short_leases=False, filters=filters, bounded_work=work, models=plenty
    ) as fleet:
        await fleet.start(count)
        yield fleet


async def attacked(url: str, attack: Attack, number: int) -> None:
    """A tenant of its own does its worst, `ROUNDS` times; each job ends once, and as it should."""
    async with stranger(url, f"mallory{number}") as by:
        request, expected = await attack(by)
        for n in range(ROUNDS):
            job = f"{attack.__name__}{n}"
            feed = await by.submit(request, job=job)
            # Attackers may wait for each other, and on a busy machine for its processor.
            result = (await feed.result(limit_s=PATIENCE_S))["data"]
            told = json.dumps(result)
            assert expected.state in ("any", result["state"]), told[:1_000]
            if result["state"] != "succeeded":
                assert result["error"]["code"] in (expected.code or "").split("|"), told[:1_000]
                assert expected.says in result["error"]["message"], told[:1_000]
            check_story(await by.replay(job))


async def answered_s(client: Stranger) -> float:
    began = time.monotonic()
    reply = await client.answer("ask", client.tenant, "interactive", payload=asks(QUICK))
    assert reply["state"] == "succeeded"
    return time.monotonic() - began


def metric(process: SidecarProcess, name: str) -> float:
    """The sum of a metric's samples."""
    connection = HTTPConnection("127.0.0.1", process.admin_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " ")))


@pytest.mark.parametrize("count", [1, 2])
async def test_costly_work_ends_its_own_job_and_nobody_else_waits(
    count: int, nats_access: Access, bedrock: EmulatorProcess
) -> None:
    url = nats_access.url
    async with replicas(url, bedrock, count) as fleet, stranger(url, "globex") as globex:
        assert await answered_s(globex) < BOUND_S
        attacks = [asyncio.create_task(attacked(url, attack, n)) for n, attack in enumerate(ATTACKS)]
        waits = []
        while not all(task.done() for task in attacks):
            waits.append(await answered_s(globex))
            await asyncio.sleep(0.05)
        await asyncio.gather(*attacks)
        assert max(waits) < BOUND_S, sorted(waits)[-5:]
        done = sum([metric(process, "sidecar_bounded_work_total") for process in fleet.running])
        killed = sum([metric(process, "sidecar_bounded_work_killed_total") for process in fleet.running])
        assert done > 0
        assert killed > 0
        assert all(process.is_running for process in fleet.running)
        for process in fleet.running:
            assert metric(process, "sidecar_bounded_work_queued") == 0


async def test_a_tool_version_that_cannot_be_compared_in_time_is_refused(
    nats_access: Access, bedrock: EmulatorProcess
) -> None:
    url = nats_access.url
    async with replicas(url, bedrock, 1), stranger(url, "mallory") as by:
        branches = [{"properties": {f"p{n}": {"enum": list(range(n, n + 40))}}} for n in range(40)]
        for version, extra in (("1.0.0", 0), ("1.1.0", 1)):
            schema = {**ANY, "anyOf": branches, "maxProperties": 100 + extra}
            registration = {"name": "t", "version": version, "description": "d", "input_schema": schema}
            reply = await by.ask("tools", by.tenant, "register", payload=registration)
            code = (reply.headers or {}).get("Nats-Service-Error-Code")
            assert code in (None, "400"), reply.data
        deep = {"name": "d", "version": "1.0.0", "description": "d", "input_schema": ANY}
        payload = (
            json.dumps(deep).encode()[:-1] + b',"output_schema":' + b'{"not":' * 50_000 + b"{}" + b"}" * 50_001
        )
        reply = await by.ask("tools", by.tenant, "register", payload=payload)
        assert (reply.headers or {})["Nats-Service-Error-Code"] in ("400", "413")


async def test_no_worker_outlives_the_sidecar(nats_access: Access, bedrock: EmulatorProcess) -> None:
    """Ended by SIGTERM and by SIGKILL, with a worker idle."""
    url = nats_access.url
    for how in ("term", "kill"):
        async with replicas(url, bedrock, 1) as fleet, stranger(url, "acme") as acme:
            process = fleet.running[0]
            assert not children(process.pid)
            request, _ = await long_prompt(acme)
            result = await acme.run(request, job=how)
            assert result["state"] == "succeeded", result["error"]
            workers = children(process.pid)
            assert workers
            if how == "term":
                assert await fleet.stop(process) == 0
            else:
                fleet.kill(process)
            async with asyncio.timeout(30):
                while any(is_alive(pid) for pid in workers):  # noqa: ASYNC110 - nobody tells of another's child
                    await asyncio.sleep(0.02)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
