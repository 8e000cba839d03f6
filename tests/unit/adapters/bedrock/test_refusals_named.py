"""What a refusal names, by the service's own words."""

import pytest

from sidecar.adapters.bedrock.errors import provider_error
from sidecar.errors import DailyQuotaExhausted, Throttled


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
