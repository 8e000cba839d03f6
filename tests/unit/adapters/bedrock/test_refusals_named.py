"""What a refusal names, by the service's own words."""

from email.utils import formatdate

import msgspec
import pytest

from sidecar.adapters.bedrock.errors import http_error, provider_error
from sidecar.errors import AccessDenied, AccountRefused, DailyQuotaExhausted, InvalidRequest, Throttled


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Too many tokens, please wait before trying again.", "tokens"),
        ("Too many requests, please wait before trying again.", "requests"),
        ("Your request rate is too high. Reduce the frequency of requests.", "requests"),
        ("Too many concurrent requests, please wait before trying again.", "concurrency"),
        ("Rate exceeded", None),
        ("", None),
    ],
)
def test_a_refusal_is_taken_at_its_words(message: str, limit: str | None) -> None:
    error = provider_error("ThrottlingException", message, status=429, request_id=None)
    assert type(error) is Throttled
    assert error.details.get("limit") == limit


def test_a_used_up_day_is_another_matter() -> None:
    said = "Too many tokens per day, please wait before trying again."
    assert isinstance(
        provider_error("ThrottlingException", said, status=429, request_id=None), DailyQuotaExhausted
    )


@pytest.mark.parametrize(
    ("kind", "status", "message", "words"),
    [
        ("ResourceNotFoundException", 404, "Model use case details have not been submitted.", "use case form"),
        ("AccessDeniedException", 403, "Fill out the Anthropic use case details form.", "use case form"),
        ("ExpiredTokenException", 403, "The security token included in the request is expired", "have expired"),
        ("UnrecognizedClientException", 403, "The security token included is invalid.", "access key"),
        ("AccessDeniedException", 403, "You don't have access to the model.", "no access to this model"),
        ("AccessDeniedException", 403, "arn:aws:iam::1:user/x is not authorized to perform: y", "IAM policy"),
        ("InvalidSignatureException", 403, "Signature not yet current: soon", "clock"),
        ("RequestTimeTooSkewed", 403, "The request time is too skewed", "clock"),
    ],
)
def test_a_denial_says_its_cause_and_who_mends_it(kind: str, status: int, message: str, words: str) -> None:
    error = provider_error(kind, message, status=status)
    assert type(error) is (AccountRefused if error.hold else AccessDenied)
    assert words in error.message
    assert "the operator" in error.message
    assert "arn:" not in error.message


@pytest.mark.parametrize(
    ("message", "headers", "said", "behind_s"),
    [
        (
            "Signature expired: 20260101T000000Z is now earlier than 20260101T000500Z (20260101T001000Z - 5 min.)",
            {},
            "600 s behind",
            600,
        ),
        (
            "Signature not yet current: 20260101T010000Z is still later than 20260101T000500Z "
            "(20260101T000000Z + 5 min.)",
            {},
            "3600 s ahead of",
            -3600,
        ),
        ("The signature does not match", {"date": "Wed, 21 Oct 2015 07:28:00 GMT"}, "ahead of", None),
    ],
)
def test_a_wrong_clock_is_named_with_its_offset(
    message: str, headers: dict[str, str], said: str, behind_s: int | None
) -> None:
    body = msgspec.json.encode({"message": message})
    error = http_error(403, {"x-amzn-errortype": "InvalidSignatureException", **headers}, body)
    assert f"clock of the sidecar's machine is {said}" in error.message or said in error.message
    assert "NTP" in error.message
    assert error.details["clock_behind_s"] < 0 if behind_s is None else error.details["clock_behind_s"] == behind_s


def test_a_wrong_secret_is_not_put_down_to_the_clock() -> None:
    said = b'{"message": "The request signature we calculated does not match"}'
    error = http_error(
        403, {"x-amzn-errortype": "InvalidSignatureException", "date": formatdate(usegmt=True)}, said
    )
    assert "clock" not in error.message
    assert "clock_behind_s" not in error.details


@pytest.mark.parametrize(("kind", "status"), [("", 413), ("RequestEntityTooLargeException", 400)])
def test_a_request_that_is_too_large_is_called_so(kind: str, status: int) -> None:
    error = provider_error(kind, "Request Too Long", status=status)
    assert type(error) is InvalidRequest
    assert error.code == "payload_too_large"
    assert "send less text" in error.message


def test_a_service_quota_is_the_accounts() -> None:
    error = provider_error("ServiceQuotaExceededException", "Your request exceeds the service quota.", status=400)
    assert type(error) is Throttled
    assert "Service Quotas" in error.message
