"""No name of the operator's side comes out of the Bedrock adapter, whatever fails and by whichever transport; the
operator's log has it."""

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.errors import SidecarError
from sidecar.response_formatter.formatter import error_info
from tests.support.bedrock_calls import TRANSPORTS, call, manager, outcome
from tests.support.raw_bedrock import (
    START,
    STREAM_HEAD,
    RawBedrock,
    Script,
    chunk,
    exception,
    frame,
    raw_bedrock,
    response,
    sends,
    streams,
    text,
)

ACCOUNT, KEY_ID = "424242424242", "ASIACANARY0123456789"
HOST = "vpce-0a1b2c3d4e5f60718-canary.bedrock-runtime.us-east-1.vpce.amazonaws.com"
ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/canary-role/canary-session"
PROFILE = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/canaryprofile"
SAID = (
    f"User: {ROLE} is not authorized to perform: bedrock:InvokeModel on resource: {PROFILE} with key {KEY_ID} "
    f"of account {ACCOUNT} at {HOST} (10.20.30.40)"
)
CANARIES = (ACCOUNT, KEY_ID, "canary", "10.20.30.40")
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYwhatasecre"

Transport = Literal["aiohttp", "boto3"]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged in another test is logged again."""
    monkeypatch.setattr("sidecar.adapters.bedrock.foreign.AGAIN_AFTER_S", 0.0)


@pytest.fixture
async def raw() -> AsyncIterator[RawBedrock]:
    async with raw_bedrock() as opened:
        yield opened


def seen_by_a_tenant(error: object) -> str:
    assert isinstance(error, SidecarError), repr(error)
    return f"{error} {error.args} {error_info(error)}"


def seen_by_the_operator(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(str(record.__dict__) for record in caplog.records)


def check(error: object, caplog: pytest.LogCaptureFixture, *, expected: tuple[str, ...] = CANARIES) -> None:
    told = seen_by_a_tenant(error)
    assert not [canary for canary in CANARIES if canary in told], told
    logged = seen_by_the_operator(caplog)
    assert [canary for canary in expected if canary not in logged] == []
    if expected:
        assert isinstance(error, SidecarError)
        assert error.details["error_id"] in logged
    assert SECRET not in logged


KINDS = (
    "AccessDeniedException",
    "ValidationException",
    "ThrottlingException",
    "ServiceQuotaExceededException",
    "ResourceNotFoundException",
    "ModelNotReadyException",
    "ModelErrorException",
    "ModelTimeoutException",
    "ServiceUnavailableException",
    "InternalServerException",
    "UnrecognizedClientException",
    "ExpiredTokenException",
    "SomethingNewException",
)
STATUSES = {"AccessDeniedException": 403, "ThrottlingException": 429, "InternalServerException": 500}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_names_nobody(
    kind: str, is_stream: bool, raw: RawBedrock, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = {"message": f"{SAID}, secret {SECRET}"}
    raw.script = sends(response(refusal, status=STATUSES.get(kind, 400), x_amzn_errortype=kind))
    async with manager(raw.url, transport) as client:
        check(await outcome(client, call(), is_stream=is_stream), caplog)


ODD: dict[str, tuple[bytes, dict[str, str]]] = {
    "a page": (f"<html>{SAID}</html>".encode(), {"content-type": "text/html"}),
    "no object": (f'["{SAID}"]'.encode(), {}),
    "a nested message": (f'{{"message": {{"text": "{SAID}"}}}}'.encode(), {}),
    "a message in capitals": (f'{{"Message": "{SAID}"}}'.encode(), {}),
    "a type that is a sentence": (b"{}", {"x-amzn-errortype": SAID}),
    "a type in the body": (f'{{"__type": "{SAID}", "message": "no"}}'.encode(), {}),
    "a code in the body": (f'{{"code": "{SAID}", "message": "no"}}'.encode(), {}),
    "an id that is a sentence": (b'{"message": "no"}', {"x-amzn-requestid": SAID}),
    "a number": (b"1", {}),
    "a type that is none": (b'{"__type": ["x"], "code": {}, "message": 1}', {}),
    "too deep": (b"[" * 50_000, {}),
    "bytes": (b"\xff\xfe" + SAID.encode("utf-16"), {}),
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("status", [400, 403, 503])
@pytest.mark.parametrize("shape", ODD)
async def test_a_refusal_of_an_odd_shape_names_nobody(
    shape: str,
    status: int,
    is_stream: bool,
    raw: RawBedrock,
    transport: Transport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body, headers = ODD[shape]
    raw.script = sends(response(body, status=status, **{k.replace("-", "_"): v for k, v in headers.items()}))
    async with manager(raw.url, transport) as client:
        check(await outcome(client, call(), is_stream=is_stream), caplog, expected=())


def error_frame() -> bytes:
    return frame(b"", message_type="error", error_code="InternalFailure", error_message=SAID)


STREAMS: dict[str, Script] = {
    **{
        f"{kind}{' after text' if begun else ''}": streams(
            *((START, text("Hel")) if begun else ()),
            exception(kind, SAID, originalMessage=SAID, originalStatusCode=500),
        )
        for kind in ("throttlingException", "validationException", "modelStreamErrorException", "somethingNew")
        for begun in (False, True)
    },
    "an error frame": streams(START, error_frame()),
}
ODD_FRAMES: dict[str, Script] = {
    name: streams(START, frame(payload, exception_type=kind, message_type="exception"))
    for name, payload, kind in (
        ("a page", f"<html>{SAID}".encode(), "validationException"),
        ("a list", f'["{SAID}"]'.encode(), "modelStreamErrorException"),
        ("a message that is none", f'{{"message": ["{SAID}"]}}'.encode(), "throttlingException"),
        ("a type that is a sentence", b"{}", SAID),
    )
}


@pytest.mark.parametrize("shape", ODD_FRAMES)
async def test_an_exception_frame_of_an_odd_shape_names_nobody(
    shape: str, raw: RawBedrock, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    raw.script = ODD_FRAMES[shape]
    async with manager(raw.url, transport) as client:
        check(await outcome(client, call(), is_stream=True), caplog, expected=())


@pytest.mark.parametrize("trouble", STREAMS)
async def test_trouble_in_a_stream_names_nobody(
    trouble: str, raw: RawBedrock, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    raw.script = STREAMS[trouble]
    # What botocore does not know it hands on without its text.
    expected = () if transport == "boto3" and "somethingNew" in trouble else CANARIES
    async with manager(raw.url, transport) as client:
        check(await outcome(client, call(), is_stream=True), caplog, expected=expected)


@pytest.mark.parametrize(
    "script",
    [
        sends(response(SAID.encode(), content_type=f"text/html; host={HOST}")),
        sends(STREAM_HEAD, chunk(SAID.encode())),
        sends(STREAM_HEAD.replace(b"request-1", SAID.encode()), chunk(START)),
        sends(response(f'["{SAID}"]'.encode())),
        sends(response(f'{{"output": "{SAID}"}}'.encode())),
        sends(STREAM_HEAD, chunk(frame(f'["{SAID}"]'.encode(), event_type="messageStart", message_type="event"))),
        sends(SAID.encode()),
        sends(b"HTTP/1.1 200 " + SAID.encode() + b"\r\nbroken header " + SAID.encode() + b"\r\n\r\n"),
        sends(b"HTTP/1.1 302 Found\r\nLocation: http://" + HOST.encode() + b"/\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=[
        "another type",
        "no frames",
        "an id that is a sentence",
        "a list",
        "a text",
        "a list in a frame",
        "no HTTP",
        "broken headers",
        "elsewhere",
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_no_answer_names_nobody(
    script: Script, is_stream: bool, raw: RawBedrock, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    raw.script = script
    async with manager(raw.url, transport) as client:
        check(await outcome(client, call(), is_stream=is_stream), caplog, expected=())


async def nobody_there(raw: RawBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def unknown(host: str, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, f"Name or service not known: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return f"https://{HOST}"


async def a_proxy(raw: RawBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://canary-user:{SECRET}@127.0.0.1:{port}")
    return await nobody_there(raw, tmp_path, monkeypatch)


async def no_profile(raw: RawBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    bare(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "canary-profile")
    return raw.url


async def a_file_that_is_none(raw: RawBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    bare(monkeypatch, tmp_path / "canary-folder")
    (tmp_path / "canary-folder").mkdir()
    (tmp_path / "canary-folder/credentials").write_text("[default\ncanary")
    return raw.url


async def a_process_that_fails(raw: RawBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    bare(monkeypatch, tmp_path)
    command = "sh -c 'echo canary-vault >&2; exit 3'"
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
    return raw.url


async def a_vault_that_refuses(raw: RawBedrock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    bare(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{raw.url}/canary-keys")
    raw.script = sends(response({"message": SAID}, status=403))
    return raw.url


def bare(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


Circumstances = Callable[[RawBedrock, Path, pytest.MonkeyPatch], Any]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "circumstances",
    [nobody_there, a_proxy, no_profile, a_file_that_is_none, a_process_that_fails, a_vault_that_refuses],
    ids=lambda found: found.__name__,
)
async def test_our_own_surroundings_are_not_named(
    circumstances: Circumstances,
    is_stream: bool,
    raw: RawBedrock,
    transport: Transport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    url = await circumstances(raw, tmp_path, monkeypatch)
    async with manager(url, transport) as client:
        check(await outcome(client, call(), is_stream=is_stream), caplog, expected=("canary",))


async def test_a_guardrails_refusal_names_nobody(
    raw: RawBedrock, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    raw.script = sends(response({"message": SAID}, status=400, x_amzn_errortype="ValidationException"))
    async with manager(raw.url, transport) as client:
        check(await asked(client), caplog)


async def asked(client: BedrockManager) -> object:
    try:
        return await client.apply_guardrail(
            "g1", version="1", text="hello", source="INPUT", region="us-east-1", timeout_s=10
        )
    except SidecarError as e:
        return e


async def test_tls_that_is_not_trusted_names_nobody(
    transport: Transport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with raw_bedrock(context) as raw:
        url = raw.url.replace("127.0.0.1", "localhost")
        async with manager(url, transport) as client:
            ended = await outcome(client, call(), is_stream=False)
    assert "localhost" not in seen_by_a_tenant(ended)
    assert "127.0.0.1" not in seen_by_a_tenant(ended)


async def test_the_same_error_is_logged_once_a_minute_under_one_id(
    raw: RawBedrock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sidecar.adapters.bedrock.foreign.AGAIN_AFTER_S", 3600.0)
    raw.script = sends(response({"message": SAID}, status=403, x_amzn_errortype="AccessDeniedException"))
    async with manager(raw.url, "aiohttp") as client:
        ended = [await outcome(client, call(), is_stream=False) for _ in range(3)]
    assert len({error.details["error_id"] for error in ended if isinstance(error, SidecarError)}) == 1
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 1
