"""Credentials: by botocore's chain, never in the event loop's way."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.errors import AccessDenied, AccountRefused, ModelUnavailable
from sidecar.models.call import ModelReply
from tests.support.bedrock_calls import TRANSPORTS, call, manager, outcome
from tests.support.raw_bedrock import (
    METADATA,
    START,
    STOP,
    STREAM_HEAD,
    RawBedrock,
    answer,
    chunk,
    raw_bedrock,
    response,
    sends,
    streams,
    text,
)

BEDROCK_OK = sends(response(answer([{"text": "ok"}]), connection="close"))


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def bedrock() -> AsyncIterator[RawBedrock]:
    async with raw_bedrock() as raw:
        raw.script = BEDROCK_OK
        yield raw


@pytest.fixture
async def vault() -> AsyncIterator[RawBedrock]:
    """Answers as a container credential endpoint does."""
    async with raw_bedrock() as raw:
        yield raw


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Any:
    return request.param


def keys(name: str, *, lives_s: float) -> bytes:
    expires = datetime.now(UTC) + timedelta(seconds=lives_s)
    body = {
        "AccessKeyId": name,
        "SecretAccessKey": "secret",
        "Token": "token",
        "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return response(body, connection="close")


def signer_of(request: bytes) -> str:
    head = request.split(b"\r\n\r\n", 1)[0].decode()
    line = next(line for line in head.split("\r\n") if line.lower().startswith("authorization:"))
    return line.split("Credential=", 1)[1].split("/", 1)[0] if "Credential=" in line else line.split(": ", 1)[1]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")


def key_of(client: BedrockManager) -> str:
    return getattr(client._credentials._auth, "access_key", "") if client._credentials else ""


async def test_keys_of_the_environment_sign(
    bedrock: RawBedrock, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with manager(bedrock.url, transport) as client:
        await client.converse(call())
    assert signer_of(bedrock.requests[0]) == "AKIDENV"


async def test_a_bearer_token_wins_over_keys(bedrock: RawBedrock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "the-token")
    async with manager(bedrock.url, "aiohttp") as client:
        await client.converse(call())
    assert signer_of(bedrock.requests[0]) == "Bearer the-token"


async def test_botocore_sends_no_bearer_token_to_a_plain_local_endpoint(
    bedrock: RawBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "the-token")
    async with manager(bedrock.url, "boto3") as client:
        assert isinstance(await outcome(client, call(), is_stream=False), AccessDenied)
    assert bedrock.requests == []


async def test_a_bearer_token_never_goes_over_an_open_connection(
    transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "the-token")
    async with manager("http://bedrock.example.invalid", transport) as client:
        for is_stream in (False, True):
            ended = await outcome(client, call(), is_stream=is_stream)
            assert isinstance(ended, AccessDenied)
            assert "https" in ended.for_operator
            assert "the-token" not in ended.for_operator


async def test_a_local_endpoint_needs_no_keys(bedrock: RawBedrock, transport: Any) -> None:
    async with manager(bedrock.url, transport) as client:
        assert isinstance(await outcome(client, call(), is_stream=False), ModelReply)
    assert signer_of(bedrock.requests[0]) == "local"


async def test_missing_credentials_say_what_to_do(transport: Any) -> None:
    async with manager("https://bedrock.example.invalid", transport) as client:
        for is_stream in (False, True):
            ended = await outcome(client, call(), is_stream=is_stream)
            assert isinstance(ended, AccountRefused)
            assert "AWS_ACCESS_KEY_ID" in ended.for_operator
            assert ended.details["provider_code"] == "NoCredentials"


async def test_a_profile_that_is_not_there(bedrock: RawBedrock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    async with manager(bedrock.url, "aiohttp") as client:
        ended = await outcome(client, call(), is_stream=False)
    assert isinstance(ended, AccountRefused)
    assert ended.details["provider_code"] == "ProfileNotFound"


async def test_many_calls_ask_a_slow_source_once(
    bedrock: RawBedrock, vault: RawBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")

    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(keys("ASLOW", lives_s=3600))

    vault.script = slow
    async with manager(bedrock.url, "aiohttp") as client:
        await asyncio.gather(*(client.converse(call()) for _ in range(20)))
    assert len(vault.requests) == 1
    assert {signer_of(request) for request in bedrock.requests} == {"ASLOW"}


async def test_near_expiry_calls_go_on_while_new_keys_are_fetched(
    bedrock: RawBedrock, vault: RawBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
    # Within botocore's advisory window of 15 minutes, but not its mandatory one of 10.
    vault.script = sends(keys("AOLD", lives_s=12 * 60))
    now = [1000.0]
    async with manager(bedrock.url, "aiohttp") as client:
        assert client._credentials is not None
        client._credentials._clock = lambda: now[0]
        await client.converse(call())
        may_answer = asyncio.Event()

        async def stalled(writer: asyncio.StreamWriter) -> None:
            await may_answer.wait()
            writer.write(keys("ANEW", lives_s=3600))

        vault.script = stalled
        now[0] += 60
        await client.converse(call())
        assert signer_of(bedrock.requests[-1]) == "AOLD", "a call does not wait for what is valid still"
        may_answer.set()
        await until(
            lambda: (
                client._credentials is not None and getattr(client._credentials._auth, "access_key", "") == "ANEW"
            )
        )
        await client.converse(call())
    assert signer_of(bedrock.requests[-1]) == "ANEW"


async def test_a_source_that_fails_is_no_lasting_refusal(
    bedrock: RawBedrock, vault: RawBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.01)
    vault.script = sends(response(b"{}", status=500, connection="close"))
    async with manager(bedrock.url, "aiohttp") as client:
        ended = await outcome(client, call(), is_stream=False)
        assert isinstance(ended, ModelUnavailable)
        vault.script = sends(keys("ALATER", lives_s=3600))
        assert isinstance(await outcome(client, call(), is_stream=False), ModelReply)


EXPIRED = response(
    {"message": "expired"}, status=403, x_amzn_errortype="ExpiredTokenException", connection="close"
)


@pytest.mark.parametrize("is_stream", [False, True], ids=["converse", "stream"])
async def test_an_expired_session_is_renewed_and_the_call_made_once_more(
    bedrock: RawBedrock, vault: RawBedrock, transport: Any, is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first keys are refused from the second call on: whoever calls does not notice."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
    vault.script = sends(keys("AFIRST", lives_s=3600))

    async def answers(writer: asyncio.StreamWriter) -> None:
        is_refused = signer_of(bedrock.requests[-1]) == "AFIRST"
        if is_refused or not is_stream:
            writer.write(EXPIRED if is_refused else response(answer([{"text": "ok"}]), connection="close"))
        else:
            writer.write(
                STREAM_HEAD + chunk(START) + chunk(text("ok")) + chunk(STOP) + chunk(METADATA) + b"0\r\n\r\n"
            )

    async with manager(bedrock.url, transport) as client:
        assert isinstance(await outcome(client, call(), is_stream=False), ModelReply)
        bedrock.script = answers
        vault.script = sends(keys("ASECOND", lives_s=3600))
        assert isinstance(await outcome(client, call(), is_stream=is_stream), ModelReply)
        assert [signer_of(request) for request in bedrock.requests] == ["AFIRST", "AFIRST", "ASECOND"]


async def test_a_refusal_that_newer_keys_do_not_mend_is_told_after_one_more_look(
    bedrock: RawBedrock, vault: RawBedrock, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what keeps calls from being made is looked at without one: other keys are a sign, the same are none."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
    vault.script = sends(keys("AFIRST", lives_s=3600))
    bedrock.script = sends(EXPIRED)
    async with manager(bedrock.url, transport) as client:
        ended = await outcome(client, call(), is_stream=False)
        assert isinstance(ended, AccountRefused)
        assert (ended.hold, ended.is_retryable) == ("credentials_expired", True)
        assert "aws sso login" in ended.for_operator
        asked = len(bedrock.requests)
        assert isinstance(await outcome(client, call(), is_stream=False), AccountRefused)
        assert len(bedrock.requests) == asked + 1, "the same keys are not tried twice again"
        assert await client.look("credentials_expired", region=None) is False
        vault.script = sends(keys("ASECOND", lives_s=3600))
        assert await client.look("credentials_expired", region=None) is True
        assert await client.look("unreachable", region="us-east-1") is True
        assert await client.look("model_unavailable", region=None) is None
        bedrock.script = BEDROCK_OK
        assert isinstance(await outcome(client, call(), is_stream=False), ModelReply)
    assert signer_of(bedrock.requests[-1]) == "ASECOND"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_keys_that_were_changed_meanwhile_cost_no_job(
    bedrock: RawBedrock,
    vault: RawBedrock,
    monkeypatch: pytest.MonkeyPatch,
    transport: Literal["aiohttp", "boto3"],
    is_stream: bool,
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
    vault.script = sends(keys("AFIRST", lives_s=3600))
    expired = response(
        {"message": "expired"}, status=403, x_amzn_errortype="ExpiredTokenException", connection="close"
    )
    good = streams(START, text("hi"), STOP, METADATA) if is_stream else BEDROCK_OK

    async def by_signer(writer: asyncio.StreamWriter) -> None:
        vault.script = sends(keys("ASECOND", lives_s=3600))
        is_old = signer_of(bedrock.requests[-1]) == "AFIRST"
        await (sends(expired) if is_old else good)(writer)

    bedrock.script = by_signer
    async with manager(bedrock.url, transport) as client:
        for _ in range(2):
            assert isinstance(await outcome(client, call(), is_stream=is_stream), ModelReply)
    assert [signer_of(request) for request in bedrock.requests] == ["AFIRST", "ASECOND", "ASECOND"]


async def paced(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(START))
    for _ in range(40):
        writer.write(chunk(text("word ")))
        await writer.drain()
        await asyncio.sleep(0.025)
    writer.write(chunk(STOP) + chunk(METADATA) + b"0\r\n\r\n")


async def longest_stall(client: BedrockManager, during: asyncio.Task[Any]) -> float:
    """The longest time that the event loop did not come round, in seconds."""
    worst, last = 0.0, time.perf_counter()
    while not during.done():
        await asyncio.sleep(0.002)
        now = time.perf_counter()
        worst, last = max(worst, now - last - 0.002), now
    return worst


async def test_streams_flow_while_a_slow_source_is_asked(
    bedrock: RawBedrock, vault: RawBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source takes 1.5 s; were it asked on the event loop, nothing would move for as long."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{vault.url}/keys")
    vault.script = sends(keys("AFIRST", lives_s=3600))
    bedrock.script = paced
    async with manager(bedrock.url, "aiohttp") as client:
        running = [asyncio.create_task(outcome(client, call(), is_stream=True)) for _ in range(20)]
        await until(lambda: len(bedrock.requests) == 20)

        async def slow(writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(1.5)
            writer.write(keys("ASECOND", lives_s=3600))

        vault.script = slow
        assert client._credentials is not None
        client._credentials.invalidate()
        waiting = asyncio.create_task(outcome(client, call(), is_stream=True))
        stall = await longest_stall(client, waiting)
        assert isinstance(await waiting, ModelReply)
        assert all(isinstance(ended, ModelReply) for ended in await asyncio.gather(*running))
    assert stall < 1.0
    assert len(vault.requests) == 2
    assert signer_of(bedrock.requests[-1]) == "ASECOND"
