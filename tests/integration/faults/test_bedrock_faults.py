"""The fault wall: whatever goes wrong ends in exactly one typed outcome, the same by both transports."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.errors import (
    AccessDenied,
    AccountRefused,
    CallTimeout,
    ContextOverflow,
    DailyQuotaExhausted,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    Permanent,
    SidecarError,
    Throttled,
    Unreachable,
)
from sidecar.models.call import CallLimits, ModelReply
from sidecar.models.content import OtherBlock, ToolUseBlock
from tests.support.answer_faults import (
    BROKEN_STREAMS,
    BROKEN_WHOLE,
    EXCEPTION_FRAMES,
    GOOD,
    WHOLE_ALL_THE_SAME,
    Fault,
    Oddity,
)
from tests.support.bedrock_calls import TRANSPORTS, call, limits, manager, outcome, text_of, tool_calls_of
from tests.support.raw_bedrock import (
    METADATA,
    START,
    RawBedrock,
    Script,
    answer,
    event,
    raw_bedrock,
    response,
    sends,
    streams,
    then_hangs,
    tool,
)

SHORT = limits(first_token_s=1.0, idle_s=0.5, total_s=20)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[RawBedrock]:
    async with raw_bedrock() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def clients(server: RawBedrock) -> AsyncIterator[dict[str, BedrockManager]]:
    """One client of each transport; what its first call makes must not count towards a limit under test."""
    async with manager(server.url, "aiohttp") as one, manager(server.url, "boto3") as other:
        for opened in (one, other):
            server.script = sends(response(answer([{"text": "ready"}]), connection="close"))
            await opened.converse(call())
        yield {"aiohttp": one, "boto3": other}


@pytest.fixture
def raw(server: RawBedrock) -> RawBedrock:
    server.requests.clear()
    return server


@pytest.fixture
def client(clients: dict[str, BedrockManager], transport: str) -> BedrockManager:
    return clients[transport]


# Only here: what limits a whole job is tried on its way.
TOO_LONG = Fault(
    "longer than the total", then_hangs(streams(*GOOD[:3], is_ended=False)), CallTimeout, True, "total"
)


@pytest.mark.parametrize("fault", [*EXCEPTION_FRAMES, *BROKEN_STREAMS, TOO_LONG], ids=lambda fault: fault.name)
async def test_stream_fault_ends_in_one_typed_error(fault: Fault, raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = fault.script
    allowed = {None: limits(), "total": limits(total_s=1.0)}.get(fault.limit, SHORT)
    ended = await outcome(client, call(limits=allowed), is_stream=True)
    assert type(ended) is fault.error
    if fault.limit:
        assert isinstance(ended, CallTimeout)
        assert ended.limit == fault.limit
    assert len(raw.requests) == 1, "a call is never sent again below the pipeline"


@dataclass(frozen=True)
class Survived:
    """A fault that leaves the answer whole, or shows what is wrong with it."""

    name: str
    script: Script
    check: Callable[[ModelReply], None]
    limits: CallLimits = field(default_factory=limits)


def is_estimated(reply: ModelReply) -> None:
    assert text_of(reply) == "Hello world"
    assert reply.stop_reason == "end_turn"
    assert reply.usage_basis == "estimated"
    assert any("usage" in warning for warning in reply.warnings)


def is_observed(reply: ModelReply) -> None:
    assert text_of(reply) == "Hello world"
    assert reply.usage_basis == "observed"
    assert reply.usage.input_tokens == 3


def has_unknown_block(reply: ModelReply) -> None:
    assert text_of(reply) == "Hello world"
    assert any(isinstance(block, OtherBlock) for block in reply.content)
    assert any("kept as it came" in warning for warning in reply.warnings)


def has_distinct_ids(reply: ModelReply) -> None:
    calls = tool_calls_of(reply)
    assert [name for _, name, _ in calls] == ["one", "two"]
    assert len({use_id for use_id, _, _ in calls}) == 2
    assert any("twice" in warning for warning in reply.warnings)


def has_no_call(reply: ModelReply) -> None:
    assert reply.stop_reason == "max_tokens"
    assert not any(isinstance(block, ToolUseBlock) for block in reply.content)
    assert any("cut" in warning for warning in reply.warnings)


def stopped_for_other(reply: ModelReply) -> None:
    assert (reply.stop_reason, reply.raw_stop_reason) == ("other", "out_of_ink")
    assert any("out_of_ink" in warning for warning in reply.warnings)


SURVIVED_STREAMS = [
    Survived("good", streams(*GOOD), is_observed),
    Survived("another content type", sends(response(b"".join(GOOD), content_type="text/plain")), is_observed),
    Survived("no content type", sends(response(b"".join(GOOD), content_type="")), is_observed),
    Survived("all in one chunk", streams(b"".join(GOOD)), is_observed),
    Survived(
        "duplicate tool use ids",
        streams(
            START,
            tool("t1", "one", '{"a":1}'),
            tool("t1", "two", "", 1),
            event("messageStop", stopReason="tool_use"),
            METADATA,
        ),
        has_distinct_ids,
    ),
    Survived(
        "tool arguments cut by max_tokens",
        streams(START, tool("t1", "one", '{"a":'), event("messageStop", stopReason="max_tokens"), METADATA),
        has_no_call,
    ),
    Survived(
        "tool call without arguments cut by max_tokens",
        streams(START, tool("t1", "one", ""), event("messageStop", stopReason="max_tokens"), METADATA),
        has_no_call,
    ),
    Survived(
        "unknown stop reason",
        streams(*GOOD[:4], event("messageStop", stopReason="out_of_ink"), METADATA),
        stopped_for_other,
    ),
]


@pytest.mark.parametrize("odd", WHOLE_ALL_THE_SAME, ids=lambda odd: odd.name)
async def test_stream_whose_answer_is_whole_beside_an_oddity(
    odd: Oddity, raw: RawBedrock, client: BedrockManager
) -> None:
    raw.script = odd.script
    ended = await outcome(client, call(limits=SHORT if odd.stalls else limits()), is_stream=True)
    assert isinstance(ended, ModelReply), ended
    (is_observed if odd.is_counted else is_estimated)(ended)
    if odd.has_unknown_block:
        has_unknown_block(ended)


@pytest.mark.parametrize("fault", SURVIVED_STREAMS, ids=lambda fault: fault.name)
async def test_stream_that_is_whole_all_the_same(fault: Survived, raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = fault.script
    ended = await outcome(client, call(limits=fault.limits), is_stream=True)
    assert isinstance(ended, ModelReply), ended
    fault.check(ended)


USE_CASE = (
    "Model use case details have not been submitted for this account. Fill out the Anthropic use case details "
    "form before using the model."
)
MODELLED: list[tuple[int, str, str, type[SidecarError], str]] = [
    (429, "ThrottlingException", "Too many requests, please wait", Throttled, "throttled"),
    (429, "ThrottlingException", "Too many tokens per day, please wait", DailyQuotaExhausted, "throttled"),
    (429, "ModelNotReadyException", "not ready", ModelUnavailable, "model_unavailable"),
    (500, "InternalServerException", "oops", ModelUnavailable, "model_unavailable"),
    (503, "ServiceUnavailableException", "busy", ModelUnavailable, "model_unavailable"),
    (408, "ModelTimeoutException", "too slow", ModelFailed, "model_error"),
    (424, "ModelErrorException", "broken", ModelFailed, "model_error"),
    (400, "ValidationException", "messages.0: bad", InvalidRequest, "invalid_request"),
    (400, "ValidationException", "Input is too long for requested model.", ContextOverflow, "context_overflow"),
    (400, "ValidationException", "The provided model identifier is invalid.", Permanent, "unknown_model"),
    (400, "ServiceQuotaExceededException", "quota", Throttled, "throttled"),
    (403, "AccessDeniedException", "You don't have access to the model", AccessDenied, "access_denied"),
    (403, "ExpiredTokenException", "The security token is expired", AccountRefused, "model_unavailable"),
    (403, "UnrecognizedClientException", "The security token is invalid", AccountRefused, "model_unavailable"),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model", Permanent, "unknown_model"),
    (404, "ResourceNotFoundException", USE_CASE, AccessDenied, "access_denied"),
    (413, "", "Request Too Long", InvalidRequest, "payload_too_large"),
    (418, "TeapotException", "short and stout", InvalidRequest, "invalid_request"),
    (529, "OverloadedException", "later", ModelUnavailable, "model_unavailable"),
]


@pytest.mark.parametrize("is_stream", [False, True], ids=["converse", "stream"])
@pytest.mark.parametrize(
    ("status", "kind", "message", "error", "code"), MODELLED, ids=[f"{row[1]}-{row[4]}" for row in MODELLED]
)
async def test_refusal_becomes_its_typed_error(
    status: int,
    kind: str,
    message: str,
    error: type[SidecarError],
    code: str,
    is_stream: bool,
    raw: RawBedrock,
    client: BedrockManager,
) -> None:
    raw.script = sends(
        response(
            {"message": message},
            status=status,
            x_amzn_errortype=kind and f"{kind}:http://x/",
            x_amzn_requestid="r-9",
        )
    )
    ended = await outcome(client, call(), is_stream=is_stream)
    assert type(ended) is error
    assert isinstance(ended, SidecarError)
    assert ended.code == code
    # Which limit a refusal names has tests of its own (test_refusals_named.py).
    known = {name: value for name, value in ended.details.items() if name not in ("error_id", "limit")}
    assert known == {"provider_code": kind or f"HTTP {status}", "http_status": status, "request_id": "r-9"}
    # What is said about access names our side: the operator reads it.
    assert message in (ended.for_operator if error in (AccessDenied, AccountRefused) else ended.message)
    # Keys may have been changed a moment ago: once more by whatever is at hand then.
    # Expired keys are tried once more, unless these were before.
    assert len(raw.requests) <= (2 if kind == "ExpiredTokenException" else 1)


async def test_wish_for_a_pause_is_passed_on(raw: RawBedrock, client: BedrockManager) -> None:
    raw.script = sends(
        response({"message": "slow down"}, status=429, x_amzn_errortype="ThrottlingException", retry_after="7")
    )
    ended = await outcome(client, call(), is_stream=False)
    assert isinstance(ended, Throttled)
    assert ended.retry_after == 7.0


# How long a whole answer may take is tried on a job's way by its own limits.
STALLED = Fault("stall before headers", then_hangs(sends()), CallTimeout, limit="total")


@pytest.mark.parametrize("fault", [*BROKEN_WHOLE, STALLED], ids=lambda fault: fault.name)
async def test_whole_answer_fault_ends_in_one_typed_error(
    fault: Fault, raw: RawBedrock, client: BedrockManager
) -> None:
    raw.script = fault.script
    allowed = limits(total_s=0.5) if fault.limit else limits()
    ended = await outcome(client, call(limits=allowed), is_stream=False)
    assert type(ended) is fault.error
    if fault.limit:
        assert isinstance(ended, CallTimeout)
        assert ended.limit == fault.limit
    assert len(raw.requests) == 1


SURVIVED_WHOLE = [
    (
        "usage missing",
        {"output": {"message": {"content": [{"text": "Hello world"}]}}, "stopReason": "end_turn"},
        is_estimated,
    ),
    ("unknown block", answer([{"text": "Hello world"}, {"hologram": {"a": 1}}]), has_unknown_block),
    ("unknown stop reason", answer([{"text": "Hello"}], "out_of_ink"), stopped_for_other),
    (
        "duplicate tool use ids",
        answer(
            [
                {"toolUse": {"toolUseId": "t1", "name": "one", "input": {"a": 1}}},
                {"toolUse": {"toolUseId": "t1", "name": "two", "input": {}}},
            ],
            "tool_use",
        ),
        has_distinct_ids,
    ),
    (
        "tool arguments cut by max_tokens",
        answer([{"toolUse": {"toolUseId": "t1", "name": "one", "input": {}}}], "max_tokens"),
        has_no_call,
    ),
]


@pytest.mark.parametrize(("name", "body", "check"), SURVIVED_WHOLE, ids=[row[0] for row in SURVIVED_WHOLE])
async def test_whole_answer_with_oddities(
    name: str, body: dict[str, Any], check: Callable[[ModelReply], None], raw: RawBedrock, client: BedrockManager
) -> None:
    raw.script = sends(response(body))
    ended = await outcome(client, call(), is_stream=False)
    assert isinstance(ended, ModelReply), ended
    check(ended)


@pytest.mark.parametrize("is_stream", [False, True], ids=["converse", "stream"])
async def test_refused_connection(transport: Any, is_stream: bool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with manager(url, transport) as client:
            assert type(await outcome(client, call(), is_stream=is_stream)) is Unreachable


@pytest.mark.parametrize("is_stream", [False, True], ids=["converse", "stream"])
async def test_plain_server_behind_https(transport: Any, is_stream: bool) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 nothing of TLS here\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with manager(url, transport) as client:
            assert type(await outcome(client, call(), is_stream=is_stream)) is Unreachable


@pytest.mark.parametrize("is_stream", [False, True], ids=["converse", "stream"])
async def test_handshake_that_never_ends(transport: Any, is_stream: bool, raw: RawBedrock) -> None:
    async with manager(raw.url.replace("http:", "https:"), transport) as client:
        ended = await outcome(client, call(limits=limits(connect_s=0.5)), is_stream=is_stream)
        assert isinstance(ended, CallTimeout)
        assert ended.limit == "connect"


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        ["openssl", *made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return certificate, key


async def test_untrusted_certificate(transport: Any, self_signed: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed)
    async with raw_bedrock(context) as raw, manager(raw.url, transport) as client:
        ended = await outcome(client, call(), is_stream=False)
        assert type(ended) is Unreachable
        assert raw.requests == []


async def test_name_that_does_not_resolve(transport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with manager("http://bedrock.invalid", transport) as client:
        ended = await outcome(client, call(limits=limits(first_token_s=25)), is_stream=True)
        assert type(ended) is Unreachable
