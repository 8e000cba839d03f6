"""Answers and images larger than a message: by the client library, by nats-py's Object Store, by hand."""

import base64
import hashlib
import json
import os
import random
import uuid
from collections.abc import AsyncIterator

import nats
import pytest

from sidecar.client import SidecarClient, UnknownObject
from sidecar.errors import Permanent
from tests.acceptance.conftest import World
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import make_server, running
from tests.support.process import spawn_sidecar
from tests.support.stranger import Stranger, asks

pytestmark = pytest.mark.nats

THREE_MB = 3_000_000
HUGE = f"[[fault=huge_frame bytes={THREE_MB}]] write a book"


@pytest.fixture
async def app(world: World) -> AsyncIterator[SidecarClient]:
    tenant = f"t{uuid.uuid4().hex[:12]}"
    async with await SidecarClient.connect(world.nats_url, tenant=tenant, request_timeout_s=60) as client:
        yield client


def image_of(data: bytes) -> dict[str, object]:
    return {"type": "image", "format": "png", "source": {"bytes": base64.b64encode(data).decode()}}


def sent_images(world: World, tenant: str) -> list[bytes]:
    """The images that the model was given."""
    calls = world.emulator.control("GET", f"calls?last=5&bodies=1&tenant={tenant}")
    blocks = [block for call in calls for message in call["request"]["messages"] for block in message["content"]]
    return [base64.b64decode(block["image"]["source"]["bytes"]) for block in blocks if "image" in block]


async def test_a_client_gets_an_answer_of_three_megabytes_whole(app: SidecarClient, world: World) -> None:
    job = await app.submit(HUGE, model="claude-sonnet-4-5", stream=True, params={"max_tokens": 64_000})
    result = await job.result(timeout_s=120)
    assert result.state == "succeeded", result.error
    assert not result.partial
    assert len(result.text) >= THREE_MB
    assert hashlib.sha256(result.text.encode()).hexdigest() == result.text_sha256
    assert result.output.object is not None
    events = [event async for event in app.job(job.id).events()]
    assert "".join(getattr(event.data, "text", None) or "" for event in events[:-1]) == result.text
    assert events[-1].data.output.text == result.text  # type: ignore[union-attr]
    state = await app.get(job.id)
    assert state.result is not None
    assert state.result.output.text == result.text
    # The Object Store of any NATS library has it, too.
    connection = await nats.connect(world.nats_url)
    try:
        store = await connection.jetstream().object_store(result.output.object.bucket)
        found = await store.get(result.output.object.name)
        assert json.loads(found.data or b"")["text"] == result.text
    finally:
        await connection.close()


async def test_those_who_ask_or_read_the_document_get_the_reference(client: Stranger) -> None:
    request = asks(HUGE, stream=True, params={"max_tokens": 64_000})
    feed = await client.submit(request, job="huge")
    result = (await feed.result(limit_s=120))["data"]
    assert result["output"]["text"] == ""
    assert result["output"]["object"]["name"] == "result.huge.1"
    state = await client.answer("get", client.tenant, "huge")
    assert state["result"]["output"] == result["output"]
    reply = await client.ask("ask", client.tenant, "interactive", payload=request, headers={"Llm-Job-Id": "huge"})
    assert json.loads(reply.data)["output"] == result["output"]
    assert (await client.replay("huge"))[-1]["data"]["output"] == result["output"]


async def test_a_client_sends_an_image_of_three_megabytes(app: SidecarClient, world: World) -> None:
    data = b"\x89PNG" + random.Random(3).randbytes(THREE_MB)
    content = [{"type": "text", "text": "[[tokens=2]] what is this?"}, image_of(data)]
    result = await app.ask({"messages": [{"role": "user", "content": content}], "model": "claude-sonnet-4-5"})
    assert result.state == "succeeded", result.error
    assert sent_images(world, app.tenant) == [data]


async def test_what_any_nats_library_put_is_read(client: Stranger, world: World) -> None:
    data = b"\x89PNG" + os.urandom(300_000)
    store = await client.connection.jetstream().create_object_store(f"LLM_BLOB_{client.tenant}")
    await store.put("photo 1.png", data)
    content = [
        {"type": "text", "text": "[[tokens=2]] what is this?"},
        {"type": "image", "format": "png", "source": {"object": "photo 1.png"}},
    ]
    request = {"messages": [{"role": "user", "content": content}], "model": "claude-sonnet-4-5"}
    result = await client.run(request, job="photo")
    assert result["state"] == "succeeded", result["error"]
    assert sent_images(world, client.tenant) == [data]
    await store.delete("photo 1.png")
    gone = await client.run(request, job="gone")
    assert gone["error"]["code"] == "invalid_request"
    assert gone["error"]["details"]["path"] == "messages[0].content[1].source.object"


async def test_objects_are_put_and_got_by_name(app: SidecarClient) -> None:
    data = b"\x89PNG" + os.urandom(1_500_000)
    info = await app.put_object("report.pdf", data)
    assert (info.bucket, info.size) == (f"LLM_BLOB_{app.tenant}", len(data))
    assert await app.get_object("report.pdf") == data
    await app.put_object("report.pdf", b"short")
    assert await app.get_object("report.pdf") == b"short"
    with pytest.raises(UnknownObject):
        await app.get_object("none")


async def test_text_that_is_too_long_is_refused_before_it_is_sent(app: SidecarClient) -> None:
    with pytest.raises(Permanent, match="send long texts as documents"):
        await app.submit("x" * 2_000_000)


async def test_a_bus_of_small_messages_carries_large_answers_and_images(bedrock: EmulatorProcess) -> None:
    with running(make_server(config="max_payload: 32768")) as server, spawn_sidecar(server.url, bedrock.url):
        async with await SidecarClient.connect(server.url, tenant="acme", request_timeout_s=60) as client:
            for stream in (False, True):
                job = await client.submit(
                    "[[tokens=20000]] go on",
                    model="claude-sonnet-4-5",
                    stream=stream,
                    params={"max_tokens": 30_000},
                )
                result = await job.result(timeout_s=60)
                assert result.state == "succeeded", result.error
                assert len(result.text) > 32_768
                assert hashlib.sha256(result.text.encode()).hexdigest() == result.text_sha256
                assert "".join([piece async for piece in client.job(job.id).text()]) == result.text
            data = b"\x89PNG" + os.urandom(100_000)
            content = [{"type": "text", "text": "[[tokens=2]] what is this?"}, image_of(data)]
            seen = await client.ask(
                {"messages": [{"role": "user", "content": content}], "model": "claude-sonnet-4-5"}
            )
            assert seen.state == "succeeded", seen.error
            await client.put_object("again", data)
            assert await client.get_object("again") == data
