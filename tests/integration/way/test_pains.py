"""What users of other gateways complain of: one test each, through the whole way of a job."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.emulator import Emulator
from sidecar.emulator.journal import CallRecord
from tests.support.raw_bedrock import (
    METADATA,
    START,
    event,
    exception,
    raw_bedrock,
    response,
    sends,
    streams,
    text,
    then_hangs,
)
from tests.support.way import FIRST, FIRST_ID, SECOND, SECOND_ID, Way, statuses, texts, way

CHAIN = [FIRST, SECOND]
OBJECT = {"type": "object"}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a server's list of requests has no event
            await asyncio.sleep(0.01)


def sent(calls: list[CallRecord]) -> list[dict[str, Any]]:
    return [call.request for call in calls]


async def asked(on: Way, emulator: Emulator, content: Any = "hello", **fields: Any) -> dict[str, Any]:
    """The body that one job's call had."""
    fields.setdefault("model", FIRST)
    result = await on.ask(content, **fields)
    assert result.state == "succeeded", result.error
    return emulator.calls[-1].request


async def test_a_5xx_inside_a_stream_is_not_taken_for_a_400() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*claude*", nth=[1], behave="fault=internal at=mid")
        result = await on.ask(model=[FIRST], stream=True)
        assert result.state == "succeeded"
        broken = result.attempts[0].error
        assert broken is not None
        assert broken.retryable is True
        assert broken.code == "model_unavailable"


async def test_configured_timeouts_hold_for_streams() -> None:
    async with (
        raw_bedrock() as raw,
        way(raw.url, jobs={"first_token_timeout_s": 0.4, "idle_timeout_s": 0.3}) as on,
    ):
        raw.script = then_hangs(streams(START, is_ended=False))
        result = await on.ask(model=[FIRST], stream=True, timeout_s=1.5)
        assert [a.error.details.get("limit") for a in result.attempts if a.error][:1] == ["first_token"]
        raw.script = then_hangs(streams(START, text("Hel"), is_ended=False))
        result = await on.ask(model=[SECOND], stream=True, on_interrupt="fail", first_token_timeout_s=10)
        assert [a.error.details.get("limit") for a in result.attempts if a.error] == ["idle"]


async def test_a_429_at_the_first_read_is_retried_elsewhere() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*claude*", behave="fault=throttling at=0")
        result = await on.ask(model=CHAIN, stream=True)
        assert [(a.outcome, a.error.code if a.error else None) for a in result.attempts] == [
            ("error", "throttled"),
            ("ok", None),
        ]


async def test_an_exception_frame_triggers_the_fallback() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.add_rule(model="*claude*", behave="fault=unavailable at=1")
        result = await on.ask(model=CHAIN, stream=True)
        assert (result.state, result.model) == ("succeeded", SECOND)


async def test_cut_and_stalled_streams_are_never_shown_as_complete() -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        for script in (streams(START, text("Half")), then_hangs(streams(START, text("Half"), is_ended=False))):
            raw.script = script
            result = await on.ask(model=[FIRST], stream=True, on_interrupt="fail", idle_timeout_s=0.3)
            assert (result.state, result.partial, result.output.text) == ("failed", True, "Half")
            assert result.stop_reason is None


async def test_a_slow_credential_refresh_does_not_stall_running_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    async with Emulator() as emulator, raw_bedrock() as vault:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
        vault.script = sends(_keys(lives_s=3600))
        async with way(emulator.url) as on:
            emulator.behave("tokens=40 tps=40 chunk_tokens=1")
            running = await on.submit(model=FIRST, stream=True)
            await until(lambda: emulator.active_calls == 1)
            vault.script = then_hangs(sends())
            vault.received.clear()
            on.credentials().invalidate()
            waiting = await on.submit(model=FIRST)
            await vault.received.wait()
            result = await on.result(running)
            assert result.state == "succeeded"
            assert not await on.results(waiting), "the second job still waits for its keys"


def _keys(*, lives_s: float) -> bytes:
    expires = (datetime.now(UTC) + timedelta(seconds=lives_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": expires}
    return response(body, connection="close")


async def test_each_region_of_a_model_is_called_in_that_region() -> None:
    regions = ("us-west-2", "us-east-1", "eu-west-1")
    async with Emulator() as emulator, way(emulator.url, bedrock={"regions": regions}) as on:
        emulator.add_rule(region="us-west-2", behave="fault=unavailable")
        emulator.add_rule(region="us-east-1", behave="fault=throttling")
        result = await on.ask(model=[FIRST])
        assert [a.region for a in result.attempts] == ["us-west-2", "us-west-2", "us-east-1", "eu-west-1"]
        assert [c.region for c in emulator.calls] == [a.region for a in result.attempts]
        assert emulator.calls[-1].model_id.startswith("eu.")


async def test_an_inference_profile_arn_keeps_price_and_tools() -> None:
    arn = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{FIRST_ID}"
    team = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/team1"
    policy = {"team-sonnet": {"id": team, "base": FIRST}}
    tool = {"name": "look", "description": "looks", "input_schema": OBJECT}
    profiles = {team.rpartition("/")[2]: FIRST_ID, team: FIRST_ID}
    async with Emulator(profiles=profiles) as emulator, way(emulator.url, models_policy=policy) as on:
        for name in (arn, team, "team-sonnet"):
            result = await on.ask('[[tool=look input={"a":1}]]', model=name, tools=[tool])
            assert (result.state, result.stop_reason) == ("succeeded", "tool_use")
            assert result.cost_usd is not None
            assert result.cost_usd > 0
            # Neither ARN is shown: it has the account in it.
            assert result.model_id == (FIRST_ID if name == arn else "team-sonnet")


async def test_cache_points_are_placed_only_where_the_model_takes_them() -> None:
    long_prompt = "word " * 6000
    tool = {"name": "look", "description": "looks", "input_schema": OBJECT}
    async with Emulator() as emulator, way(emulator.url) as on:
        for model in (FIRST, SECOND):
            body = await asked(on, emulator, long_prompt, model=model, system=long_prompt, tools=[tool])
            assert "cachePoint" in json.dumps(body)
            in_tools = any("cachePoint" in t for t in body["toolConfig"]["tools"])
            assert in_tools is False or model == FIRST
        body = await asked(on, emulator, long_prompt, model=FIRST, cache="none")
        assert "cachePoint" not in json.dumps(body)
        point = [{"type": "text", "text": long_prompt}, {"type": "cache_point", "ttl": "1h"}]
        body = await asked(on, emulator, point, model=FIRST)
        assert {"cachePoint": {"type": "default", "ttl": "1h"}} in body["messages"][0]["content"]


async def test_a_schema_is_enforced_natively_where_the_model_can() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    async with Emulator() as emulator, way(emulator.url) as on:
        result = await on.ask(model=FIRST, output={"schema": schema})
        assert result.state == "succeeded", result.error
        body = emulator.calls[-1].request
        assert "outputConfig" in body
        assert "toolConfig" not in body
        assert result.output.structured is not None


async def test_tools_without_names_or_descriptions_never_give_a_400() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        tools = [
            {"name": "look", "input_schema": OBJECT},
            {"name": "see", "description": "", "input_schema": OBJECT},
        ]
        body = await asked(on, emulator, tools=tools)
        assert all(tool["toolSpec"].get("description", "some") for tool in body["toolConfig"]["tools"])
        refused = await on.ask(model=FIRST, tools=[{"name": "", "input_schema": OBJECT}])
        assert refused.state == "rejected"
        assert refused.error is not None
        assert refused.error.details["path"] == "tools[0].name"


async def test_parallel_tool_results_go_in_the_order_of_the_calls() -> None:
    calls = [{"type": "tool_use", "id": f"call{i}", "name": "look", "input": {"n": i}} for i in range(3)]
    results = [{"type": "tool_result", "tool_use_id": f"call{i}", "content": str(i)} for i in (2, 0, 1)]
    messages = [
        {"role": "user", "content": "look three times"},
        {"role": "assistant", "content": calls},
        *({"role": "user", "content": [result]} for result in results),
    ]
    tools = [{"name": "look", "description": "looks", "input_schema": OBJECT}]
    async with Emulator() as emulator, way(emulator.url) as on:
        body = await asked(on, emulator, messages=messages, tools=tools)
        assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
        answers = [
            block["toolResult"]["toolUseId"] for block in body["messages"][2]["content"] if "toolResult" in block
        ]
        assert answers == ["call0", "call1", "call2"]


async def test_reasoning_is_replayed_before_the_tool_call_it_led_to() -> None:
    turn = [
        {"type": "tool_use", "id": "call1", "name": "look", "input": {}},
        {"type": "text", "text": "let me look"},
        {"type": "reasoning", "text": "I should look", "signature": "c2ln"},
    ]
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": turn},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call1", "content": "seen"}]},
    ]
    tools = [{"name": "look", "description": "looks", "input_schema": OBJECT}]
    async with Emulator() as emulator, way(emulator.url) as on:
        body = await asked(on, emulator, messages=messages, tools=tools, reasoning={"budget_tokens": 1024})
        kinds = [next(iter(block)) for block in body["messages"][1]["content"]]
        assert kinds == ["reasoningContent", "text", "toolUse"]


@pytest.mark.parametrize(
    ("choice", "on_the_wire"), [("any", {"any": {}}), ({"name": "look"}, {"tool": {"name": "look"}})]
)
@pytest.mark.parametrize("model", CHAIN)
async def test_tool_choice_is_never_dropped(model: str, choice: Any, on_the_wire: dict[str, Any]) -> None:
    tools = [{"name": name, "description": "looks", "input_schema": OBJECT} for name in ("look", "see")]
    async with Emulator() as emulator, way(emulator.url) as on:
        body = await asked(on, emulator, model=model, tools=tools, tool_choice=choice)
        assert body["toolConfig"]["toolChoice"] == on_the_wire


async def test_tools_in_any_order_give_the_same_bytes() -> None:
    tools = [
        {"name": f"tool{i}", "description": "does", "input_schema": {**OBJECT, "title": str(i)}} for i in range(6)
    ]
    async with Emulator() as emulator, way(emulator.url) as on:
        for order in (tools, tools[::-1], tools[3:] + tools[:3]):
            await asked(on, emulator, tools=order)
        bodies = {c.body.replace(c.request["requestMetadata"]["job"].encode(), b"") for c in emulator.calls}
        assert len(bodies) == 1


async def test_identical_requests_give_identical_bytes() -> None:
    request: dict[str, Any] = {
        "model": FIRST,
        "system": "Be brief.",
        "params": {"max_tokens": 99, "temperature": 0.5, "stop": ["END"]},
        "tools": [{"name": n, "description": n, "input_schema": OBJECT} for n in ("b", "a")],
    }
    async with Emulator() as emulator, way(emulator.url) as on:
        for is_stream in (True, True, False):
            await asked(on, emulator, stream=is_stream, **request)
        bodies = {c.body.replace(c.request["requestMetadata"]["job"].encode(), b"") for c in emulator.calls}
        assert len(bodies) == 1


async def test_stream_errors_are_not_swallowed() -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = streams(START, text("Half"), exception("validationException", "the model choked"))
        result = await on.ask(model=CHAIN, stream=True)
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "invalid_request"
        assert "the model choked" in result.error.message
        assert result.output.text == "Half"


async def test_silence_while_tool_arguments_are_generated_does_not_end_the_job() -> None:
    """Llama writes a tool call's arguments in one piece: the idle limit must not count while it does."""
    block = event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "t1", "name": "look"}})
    rest = (
        event("contentBlockDelta", contentBlockIndex=0, delta={"toolUse": {"input": '{"n": 1}'}}),
        event("contentBlockStop", contentBlockIndex=0),
        event("messageStop", stopReason="tool_use"),
        METADATA,
    )

    async def thinks_long(writer: asyncio.StreamWriter) -> None:
        await streams(START, block, is_ended=False)(writer)
        await asyncio.sleep(1.0)
        for piece in rest:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")

    tool = {"name": "look", "description": "looks", "input_schema": OBJECT}
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = thinks_long
        result = await on.ask(model=["llama4-maverick"], stream=True, tools=[tool], idle_timeout_s=0.3)
        assert (result.state, result.stop_reason) == ("succeeded", "tool_use")
        assert len(raw.requests) == 1


async def test_no_job_asks_the_control_plane() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        for model in (FIRST, SECOND_ID, FIRST_ID):
            await on.ask(model=model)
        assert {call.operation for call in emulator.calls} == {"converse"}


async def test_nothing_is_retried_after_the_client_has_left() -> None:
    async with Emulator() as emulator, way(emulator.url) as on:
        emulator.behave("fault=unavailable")
        job = await on.submit(model=[FIRST], timeout_s=300)
        await on.until_state(job, "waiting")
        await on.cancel(job)
        assert (await on.result(job)).state == "cancelled"
        made = len(emulator.calls)
        await asyncio.sleep(1.5)
        assert len(emulator.calls) == made
        assert [s.state for s in statuses(await on.events(job))][-1] == "waiting"


async def test_leaving_ends_the_call_at_once() -> None:
    async with raw_bedrock() as raw, way(raw.url) as on:
        raw.script = then_hangs(streams(START, text("Once upon"), is_ended=False))
        job = await on.submit(model=[FIRST], stream=True)
        await raw.received.wait()
        while not texts(await on.events(job), attempt=1):  # noqa: ASYNC110 - events are read, not awaited
            await asyncio.sleep(0.01)
        await on.cancel(job)
        result = await on.result(job)
        await asyncio.wait_for(raw.disconnected.wait(), 20)
        assert (result.state, result.output.text, result.partial) == ("cancelled", "Once upon", True)
        assert result.usage_basis == "estimated"
        assert len(raw.requests) == 1
