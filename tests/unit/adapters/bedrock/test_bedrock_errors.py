"""The table from Bedrock's refusals to typed errors."""

import pytest
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from sidecar.adapters.bedrock.errors import http_error, kind_of, provider_error, stream_error
from sidecar.errors import (
    AccountRefused,
    ContextOverflow,
    DailyQuotaExhausted,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    Permanent,
    SidecarError,
    Temporary,
    Throttled,
)


def test_every_modelled_error_is_in_the_table_under_its_own_name() -> None:
    service = Session().get_service_model("bedrock-runtime")
    shapes = {
        shape.name: shape.metadata["error"]["httpStatusCode"]
        for operation in ("Converse", "ConverseStream")
        for shape in service.operation_model(operation).error_shapes
    }
    assert len(shapes) >= 9
    for name, status in shapes.items():
        typed = provider_error(name, "said", status=status)
        untyped = provider_error("", "said", status=status)
        in_stream = stream_error(name[0].lower() + name[1:], b'{"message": "said"}', None)
        assert type(typed) is type(in_stream)
        if name != "ModelNotReadyException":
            assert type(typed) is type(untyped), name


@pytest.mark.parametrize(
    "message",
    [
        "Input is too long for requested model.",
        "prompt is too long: 208310 tokens > 200000 maximum",
        "Too many input tokens",
        "The model returned the following errors: Input Tokens Exceeded: Number of input tokens exceeds maximum "
        "length. Please update the input to try again.",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "This model's maximum context length is 131072 tokens.",
    ],
)
def test_context_overflow_is_known_by_its_message(message: str) -> None:
    error = provider_error("ValidationException", message, status=400)
    assert type(error) is ContextOverflow
    assert not error.is_retryable


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("ThrottlingException", "Too many tokens per day, please wait before trying again.", DailyQuotaExhausted),
        ("ThrottlingException", "Too many tokens, please wait before trying again.", Throttled),
        ("ModelNotReadyException", "Model is not ready for inference.", ModelUnavailable),
        ("ValidationException", "This model version has reached the end of its life.", Permanent),
        (
            "ValidationException",
            "Invocation of model ID m with on-demand throughput isn’t supported. Retry with an inference profile.",
            Permanent,
        ),
        ("ExpiredTokenException", "expired", AccountRefused),
        ("SomethingNewException", "?", InvalidRequest),
    ],
)
def test_messages_that_decide(kind: str, message: str, expected: type[SidecarError]) -> None:
    assert type(provider_error(kind, message, status=429 if "Throttl" in kind else 400)) is expected


def test_unknown_type_in_a_stream_may_go_away_by_itself() -> None:
    assert type(stream_error("somethingNewException", b"not json", "r")) is ModelFailed


def test_stream_error_keeps_what_the_model_said() -> None:
    error = stream_error(
        "modelStreamErrorException",
        b'{"message": "m", "originalStatusCode": 529, "originalMessage": "overloaded"}',
        "r-1",
    )
    assert error.details == {
        "provider_code": "modelStreamErrorException",
        "request_id": "r-1",
        "originalStatusCode": 529,
        "originalMessage": "overloaded",
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"x-amz-retry-after": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 -0000", "date": "Wed, 21 Oct 2015 07:28:00 -0000"}, 30.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    error = http_error(429, headers, b"{}")
    assert isinstance(error, Temporary)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    "raw",
    ["ThrottlingException", "ThrottlingException:http://x/", "com.x#ThrottlingException", "throttlingException"],
)
def test_error_types_in_all_spellings(raw: str) -> None:
    assert kind_of(raw) == "throttling"


@given(
    status=st.integers(300, 599),
    body=st.binary(max_size=60),
    kind=st.text(max_size=30),
    retry=st.text(max_size=20),
)
def test_any_refusal_is_some_typed_error(status: int, body: bytes, kind: str, retry: str) -> None:
    error = http_error(status, {"x-amzn-errortype": kind, "retry-after": retry}, body)
    assert isinstance(error, Temporary | Permanent)
    assert error.details["http_status"] == status
