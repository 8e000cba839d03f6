"""Answers and inputs that are larger than a message."""

from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from sidecar.models.codec import encode
from sidecar.models.content import ImageBlock, ToolResultBlock
from sidecar.models.objects import ObjectChunk, ObjectGet, ObjectInfo, ObjectPut, hex_digest
from sidecar.models.result import Output, Result
from sidecar.response_formatter.formatter import digest
from tests.support.jetstream.faults import Fault, Operation
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
IMAGE = {"type": "image", "format": "png", "source": {"object": "photo.png"}}


def asks(*blocks: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "what is this?"}, *blocks]
    return {"messages": [{"role": "user", "content": content}], "model": MODEL}


def objects(b: Bench, tenant: str = "acme") -> int:
    """How many a tenant has."""
    stream = b.bus.api.streams.get(f"OBJ_LLM_BLOB_{tenant}")
    return len(list(stream.find(f"$O.LLM_BLOB_{tenant}.M.>"))) if stream else 0


async def output_of(b: Bench, result: Result, tenant: str = "acme") -> Output:
    """The output that a result names, as a client fetches it."""
    assert result.output.object is not None
    assert (result.output.text, result.output.content, result.output.structured) == ("", (), None)
    client, chunks = await b.client(), []
    asked = encode(ObjectGet(name=result.output.object.name))
    async with aclosing(client.request_many(f"llm.v1.objects.{tenant}.get", asked)) as replies:
        async for reply in replies:
            if not reply.payload:
                break
            chunks.append(msgspec.json.decode(reply.payload, type=ObjectChunk))
    content = b"".join(chunk.data for chunk in chunks)
    assert hex_digest(content) == result.output.object.sha256
    assert len(content) == result.output.object.size
    return msgspec.json.decode(content, type=Output)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_too_large_for_the_bus_lies_in_the_object_store(stream: bool) -> None:
    clock = VirtualClock()
    text = "x" * 300_000
    async with bench(ScriptedModel(clock, [says(text, pieces=3, delta_s=0.1)])) as b:
        b.bus.jobs.config["max_msg_size"] = 200_000
        await b.replica()
        job = await b.submit(stream=stream)
        result = await b.result(job, limit_s=60)
        assert (result.state, result.partial, result.error) == ("succeeded", False, None)
        assert result.output.object is not None
        assert result.output.object.bucket == "LLM_BLOB_acme"
        assert (await output_of(b, result)).text == text
        assert result.text_sha256 == digest(text)
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.result == result


async def test_the_answer_is_stored_before_it_is_committed() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("x" * 300_000)])) as b:
        b.bus.jobs.config["max_msg_size"] = 200_000
        lost = iter([True, True])

        def faults(operation: Operation) -> Fault:
            return Fault(lose="ack") if operation.name == "blobs.finish" and next(lost, False) else Fault()

        b.bus.faults = faults
        await b.replica()
        result = await b.result(await b.submit(), limit_s=120)
        assert (await output_of(b, result)).text == "x" * 300_000
        names = [o.name for o in b.bus.operations]
        last_put = len(names) - names[::-1].index("blobs.finish")
        assert names[last_put:].count("jobs.update") == 1


async def test_an_owner_that_dies_before_the_commit_leaves_nothing_that_counts() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("x" * 300_000))) as b:
        b.bus.jobs.config["max_msg_size"] = 200_000
        await b.fleet("one", "two", slots=1)
        first: list[str] = []

        def faults(operation: Operation) -> Fault:
            if operation.name != "blobs.finish":
                return Fault()
            first[:] = first or [operation.replica]
            return Fault(lose="ack") if operation.replica == first[0] else Fault()

        b.bus.faults = faults
        job = await b.submit()
        await b.until(lambda: bool(first) and objects(b) == 1)
        b.kill(next(replica for replica in b.replicas if replica.name == first[0]))
        result = await b.result(job)
        assert result.output.object is not None
        assert result.output.object.name == f"result.{job}.2"
        assert (await output_of(b, result)).text == "x" * 300_000


async def test_a_bucket_without_room_makes_the_job_fail_and_say_so() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, [says("x" * 300_000)])) as b:
        b.bus.jobs.config["max_msg_size"] = 200_000
        await b.replica(**b.with_full_bucket("acme"))
        result = await b.result(await b.submit(), limit_s=60)
        assert result.state == "failed"
        assert result.error is not None
        assert (result.error.code, result.partial) == ("payload_too_large", True)


async def test_an_object_reaches_the_model_as_content() -> None:
    clock = VirtualClock()
    model = ScriptedModel(clock)
    async with bench(model) as b:
        await b.replica()
        await (await b.outside()).blobs.put("acme", "photo.png", PNG)
        history: list[dict[str, Any]] = [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "shot", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}, IMAGE],
            },
        ]
        tools = [{"name": "shot", "input_schema": {"type": "object"}}]
        result = await b.result(await b.submit({"messages": history, "tools": tools, "model": MODEL}))
        assert result.state == "succeeded"
        in_result, beside = model.calls[0].messages[2].content
        assert isinstance(in_result, ToolResultBlock)
        assert isinstance(in_result.content, tuple)
        inner = in_result.content[0]
        assert isinstance(inner, ImageBlock)
        assert isinstance(beside, ImageBlock)
        assert inner.source.data == beside.source.data == PNG
        assert [(o.replica, o.name) for o in b.bus.operations].count(("one", "blobs.read")) == 1


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(None, "invalid_request", "holds no object"), (b"", "invalid_request", "is empty")],
)
async def test_an_object_that_is_not_there_fails_the_job_and_names_the_field(
    content: bytes | None, code: str, said: str
) -> None:
    async with bench() as b:
        await b.replica()
        # Another tenant's object of the same name is no help.
        await (await b.outside()).blobs.put("globex", "photo.png", PNG)
        if content is not None:
            await (await b.outside()).blobs.put("acme", "photo.png", content)
        result = await b.result(await b.submit(asks(IMAGE)))
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == code
        assert said in result.error.message
        assert result.error.details == {"path": "messages[0].content[1].source.object"}
        assert b.model.calls == []


async def test_objects_of_one_job_are_bounded_together() -> None:
    async with bench() as b:
        await b.replica(jobs={"max_input_bytes": 3000})
        for name in ("photo.png", "two"):
            await (await b.outside()).blobs.put("acme", name, PNG)
        assert (await b.result(await b.submit(asks(IMAGE, IMAGE)))).state == "succeeded"
        two = {**IMAGE, "source": {"object": "two"}}
        result = await b.result(await b.submit(asks(IMAGE, two)))
        assert result.error is not None
        assert result.error.code == "payload_too_large"
        assert result.error.details == {"path": "messages[0].content[2].source.object"}


async def test_objects_age() -> None:
    async with bench() as b:
        await b.replica()
        await (await b.outside()).blobs.put("acme", "other.png", PNG)
        b.bus.stream("OBJ_LLM_BLOB_acme").config["max_age"] = 10 * 10**9
        await (await b.outside()).blobs.put("acme", "photo.png", PNG)
        await b.clock.advance(11)
        result = await b.result(await b.submit(asks(IMAGE)))
        assert result.state == "failed"


async def test_jobs_without_objects_ask_for_none() -> None:
    async with bench() as b:
        await b.replica()
        await b.result(await b.submit())
        assert not [o for o in b.bus.operations if o.name.startswith("blobs.")]


async def test_a_client_puts_and_gets_by_the_endpoints() -> None:
    async with bench() as b:
        await b.replica()
        data = PNG * 200
        pieces = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
        for part, piece in enumerate(pieces):
            reply = await b.ask(
                "objects", "acme", "put", payload=encode(ObjectPut(name="a", upload="u", part=part, data=piece))
            )
            assert msgspec.json.decode(reply.payload, type=ObjectInfo).is_whole is False
        end = ObjectPut(name="a", upload="u", parts=len(pieces), size=len(data), sha256=hex_digest(data))
        reply = await b.ask("objects", "acme", "put", payload=encode(end))
        info = msgspec.json.decode(reply.payload, type=ObjectInfo)
        assert (info.size, info.is_whole) == (len(data), True)
        assert await (await b.outside()).blobs.get("acme", "a", max_bytes=10**9) == data


async def test_a_tenant_that_is_denied_has_no_objects() -> None:
    async with bench() as b:
        await b.replica(tenants={"acme": {"deny": True}})
        reply = await b.ask("objects", "acme", "get", payload=encode(ObjectGet(name="a")))
        assert msgspec.json.decode(reply.payload)["error"]["code"] == "tenant_denied"


@pytest.mark.parametrize(
    ("verb", "payload", "code"),
    [
        ("put", b"{}", "invalid_request"),
        ("put", b"[]", "invalid_request"),
        ("put", b'{"name":"a","upload":"u"}', "invalid_request"),
        ("put", b'{"name":"a","upload":"../b","bytes":"AA=="}', "invalid_request"),
        ("put", b'{"name":"","upload":"u","bytes":"AA=="}', "invalid_request"),
        ("put", b'{"name":"a\\n","upload":"u","bytes":"AA=="}', "invalid_request"),
        ("put", b'{"name":"a","upload":"u","bytes":"not base64"}', "invalid_request"),
        ("put", b'{"name":"a","upload":"u","bytes":"AA==","parts":1,"size":1}', "invalid_request"),
        ("put", b'{"name":"a","upload":"u","parts":1,"size":1,"sha256":"zz"}', "invalid_request"),
        ("put", encode(ObjectPut(name="a", upload="never", parts=2, size=2, sha256="0" * 64)), "internal"),
        ("get", b"", "invalid_request"),
        ("get", b'{"name":"none"}', "not_found"),
    ],
)
async def test_what_is_no_object_request_is_refused(verb: str, payload: bytes, code: str) -> None:
    async with bench() as b:
        await b.replica()
        reply = await b.ask("objects", "acme", verb, payload=payload)
        assert msgspec.json.decode(reply.payload)["error"]["code"] == code
