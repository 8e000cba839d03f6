"""What nobody should send, on real processes: each is refused by name, and the process does not move."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.conftest import World
from tests.support.stranger import Stranger, asks

GARBAGE = 10_000
AT_ONCE = 200
MOST_GROWTH_BYTES = 24 * 1024 * 1024


@pytest.fixture(autouse=True)
async def unmoved(world: World, client: Stranger) -> AsyncIterator[None]:
    """After each test: the same process, alive, and a good job succeeds."""
    pid = world.sidecar.pid
    yield
    assert world.sidecar.is_running
    assert world.sidecar.pid == pid
    assert (await asyncio.to_thread(world.sidecar.get, "/livez"))[0] == 200
    result = await client.run(asks("[[tokens=2]] still there?"), job="good")
    assert result["state"] == "succeeded"


def hello(**more: Any) -> dict[str, Any]:
    return asks("[[tokens=2]] hello", **more)


@pytest.mark.parametrize(
    ("payload", "code", "named"),
    [
        (b"not json", "invalid_request", "JSON"),
        (b"", "invalid_request", "messages"),
        (b"\xff\xfe{", "invalid_request", ""),
        (b"[1, 2]", "invalid_request", ""),
        (b"null", "invalid_request", ""),
        (b'{"messages": [' * 5000, "invalid_request", ""),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": "hello"}, "invalid_request", "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "invalid_request", "messages[0].role"),
        ({"messages": [{"role": "user", "content": ""}]}, "invalid_request", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_request", "messages[0].content"),
        (hello(temprature=1), "invalid_request", "temprature"),
        (hello(params={"max_tokens": "many"}), "invalid_request", "params.max_tokens"),
        (hello(params={"max_tokens": -1}), "invalid_request", "params.max_tokens"),
        (hello(stream="yes"), "invalid_request", "stream"),
        (hello(timeout_s=-5), "invalid_request", "timeout_s"),
        (hello(deadline="tomorrow"), "invalid_request", "deadline"),
        (hello(metadata={"x": "y" * 10_000}), "invalid_request", "metadata"),
        (hello(model="gpt-17"), "unknown_model", "gpt-17"),
        ({**hello(), "model": []}, "invalid_request", "model"),
        (hello(model=17), "invalid_request", "model"),
        (hello(tools=["search"]), "unknown_tool", "tools[0]"),
        (hello(tools=[{"name": "x"}]), "invalid_request", "tools[0]"),
        (hello(filters=["nope"]), "invalid_request", "filters[0]"),
        ({"prompt": {"name": "p"}}, "invalid_request", "prompt"),
        (hello(output={"schema": {"type": "banana"}}), "invalid_request", "output.schema"),
        (hello(output={"schema": {"$ref": "file:///etc/passwd"}}), "invalid_request", "output.schema"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "format": "png", "source": {"bytes": "***no base64***"}}],
                    }
                ]
            },
            "invalid_request",
            "messages[0].content[0].source",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram", "text": "x"}]}]},
            "invalid_request",
            "messages[0].content[0]",
        ),
    ],
)
async def test_a_bad_request_is_rejected_and_the_field_named(
    client: Stranger, payload: Any, code: str, named: str
) -> None:
    feed = await client.submit(payload, job="bad")
    event = await feed.result()
    assert event["data"]["state"] == "rejected"
    error = event["data"]["error"]
    assert error["code"] == code
    assert named in json.dumps(error)
    assert (await client.answer("get", client.tenant, "bad"))["state"] == "rejected"


@pytest.mark.parametrize(
    ("payload", "named"),
    [(b'{"messages": 1}', "messages"), (b"", "empty"), (b"\xff\xfe", "UTF-8"), (hello(nope=1), "nope")],
)
async def test_ask_answers_bad_requests_with_an_error(client: Stranger, payload: Any, named: str) -> None:
    reply = await client.ask("ask", client.tenant, "standard", payload=payload)
    assert (reply.headers or {})["Nats-Service-Error-Code"] == "400"
    error = json.loads(reply.data)["error"]
    assert error["code"] == "invalid_request"
    assert named in json.dumps(error)


async def test_a_class_that_does_not_exist_is_rejected(client: Stranger) -> None:
    everything = await client.follow("*", "result")
    await client.publish(hello(), job="x", job_class="urgent")
    event = await everything.result()
    assert event["data"]["state"] == "rejected"
    assert event["data"]["error"]["details"]["path"] == "subject.class"


@pytest.mark.parametrize("tenant", ["acme$inc", "größe", "x" * 65])
async def test_a_tenant_that_is_no_name_is_rejected(client: Stranger, tenant: str) -> None:
    other = Stranger(client.connection, tenant)
    everything = await other.follow("*", "result")
    acknowledgement = await other.publish(hello())
    event = await everything.result()
    assert event["job"] == f"s{acknowledgement['seq']}"
    assert event["data"]["state"] == "rejected"
    assert event["data"]["error"]["details"]["path"] == "subject.tenant"


@pytest.mark.parametrize("job", ["a.b", "with blank", "*", "x" * 65, "ümlaut", "s17"])
async def test_a_job_id_that_is_no_name_is_rejected(client: Stranger, job: str) -> None:
    everything = await client.follow("*", "result")
    acknowledgement = await client.publish(hello(), headers={"Llm-Job-Id": job})
    event = await everything.result()
    assert event["job"] == f"s{acknowledgement['seq']}"
    assert event["data"]["state"] == "rejected"
    assert event["data"]["error"]["details"]["path"] == "Llm-Job-Id"


async def test_a_payload_near_the_servers_limit_is_run(client: Stranger) -> None:
    noise = b"\x89PNG" + random.Random(5).randbytes((client.connection.max_payload - 8_000) // 4 * 3)
    image = {"type": "image", "format": "png", "source": {"bytes": base64.b64encode(noise).decode()}}
    content = [{"type": "text", "text": "[[tokens=2]] what is this?"}, image]
    everything = await client.follow("*", "result")
    for i in range(8):
        await client.publish(
            {"messages": [{"role": "user", "content": content}], "model": "claude-sonnet-4-5"}, job=f"large{i}"
        )
    events = await everything.until(lambda events: len(events) >= 8)
    assert {e["data"]["state"] for e in events} == {"succeeded"}, events[0]["data"]["error"]


async def test_an_answer_that_does_not_fit_the_bus_lies_in_the_object_store(client: Stranger) -> None:
    request = asks("[[fault=huge_frame bytes=1500000]] go on", params={"max_tokens": 60_000}, stream=True)
    feed = await client.submit(request, job="huge")
    result = (await feed.result())["data"]
    assert result["state"] == "succeeded"
    assert result["output"]["object"]["bucket"] == f"LLM_BLOB_{client.tenant}"
    assert result["output"]["text"] == ""
    assert not result["partial"]


async def test_a_second_request_with_the_id_of_a_waiting_job_does_not_end_it(client: Stranger) -> None:
    feed = await client.submit(asks("[[latency_ms=300 tokens=2]] slow"), job="same")
    await client.publish(b"garbage", headers={"Llm-Job-Id": "same"})
    assert (await feed.result())["data"]["state"] == "succeeded"


@pytest.mark.parametrize("verb", ["get", "cancel", "replay", "jobs", "models", "ask"])
async def test_endpoints_name_what_is_wrong_with_a_query(client: Stranger, verb: str) -> None:
    last = {"jobs": [], "models": [], "ask": ["standard"]}.get(verb, ["job1"])
    reply = await client.ask(verb, "bad$tenant", *last, payload=hello() if verb == "ask" else b"")
    assert (reply.headers or {}).get("Nats-Service-Error-Code") == "400"
    assert json.loads(reply.data)["error"]["details"]["path"] == "subject.tenant"
    if verb in ("cancel", "replay", "jobs", "ask"):
        reply = await client.ask(verb, client.tenant, *last, payload=b'{"nope": 1}')
        assert (reply.headers or {}).get("Nats-Service-Error-Code") == "400"
        assert "nope" in json.dumps(json.loads(reply.data)["error"])


async def test_an_unknown_job_is_not_found(client: Stranger) -> None:
    reply = await client.ask("get", client.tenant, "nobody")
    assert (reply.headers or {})["Nats-Service-Error-Code"] == "404"
    assert await client.replay("nobody") == []


def garbage(chance: random.Random) -> bytes:
    """Noise, broken JSON, and JSON that is almost a request."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    text = json.dumps(asks("x" * chance.randrange(100), stream=True))
    if kind == 1:
        return text[: chance.randrange(len(text))].encode()
    if kind == 2:
        return text.replace(chance.choice(text), chance.choice('{}[]",:0')).encode()
    return json.dumps({chance.choice(["messages", "model", "tools"]): chance.choice([None, 1, {}, "x"])}).encode()


async def test_ten_thousand_garbage_requests_move_nothing(client: Stranger, world: World) -> None:
    chance = random.Random(7)
    everything = await client.follow("*", "result")

    async def send(count: int) -> None:
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(
                *(
                    client.publish(garbage(chance), job_class=chance.choice(["standard", "batch", "odd"]))
                    for _ in range(first, min(first + AT_ONCE, count))
                )
            )

    await send(GARBAGE // 2)
    await everything.until(lambda events: len(events) >= GARBAGE // 2, limit_s=120)
    before = world.sidecar.rss_bytes
    await send(GARBAGE // 2)
    events = await everything.until(lambda events: len(events) >= GARBAGE, limit_s=120)
    assert len({e["job"] for e in events}) == GARBAGE
    assert {e["data"]["state"] for e in events} <= {"rejected", "succeeded", "failed"}
    assert world.sidecar.rss_bytes - before < MOST_GROWTH_BYTES


async def test_ten_thousand_garbage_queries_are_all_answered(client: Stranger, world: World) -> None:
    chance = random.Random(8)
    tokens = [client.tenant, "x", "a$b", "*", "é", "x" * 70]
    verbs = {"ask": 2, "get": 2, "cancel": 2, "replay": 2, "jobs": 1, "models": 1}

    async def query() -> None:
        verb = chance.choice(list(verbs))
        payload = chance.randbytes(chance.randrange(64)) + b"\xff" if verb == "ask" else garbage(chance)
        await client.ask(verb, *(chance.choice(tokens) for _ in range(verbs[verb])), payload=payload)

    async def send(count: int) -> None:
        for _ in range(0, count, AT_ONCE):
            await asyncio.gather(*(query() for _ in range(AT_ONCE)))

    await send(GARBAGE // 2)
    before = world.sidecar.rss_bytes
    await send(GARBAGE // 2)
    assert world.sidecar.rss_bytes - before < MOST_GROWTH_BYTES
