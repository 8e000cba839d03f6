"""The control endpoint, quotas and policies, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from botocore.exceptions import ClientError

from sidecar.emulator import AuthPolicy, Emulator
from tests.support.emulator import ACCESS_KEY, NOVA, SECRET_KEY, make_boto3, spawn_emulator, user


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def converse(http: Any, emulator: Emulator, text: str = "hi", **body: Any) -> tuple[int, Any]:
    url = f"{emulator.url}/model/{quote(NOVA, safe='')}/converse"
    async with http.post(url, json={"messages": user(text), **body}) as response:
        return response.status, await response.json()


async def control(http: Any, emulator: Emulator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with http.request(method, f"{emulator.url}/_emulator/{path}", json=body) as response:
        return response.status, await response.json()


async def test_behaviour_rules_and_scenario_change_while_running(http: Any, emulator: Emulator) -> None:
    assert (await control(http, emulator, "PUT", "behaviour", {"behave": 'text="by default"'}))[0] == 200
    _, reply = await converse(http, emulator)
    assert reply["output"]["message"]["content"] == [{"text": "by default"}]
    rule = {"model": "*nova*", "prompt": "please fail", "behave": "fault=internal"}
    assert (await control(http, emulator, "POST", "rules", rule))[0] == 200
    assert (await converse(http, emulator, "please fail"))[0] == 500
    assert (await converse(http, emulator, "hello"))[0] == 200
    await control(http, emulator, "DELETE", "rules")
    assert (await converse(http, emulator, "please fail"))[0] == 200
    await control(http, emulator, "PUT", "scenario", {"models": ["amazon.nova-pro-v1:0"]})
    assert (await converse(http, emulator))[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "behaviour", {"behave": "tps=fast"}, 400),
        ("POST", "rules", {"behave": "echo", "modle": "x"}, 400),
        ("PUT", "quota", {"not": "a list"}, 400),
        ("GET", "nothing", None, 404),
    ],
)
async def test_wrong_control_calls_say_why(
    http: Any, emulator: Emulator, method: str, path: str, body: Any, status: int
) -> None:
    got, answer = await control(http, emulator, method, path, body)
    assert got == status
    assert answer["message"]


async def test_calls_are_recorded_with_tenant_and_body(http: Any, emulator: Emulator) -> None:
    await converse(http, emulator, "one", requestMetadata={"tenant": "acme"})
    await converse(http, emulator, "[[fault=throttling]]", requestMetadata={"tenant": "other"})
    _, calls = await control(http, emulator, "GET", "calls?bodies=1")
    assert [(c["tenant"], c["status"], c["error_type"]) for c in calls] == [
        ("acme", 200, None),
        ("other", 429, "ThrottlingException"),
    ]
    assert calls[0]["request"]["messages"] == user("one")
    _, counters = await control(http, emulator, "GET", "counters")
    assert counters["total"]["calls"] == 2
    assert counters["by_tenant"]["acme"]["completed"] == 1
    assert counters["open_connections"] >= 1
    assert [c["tenant"] for c in (await control(http, emulator, "GET", "calls?tenant=other"))[1]] == ["other"]
    await control(http, emulator, "POST", "reset")
    assert (await control(http, emulator, "GET", "counters"))[1]["total"] == {}


async def test_a_quota_throttles_settles_and_attributes(http: Any, emulator: Emulator) -> None:
    await control(
        http, emulator, "PUT", "quota", [{"model": "*nova*", "tokens_per_minute": 100, "retry_after": 3}]
    )
    config = {"inferenceConfig": {"maxTokens": 90}, "requestMetadata": {"tenant": "acme"}}
    assert (await converse(http, emulator, "[[tokens=20]]", **config))[0] == 200
    status, answer = await converse(http, emulator, "[[tokens=20]]", **config)
    assert (status, answer["message"]) == (429, "Too many tokens, please wait before trying again.")
    _, pools = await control(http, emulator, "GET", "quota")
    [(name, pool)] = pools.items()
    assert name == "amazon.nova-lite-v1:0|us-east-1"
    assert (pool["calls"], pool["throttles"], pool["active"]) == (1, 1, 0)
    assert pool["settled_tokens"] == 20 + emulator.calls[0].input_tokens
    assert pool["by_tenant"] == {"acme": pool["settled_tokens"]}
    assert pool["settled_by_second"][0][1] == pool["settled_tokens"]


async def test_calls_at_once_are_bounded_and_slots_come_back(http: Any, emulator: Emulator) -> None:
    emulator.set_quota({"max_concurrency": 2})
    results = await asyncio.gather(*(converse(http, emulator, f"[[latency_ms=300]] {n}") for n in range(6)))
    assert sorted(status for status, _ in results).count(200) >= 2
    assert emulator.quota()["amazon.nova-lite-v1:0|us-east-1"]["max_active"] == 2
    assert (await converse(http, emulator))[0] == 200


async def test_each_region_has_a_quota_of_its_own(http: Any, emulator: Emulator) -> None:
    emulator.set_quota({"requests_per_minute": 1})
    for region in ("us-east-1", "us-west-2"):
        url = f"{emulator.url}/_region/{region}/model/{quote(NOVA, safe='')}/converse"
        for status in (200, 429):
            async with http.post(url, json={"messages": user("hi")}) as response:
                assert response.status == status


async def test_signatures_of_boto3_are_verified(emulator: Emulator) -> None:
    async with Emulator(auth=AuthPolicy(secrets={ACCESS_KEY: SECRET_KEY})) as strict:

        def ask() -> Any:
            client = make_boto3(strict.url, region="eu-west-1")
            try:
                return client.converse(modelId=NOVA, messages=user("hi"))["stopReason"]
            finally:
                client.close()

        assert await asyncio.to_thread(ask) == "end_turn"
        assert strict.calls[0].region == "eu-west-1"
    async with Emulator(auth=AuthPolicy(secrets={ACCESS_KEY: "another"})) as other:

        def fail() -> Any:
            client = make_boto3(other.url)
            try:
                with pytest.raises(ClientError) as raised:
                    client.converse(modelId=NOVA, messages=user("hi"))
                return raised.value.response
            finally:
                client.close()

        response = await asyncio.to_thread(fail)
        assert response["Error"]["Code"] == "InvalidSignatureException"
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 403


async def test_the_control_plane_is_throttled_only_by_rules_that_name_it(http: Any, emulator: Emulator) -> None:
    emulator.add_rule(behave="fault=internal")
    async with http.get(f"{emulator.url}/inference-profiles") as response:
        assert response.status == 200
    emulator.load({"rule": [{"operation": "inference-*", "nth": [1], "behave": "fault=throttling"}]})
    for status in (429, 200):
        async with http.get(f"{emulator.url}/inference-profiles?maxResults=5") as response:
            assert response.status == status
    assert emulator.counters()["total"] == {"inference-profiles": 2, "inference-profiles refused": 1}
    assert (await converse(http, emulator))[0] == 200


async def test_waiting_sees_even_a_call_that_is_over_at_once(http: Any, emulator: Emulator) -> None:
    waiting = asyncio.ensure_future(emulator.wait_until(lambda e: e.active_calls == 1))
    await converse(http, emulator)
    async with asyncio.timeout(60):
        await waiting
    await emulator.wait_until(lambda e: e.active_calls == 0)


async def test_application_profiles_stand_for_their_model(http: Any) -> None:
    scenario = {"models": ["amazon.nova-lite-v1:0"], "profiles": {"team-a": "amazon.nova-lite-v1:0"}}
    async with Emulator(scenario=scenario) as emulator:
        arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/{}"
        for name, status in (("team-a", 200), ("team-b", 400)):
            url = f"{emulator.url}/model/{quote(arn.format(name), safe='')}/converse"
            async with http.post(url, json={"messages": user("hi")}) as response:
                assert response.status == status


async def test_many_paced_streams_run_at_once(http: Any, emulator: Emulator) -> None:
    url = f"{emulator.url}/model/{quote(NOVA, safe='')}/converse-stream"

    async def stream(number: int) -> int:
        body = {"messages": user(f"[[tokens=40 tps=40]] {number}")}
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            return len(await response.read())

    sizes = await asyncio.gather(*(stream(number) for number in range(100)))
    assert all(sizes)
    assert emulator.counters()["max_active"] > 50
    assert emulator.counters()["total"]["completed"] == 100


def test_a_process_of_its_own_reads_a_scenario_and_is_controlled(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text('default = "text=\\"from the file\\""\n')
    with spawn_emulator(scenario=path) as process:
        client = make_boto3(process.url)
        reply = client.converse(modelId=NOVA, messages=user("hi"))
        client.close()
        assert reply["output"]["message"]["content"] == [{"text": "from the file"}]
        assert process.control("GET", "counters")["total"]["completed"] == 1
