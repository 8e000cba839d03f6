"""What applications may hand in as a request, and what they are told when it is none."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sidecar.client.errors import QueueFull, UnknownJob, from_reply
from sidecar.client.publish import read_ack
from sidecar.client.requests import build_request
from sidecar.errors import (
    BusRefused,
    BusUnavailable,
    CallTimeout,
    InvalidRequest,
    Permanent,
    RateLimited,
    SidecarError,
    Temporary,
    Throttled,
)
from sidecar.models.content import ImageBlock, Message, Source
from sidecar.models.request import JobRequest, Params


def test_a_prompt_becomes_one_user_message() -> None:
    built = build_request("hello", {"stream": True, "params": Params(max_tokens=5)})
    assert built.messages == (Message(role="user", content="hello"),)
    assert built.stream
    assert built.params.max_tokens == 5


def test_messages_may_be_typed_or_plain() -> None:
    image = ImageBlock(source=Source(data=b"\x89PNG"), format="png")
    built = build_request(
        [{"role": "user", "content": "look"}, Message(role="user", content=(image,))], {"model": ["a", "b"]}
    )
    assert built.messages is not None
    assert built.messages[1].content == (image,)
    assert built.models == ("a", "b")


def test_a_whole_request_stays_itself_and_fields_go_over_it() -> None:
    request = build_request({"messages": [{"role": "user", "content": "x"}], "timeout_s": 3}, {})
    assert build_request(request, {}) is request
    deadline = datetime(2027, 1, 1, tzinfo=UTC)
    changed = build_request(request, {"timeout_s": 9.5, "deadline": deadline})
    assert (changed.timeout_s, changed.deadline, changed.messages) == (9.5, deadline, request.messages)


def test_a_stored_prompt_needs_no_messages() -> None:
    built = build_request(None, {"prompt": {"name": "greet", "variables": {"who": "you"}}})
    assert isinstance(built, JobRequest)
    assert built.messages is None


@pytest.mark.parametrize(
    ("request_", "fields", "path"),
    [
        ([{"role": "user", "content": 3}], {}, "messages[0].content"),
        ("hi", {"params": {"temperature": 7}}, "params.temperature"),
        ("hi", {"modle": "x"}, "modle"),
        ([], {}, "messages"),
    ],
)
def test_what_is_wrong_is_named(request_: Any, fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build_request(request_, fields)
    assert caught.value.path == path


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        build_request("hi", {"metadata": {"a": object()}})


@pytest.mark.parametrize(
    ("code", "number", "kind"),
    [
        ("not_found", 404, UnknownJob),
        ("invalid_request", 400, InvalidRequest),
        ("unknown_model", 404, Permanent),
        ("queue_full", 429, QueueFull),
        ("throttled", 429, Throttled),
        ("rate_limited", 429, RateLimited),
        ("timeout", 504, CallTimeout),
        ("of_a_later_version", 503, Temporary),
        ("of_a_later_version", 400, Permanent),
    ],
)
def test_error_replies_become_typed_errors(code: str, number: int, kind: type[SidecarError]) -> None:
    body = b'{"error": {"code": "%s", "message": "because", "details": {"path": "x"}}}' % code.encode()
    error = from_reply({"Nats-Service-Error-Code": str(number), "Nats-Service-Error": "because"}, body)
    assert type(error) is kind
    assert (error.code, error.message) == (code, "because")
    assert error.details["path"] == "x"


def test_an_error_reply_of_a_foreign_service_is_told_by_its_header() -> None:
    error = from_reply({"Nats-Service-Error-Code": "400", "Nats-Service-Error": "no such thing"}, b"garbage")
    assert (type(error), error.message) == (Permanent, "no such thing")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (
            '{"code":503,"err_code":10077,"description":"maximum messages per subject"}',
            QueueFull,
            "queue_full",
        ),
        ('{"code":400,"err_code":10054,"description":"too big"}', Permanent, "payload_too_large"),
        (
            '{"code":503,"err_code":10008,"description":"temporarily unavailable"}',
            BusUnavailable,
            None,
        ),
        ('{"code":400,"err_code":10166,"description":"per-message TTL is disabled"}', BusRefused, None),
    ],
)
def test_a_refused_publish_says_whether_to_retry(error: str, kind: type[SidecarError], code: str | None) -> None:
    with pytest.raises(SidecarError) as caught:
        read_ack(b'{"stream":"LLM_REQ","error":%s}' % error.encode())
    assert type(caught.value) is kind
    assert code is None or caught.value.code == code


@pytest.mark.parametrize("reply", [b"", b"hello", b"{}", b"[1]"])
def test_a_reply_that_is_no_acknowledgement_is_not_taken_for_one(reply: bytes) -> None:
    with pytest.raises(BusRefused):
        read_ack(reply)


def test_an_acknowledgement_says_where_and_whether_before() -> None:
    ack = read_ack(b'{"stream":"LLM_REQ","seq":7,"duplicate":true}')
    assert (ack.seq, ack.duplicate) == (7, True)
