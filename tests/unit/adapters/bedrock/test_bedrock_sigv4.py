"""Signatures against botocore's own signer."""

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.adapters.bedrock.endpoints import is_loopback, model_path, parse_endpoint
from sidecar.adapters.bedrock.sigv4 import Keys, Signer

MODEL_IDS = st.one_of(
    st.from_regex(r"[a-z0-9:-]{1,60}", fullmatch=True),
    st.sampled_from(
        [
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f",
            "odd~name/with spaces+and%41",
        ]
    ),
)


def botocore_headers(
    path: str, body: bytes, keys: Keys, now: float, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    moment = datetime.fromtimestamp(now, UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment)
    request = AWSRequest(
        "POST", f"https://bedrock.test{path}", headers={"Content-Type": "application/json"}, data=body
    )
    SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token), "bedrock", "eu-west-1").add_auth(request)
    return dict(request.headers.items())


@settings(deadline=None)
@given(
    model=MODEL_IDS,
    body=st.binary(max_size=200),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,40}", fullmatch=True),
    now=st.integers(0, 4_000_000_000),
)
def test_headers_are_those_of_botocore(model: str, body: bytes, token: str | None, now: int) -> None:
    keys = Keys("AKID", "secret/key", token)
    path = model_path(model, "converse")
    ours = Signer(region="eu-west-1", host="bedrock.test").headers(path, body, keys, now=now)
    with pytest.MonkeyPatch.context() as patch:
        theirs = botocore_headers(path, body, keys, now, patch)
    assert ours == theirs


def test_the_days_key_follows_day_and_secret() -> None:
    signer = Signer(region="eu-west-1", host="bedrock.test")
    path, now = model_path("m", "converse"), 1_700_000_000
    seen = {
        signer.headers(path, b"", keys, now=at)["Authorization"]
        for keys in (Keys("a", "one"), Keys("a", "two"))
        for at in (now, now + 86_400)
    }
    fresh = {
        Signer(region="eu-west-1", host="bedrock.test").headers(path, b"", keys, now=at)["Authorization"]
        for keys in (Keys("a", "one"), Keys("a", "two"))
        for at in (now, now + 86_400)
    }
    assert seen == fresh
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://bedrock.test", ("https://bedrock.test", "bedrock.test", "")),
        ("https://bedrock.test:443/", ("https://bedrock.test", "bedrock.test", "")),
        ("http://127.0.0.1:8080/proxy/", ("http://127.0.0.1:8080/proxy", "127.0.0.1:8080", "/proxy")),
        ("http://[::1]:99", ("http://[::1]:99", "[::1]:99", "")),
    ],
)
def test_endpoint_parts(url: str, expected: tuple[str, str, str]) -> None:
    assert tuple(parse_endpoint(url)) == expected


@pytest.mark.parametrize("url", ["bedrock.test", "ftp://x", "https://"])
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        parse_endpoint(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.9", True),
        ("http://[::1]:3", True),
        ("https://bedrock.us-east-1.amazonaws.com", False),
        ("http://10.0.0.1", False),
        ("http://localhost.example.com", False),
    ],
)
def test_loopback(url: str, expected: Any) -> None:
    assert is_loopback(url) is expected
