import time
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sidecar.emulator.auth import AuthPolicy, authorize, read_region
from sidecar.emulator.exceptions import Refusal

HOST = "bedrock-runtime.eu-west-1.amazonaws.com"
TARGET = "/model/us.amazon.nova-lite-v1%3A0/converse"
SECRETS = {"AKIA": "secret"}


def sign(
    body: bytes = b"{}", *, target: str = TARGET, secret: str = SECRETS["AKIA"], key: str = "AKIA"
) -> dict[str, str]:
    request = AWSRequest(
        "POST", f"https://{HOST}{target}", headers={"Content-Type": "application/json"}, data=body
    )
    SigV4Auth(Credentials(key, secret), "bedrock", "eu-west-1").add_auth(request)
    return {"host": HOST, **{k: v for k, v in request.headers.items()}, **lower(dict(request.headers.items()))}


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def let_in(policy: AuthPolicy, headers: dict[str, str], *, body: bytes = b"{}", target: str = TARGET) -> None:
    authorize(policy, method="POST", target=target, headers=headers, body=body)


def test_by_default_anybody_may_call() -> None:
    let_in(AuthPolicy(), {})


def test_a_right_signature_is_accepted_and_tells_its_region() -> None:
    headers = sign()
    let_in(AuthPolicy(secrets=SECRETS), headers)
    assert read_region(headers["Authorization"]) == "eu-west-1"


def test_the_query_is_part_of_the_signature() -> None:
    target = "/foundation-models?byProvider=anthropic&byOutputModality=TEXT"
    let_in(AuthPolicy(secrets=SECRETS), sign(target=target), target=target)


@pytest.mark.parametrize(
    ("headers", "body", "error_type"),
    [
        (dict, b"{}", "MissingAuthenticationTokenException"),
        (lambda: {"Authorization": "Basic eHg="}, b"{}", "MissingAuthenticationTokenException"),
        (lambda: sign(secret="wrong"), b"{}", "InvalidSignatureException"),
        (sign, b'{"changed": true}', "InvalidSignatureException"),
        (lambda: sign(key="AKIAOTHER"), b"{}", "UnrecognizedClientException"),
        (lambda: {"Authorization": "Bearer nobody"}, b"{}", "AccessDeniedException"),
    ],
)
def test_others_are_refused_with_403(headers: Any, body: bytes, error_type: str) -> None:
    # Signed now and not when tests are collected: a signature lives five minutes.
    with pytest.raises(Refusal) as refused:
        let_in(AuthPolicy(secrets=SECRETS), headers(), body=body)
    assert (refused.value.kind.error_type, refused.value.kind.status) == (error_type, 403)


def test_bearer_tokens() -> None:
    policy = AuthPolicy(bearer_tokens=frozenset({"token-1"}))
    let_in(policy, {"Authorization": "Bearer token-1"})
    with pytest.raises(Refusal):
        let_in(policy, {"Authorization": "Bearer token-2"})
    let_in(AuthPolicy(is_required=True), {"Authorization": "Bearer anything"})
    with pytest.raises(Refusal):
        let_in(AuthPolicy(is_required=True), {})


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(3600, "not yet current"), (-3600, "Signature expired"), (200, None)]
)
def test_a_signature_of_another_time_is_refused_as_by_aws(
    monkeypatch: pytest.MonkeyPatch, ahead_s: float, words: str | None
) -> None:
    headers = sign()
    real = time.time()
    monkeypatch.setattr("sidecar.emulator.auth.time.time", lambda: real - ahead_s)
    if words is None:
        let_in(AuthPolicy(secrets=SECRETS), headers)
        return
    with pytest.raises(Refusal, match=words):
        let_in(AuthPolicy(secrets=SECRETS), headers)
