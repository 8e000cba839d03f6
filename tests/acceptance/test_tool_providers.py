"""Providers of tools with a sidecar that runs as a process: listed, alive after restarts; the examples."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from sidecar import SidecarClient, ToolContext, tool
from sidecar.client import continue_with, run_calls
from sidecar.errors import InvalidRequest
from sidecar.models.base import epoch
from sidecar.models.content import ToolResultBlock
from sidecar.models.event import ToolActivity
from tests.acceptance.conftest import World
from tests.support.demo import Demo
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import MODEL, ROOT, clean_environment, spawn_sidecar

WAIT_S = 60.0
SHORTEST_TTL_S = 5
_MODULE = ROOT / "examples" / "node_modules" / "@nats-io" / "transport-node"


@tool(version="1.0.0", ttl_s=SHORTEST_TTL_S)
async def add(left: int, right: int = 1) -> int:
    """Add two numbers."""
    return left + right


@tool(name="add", version="1.0.0")
async def other_add(left: str) -> str:
    """Add something else."""
    return left


async def tools_of(client: SidecarClient) -> dict[str, Any]:
    """What the registry lists for the client's tenant, by name and version."""
    reply = await client.bus.request(
        client.subjects.endpoint("tools", client.tenant, "list"), b"", timeout_s=WAIT_S
    )
    return {f"{one['name']}@{one['version']}": one for one in json.loads(reply.data)["tools"]}


async def eventually(condition: Callable[[dict[str, Any]], bool], client: SidecarClient) -> dict[str, Any]:
    """The list of tools once it is as wanted; asked again while the bus or the sidecar is away."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                tools = await tools_of(client)
            except Exception as e:  # noqa: BLE001
                tools = {"error": repr(e)}
            if condition(tools):
                return tools
            await asyncio.sleep(0.1)


async def connect(url: str, tenant: str) -> SidecarClient:
    return await SidecarClient.connect(url, tenant=tenant, connect_timeout_s=WAIT_S, request_timeout_s=5)


async def test_a_provider_is_listed_while_it_lives(world: World) -> None:
    tenant = f"t{uuid.uuid4().hex[:12]}"
    async with await connect(world.nats_url, tenant) as client:
        async with client.provide([add]) as provider:
            await provider.wait_registered(timeout_s=WAIT_S)
            listed = (await tools_of(client))["add@1.0.0"]
            assert listed["scope"] == tenant
            assert listed["input_schema"] == add.registration.input_schema
            assert listed["output_schema"] == {"type": "integer"}
            answer = await client.bus.request(listed["subject"], b'{"left": 2}', timeout_s=WAIT_S)
            assert json.loads(answer.data) == 3
        assert "add@1.0.0" not in await tools_of(client)
        with pytest.raises(InvalidRequest) as caught:
            await client.provide([other_add]).start()
        assert caught.value.path == "description"


async def test_jobs_call_registered_tools_and_inline_ones(world: World) -> None:
    @tool
    def city(name: str) -> str:
        """A city."""
        return name.upper()

    call = '[[tool=add input={"left":2}]] [[tool=city input={"name":"Rome"}]] [[tool=add input={"left":5}]]'
    tenant = f"t{uuid.uuid4().hex[:12]}"
    async with await connect(world.nats_url, tenant) as client, client.provide([add]) as provider:
        await provider.wait_registered(timeout_s=WAIT_S)
        job = await client.submit(f"{call[:30]} How many?", tools=["add@^1"], model=MODEL)
        said = [event.data async for event in job.events() if isinstance(event.data, ToolActivity)]
        assert [(one.phase, one.tool, one.version) for one in said] == [
            ("called", "add", "1.0.0"),
            ("returned", "add", "1.0.0"),
        ]
        assert said[1].output == 3
        assert (await job.result()).raise_for_state().stop_reason == "end_turn"
        request = {
            "messages": [{"role": "user", "content": f"{call} Where?"}],
            "tools": ["add", city.inline()],
            "model": MODEL,
        }
        result = await client.ask(request, wait_s=WAIT_S)
        assert result.raise_for_state().stop_reason == "tool_use"
        assert [one.name for one in result.tool_calls] == ["city"]
        following = continue_with(request, result, await run_calls(result.tool_calls, [city]))
        assert following.messages is not None
        results = [block for block in following.messages[-1].content if isinstance(block, ToolResultBlock)]
        assert [block.content for block in results] == ["3", "ROME", "6"]
        last = await client.ask(following, wait_s=WAIT_S)
        assert last.raise_for_state().stop_reason == "end_turn"


async def test_a_cancelled_job_is_told_to_the_function(world: World) -> None:
    begun, told = asyncio.Event(), asyncio.Event()

    @tool
    async def hang(context: ToolContext) -> None:
        """Hang."""
        assert context.job_id == job.id
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert context.is_cancelled
            told.set()

    tenant = f"t{uuid.uuid4().hex[:12]}"
    async with await connect(world.nats_url, tenant) as client, client.provide([hang]) as provider:
        await provider.wait_registered(timeout_s=WAIT_S)
        job = await client.submit("[[tool=hang input={}]] Go.", tools=["hang"], model=MODEL)
        async with asyncio.timeout(WAIT_S):
            await begun.wait()
            await job.cancel()
            await told.wait()
        assert (await job.result(timeout_s=WAIT_S)).state == "cancelled"


async def test_a_provider_outlives_restarts_of_the_server_and_of_the_sidecar(bedrock: EmulatorProcess) -> None:
    def is_renewed(after: str) -> Callable[[dict[str, Any]], bool]:
        return lambda tools: "add@1.0.0" in tools and epoch(tools["add@1.0.0"]["expires"]) > epoch(after)

    with running(make_server()) as server, spawn_sidecar(server.url, bedrock.url) as first:
        async with await connect(server.url, "acme") as client, client.provide([add]) as provider:
            await provider.wait_registered(timeout_s=WAIT_S)
            tools = await tools_of(client)
            await asyncio.to_thread(server.restart)
            tools = await eventually(is_renewed(tools["add@1.0.0"]["expires"]), client)
            first.kill()
            with spawn_sidecar(server.url, bedrock.url):
                tools = await eventually(is_renewed(tools["add@1.0.0"]["expires"]), client)
                assert provider.is_registered
                answer = await client.bus.request(tools["add@1.0.0"]["subject"], b'{"left": 4}', timeout_s=WAIT_S)
                assert json.loads(answer.data) == 5
                await provider.stop()
                assert "add@1.0.0" not in await tools_of(client)


@contextmanager
def started(*command: str, log: Path, nats_url: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean_environment(), "NATS_URL": nats_url, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def end(process: "subprocess.Popen[bytes]") -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(WAIT_S)


async def test_the_python_example_provides_its_tools(demo: Demo, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with await connect(demo.nats, "acme") as client:
        with started(sys.executable, "examples/tool_provider.py", log=log, nats_url=demo.nats) as process:
            tools = await eventually(lambda found: {"word_count@1.0.0", "wait@1.0.0"} <= found.keys(), client)
            subject = tools["word_count@1.0.0"]["subject"]
            answer = await client.bus.request(subject, b'{"text": "to be or not"}', timeout_s=WAIT_S)
            assert json.loads(answer.data) == {"words": 4, "longest": "not"}
            assert await asyncio.to_thread(end, process) == 0, log.read_text()
        assert log.read_text().splitlines() == ["registered"]
        assert "wait@1.0.0" not in await tools_of(client)


async def test_the_page_on_tools_has_programs_that_run(demo: Demo, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tools.md").read_text()
    provider, inline = re.findall(r"```python\n(import asyncio\n.*?)```", page, re.DOTALL)
    async with await connect(demo.nats, "acme") as client:
        log, program = tmp_path / "log", tmp_path / "provider.py"
        program.write_text(provider.replace("nats://127.0.0.1:4222", demo.nats))
        with started(sys.executable, str(program), log=log, nats_url=demo.nats) as process:
            subject = (await eventually(lambda found: "search@1.0.0" in found, client))["search@1.0.0"]["subject"]
            answer = await client.bus.request(subject, b'{"query": "x"}', timeout_s=WAIT_S)
            assert json.loads(answer.data) == [{"title": "x for None", "page": 1}]
            assert await asyncio.to_thread(end, process) == 0, log.read_text()
    prompt = r"[[tool=weather input={\"city\":\"Rome\"}]] How warm?"
    program.write_text(
        inline.replace("nats://127.0.0.1:4222", demo.nats).replace("How warm is it in Rome?", prompt)
    )
    with started(sys.executable, str(program), log=log, nats_url=demo.nats) as process:
        assert await asyncio.to_thread(process.wait, WAIT_S) == 0, log.read_text()
    assert len(log.read_text().splitlines()) == 1


async def test_the_example_of_inline_tools_runs(demo: Demo, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(sys.executable, "examples/inline_tools.py", log=log, nats_url=demo.nats) as process:
        assert await asyncio.to_thread(process.wait, WAIT_S) == 0, log.read_text()
    call, answer = log.read_text().splitlines()
    assert call.endswith("(JsonBlock(value={'celsius': 14.0}),)")
    assert answer


async def test_the_javascript_example_provides_its_tool(demo: Demo, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not _MODULE.exists():
        pytest.skip("run `npm install` in examples/ for this test")
    log, tenant = tmp_path / "log", f"t{uuid.uuid4().hex[:12]}"
    async with await connect(demo.nats, tenant) as client:
        with started(
            node, "examples/tool_provider.mjs", log=log, nats_url=demo.nats, TENANT=tenant, PATH=os.environ["PATH"]
        ) as process:
            subject = (await eventually(lambda found: "reverse@1.0.0" in found, client))["reverse@1.0.0"][
                "subject"
            ]
            answer = await client.bus.request(subject, '{"text": "añb"}'.encode(), timeout_s=WAIT_S)
            assert json.loads(answer.data) == {"text": "bña"}
            await check_javascript_signs(demo.nats, tenant, subject)
            assert await asyncio.to_thread(end, process) == 0, log.read_text()
        assert "reverse@1.0.0" not in await tools_of(client)


async def check_javascript_signs(url: str, tenant: str, subject: str) -> None:
    """A long call says that it is alive, and ends when it is cancelled."""
    nc = await nats.connect(url)
    inbox = nc.new_inbox()
    replies = await nc.subscribe(inbox)
    headers = {"Llm-Tenant": tenant, "Idempotency-Key": "k"}
    await nc.publish(subject, b'{"text": "x", "delay_ms": 600000}', reply=inbox, headers=headers)
    beat = await replies.next_msg(timeout=WAIT_S)
    assert (beat.headers or {})["Llm-Tool-Progress"] == "in_progress"
    await nc.publish(f"{subject}.cancel", b"", headers=headers)
    while "Llm-Tool-Progress" in (beat.headers or {}):
        beat = await replies.next_msg(timeout=WAIT_S)
    assert (beat.headers or {})["Nats-Service-Error-Code"] == "500"
    await nc.close()
