"""The main paths on real processes, by a client that has only a NATS library and `schemas/README.md`."""

import asyncio
import hashlib
import json

import pytest

from tests.acceptance.conftest import World
from tests.support.stranger import Stranger, asks, check_story

pytestmark = [pytest.mark.nats, pytest.mark.servers]


async def test_submit_follow_and_get(client: Stranger) -> None:
    feed = await client.submit(asks('[[text="hello there"]] hi', metadata={"ticket": "42"}), job="job1")
    result = (await feed.result())["data"]
    assert result["state"] == "succeeded"
    assert result["output"]["text"] == "hello there"
    assert result["stop_reason"] == "end_turn"
    assert result["usage"]["output_tokens"] > 0
    assert result["usage_basis"] == "observed"
    assert result["cost_usd"] > 0
    assert all(e["metadata"] == {"ticket": "42"} for e in feed.events)
    state = await client.answer("get", client.tenant, "job1")
    assert state["state"] == "succeeded"
    assert state["result"] == result
    assert state["class"] == "standard"
    assert check_story(await client.replay("job1")) == result


async def test_a_streamed_answer_is_followed_and_replayed(client: Stranger) -> None:
    feed = await client.submit(asks("[[tokens=200 tps=400]] go on", stream=True), job="job1")
    result = (await feed.result())["data"]
    assert feed.text == result["output"]["text"]
    assert hashlib.sha256(feed.text.encode()).hexdigest() == result["text_sha256"]
    stored = await client.replay("job1")
    assert check_story(stored) == result
    assert [(e["attempt"], e["n"]) for e in stored] == [(e["attempt"], e["n"]) for e in feed.events]
    middle = stored[len(stored) // 2]
    rest = await client.replay("job1", attempt=middle["attempt"], n=middle["n"])
    assert rest == stored[len(stored) // 2 + 1 :]


async def test_ask_takes_json_and_plain_text(client: Stranger) -> None:
    reply = await client.ask("ask", client.tenant, "interactive", payload=asks("[[echo]] one two"))
    assert json.loads(reply.data)["output"]["text"] == "one two"
    reply = await client.ask("ask", client.tenant, "interactive", payload=b"[[echo]] plain words")
    result = json.loads(reply.data)
    assert (result["state"], result["output"]["text"]) == ("succeeded", "plain words")


async def test_asking_again_under_the_same_id_gives_the_same_result(client: Stranger) -> None:
    headers = {"Llm-Job-Id": "once"}
    first = await client.ask("ask", client.tenant, "standard", payload=asks("[[tokens=20]] a"), headers=headers)
    again = await client.ask("ask", client.tenant, "standard", payload=asks("[[tokens=20]] a"), headers=headers)
    assert json.loads(first.data) == json.loads(again.data)
    assert json.loads(first.data)["state"] == "succeeded"


async def test_publishing_the_same_id_twice_runs_it_once(client: Stranger, world: World) -> None:
    request = asks('[[text="only once"]] hi')
    feed = await client.submit(request, job="twice")
    again = await client.publish(request, job="twice")
    assert again["duplicate"] is True
    await feed.result()
    # Without the deduplication of the stream, as after its window: a request with a known id is dropped.
    await client.publish(request, headers={"Llm-Job-Id": "twice"})
    other = await client.run(asks("[[tokens=2]] later"), job="later")
    assert other["state"] == "succeeded"
    stored = await client.replay("twice")
    assert check_story(stored)["output"]["text"] == "only once"
    assert {e["attempt"] for e in stored} == {1}


async def test_a_job_without_an_id_is_called_by_its_sequence(client: Stranger) -> None:
    everything = await client.follow("*", "result")
    acknowledgement = await client.publish(asks("[[tokens=2]] hi"))
    event = await everything.result()
    assert event["job"] == f"s{acknowledgement['seq']}"


async def test_jobs_are_listed_newest_first_page_by_page(client: Stranger) -> None:
    for i in range(5):
        await client.run(asks("[[tokens=2]] hi"), job=f"j{i}")
    page = await client.answer("jobs", client.tenant, payload={"limit": 3})
    assert [job["job"] for job in page["jobs"]] == ["j4", "j3", "j2"]
    rest = await client.answer("jobs", client.tenant, payload={"limit": 3, "cursor": page["cursor"]})
    assert [job["job"] for job in rest["jobs"]] == ["j1", "j0"]
    assert rest["cursor"] is None
    none = await client.answer("jobs", client.tenant, payload={"state": "running"})
    assert none["jobs"] == []


async def test_models_are_listed(client: Stranger) -> None:
    page = await client.answer("models", client.tenant)
    found = {model["alias"]: model for model in page["models"]}
    assert found["claude-sonnet-4-5"]["price_output_usd_per_mtok"] > 0


async def test_the_micro_service_introduces_itself(client: Stranger) -> None:
    ping = json.loads((await client.connection.request("$SRV.PING.llm-sidecar", b"", timeout=30)).data)
    assert ping["type"] == "io.nats.micro.v1.ping_response"
    info = json.loads((await client.connection.request("$SRV.INFO.llm-sidecar", b"", timeout=30)).data)
    names = {endpoint["name"]: endpoint for endpoint in info["endpoints"]}
    assert {"ask", "get", "replay", "cancel", "jobs", "models"} <= set(names)
    assert json.loads(names["ask"]["metadata"]["schema.request"])
    stats = json.loads((await client.connection.request("$SRV.STATS.llm-sidecar", b"", timeout=30)).data)
    assert {e["name"] for e in stats["endpoints"]} == set(names)


async def test_an_inline_tool_call_goes_on_in_a_new_job(client: Stranger) -> None:
    tool = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}
    request = asks('[[tool=add input={"a":1}]] add', tools=[tool])
    result = await client.run(request, job="first")
    assert result["stop_reason"] == "tool_use"
    (call,) = [block for block in result["output"]["content"] if block["type"] == "tool_use"]
    assert call["input"] == {"a": 1}
    request["messages"] += [
        {"role": "assistant", "content": result["output"]["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "1"}]},
    ]
    second = await client.run(request, job="second")
    assert (second["state"], second["stop_reason"]) == ("succeeded", "end_turn")


async def test_structured_output_is_validated(client: Stranger) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    result = await client.run(asks("give me a number", output={"schema": schema}), job="fits")
    assert result["state"] == "succeeded", result["error"]
    assert isinstance(result["output"]["structured"]["n"], int)


async def test_many_jobs_of_many_tenants_all_end_once(client: Stranger) -> None:
    tenants = [f"{client.tenant}-{i}" for i in range(5)]
    feeds = []
    for tenant in tenants:
        friend = Stranger(client.connection, tenant)
        feed = await friend.follow("*", "result")
        feeds.append(feed)
        await asyncio.gather(
            *(friend.publish(asks("[[tokens=5]] hi", stream=i % 2 == 0), job=f"j{i}") for i in range(40))
        )
    for feed in feeds:
        events = await feed.until(lambda events: len(events) >= 40)
        assert sorted(e["job"] for e in events) == sorted(f"j{i}" for i in range(40))
        assert {e["data"]["state"] for e in events} == {"succeeded"}
