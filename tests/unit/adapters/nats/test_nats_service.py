"""Error replies, and where answers may go."""

import json
from collections.abc import Callable
from typing import get_args

import pytest

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.micro import is_inbox
from sidecar.adapters.nats.service import error_reply
from sidecar.adapters.nats.tool_outcome import lost, not_sent
from sidecar.errors import (
    STATUS_CODES,
    BusRefused,
    BusUnavailable,
    Conflict,
    ErrorCode,
    InvalidRequest,
    Permanent,
    SidecarError,
)
from sidecar.job_manager.ending import without_output
from sidecar.models.result import Result
from sidecar.response_formatter.formatter import error_info


def test_every_code_of_the_protocol_has_a_number() -> None:
    assert set(get_args(ErrorCode)) <= set(STATUS_CODES)
    assert all(400 <= status < 600 for status in STATUS_CODES.values())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("x"), "400"),
        (Permanent("x", code="queue_full"), "429"),
        (Conflict("x"), "409"),
        (BusUnavailable("x"), "503"),
        (SidecarError("x"), "500"),
    ],
)
def test_an_error_as_adr_32_has_it(error: SidecarError, status: str) -> None:
    reply = error_reply(error)
    assert dict(reply.headers) == {"Nats-Service-Error-Code": status, "Nats-Service-Error": "x"}
    assert json.loads(reply.payload) == {
        "error": {"code": error.code, "message": "x", "details": error.details},
    }


INTERNAL = "NATS refused to store $KV.LLM_JOB.acme.j1 of KV_LLM_JOB: nats-0.internal:4222, answer at _INBOX.abc.1"
EXITS: dict[str, Callable[[SidecarError], str]] = {
    "a reply": lambda error: f"{error_reply(error)}",
    "an event or result": lambda error: f"{error_info(error)}",
    "a tool that was not called": lambda error: f"{not_sent(error)} {error_info(not_sent(error))}",
    "a tool that was": lambda error: f"{lost(error)} {error_info(lost(error))}",
    "an answer that is too large": lambda error: f"{without_output(Result(state='succeeded'), error)}",
}


@pytest.mark.parametrize("kind", [BusUnavailable, BusRefused, Conflict, NotFound])
@pytest.mark.parametrize("exit_", EXITS)
def test_no_exit_names_the_bus_own_subjects_and_servers(exit_: str, kind: type[SidecarError]) -> None:
    shown = EXITS[exit_](kind(INTERNAL))
    assert not [name for name in ("$KV", "LLM_JOB", "internal:4222", "_INBOX", "nats-0") if name in shown], shown


def test_a_long_text_with_line_breaks_fits_into_a_header() -> None:
    header = error_reply(SidecarError("a\r\n" * 2000)).headers["Nats-Service-Error"]
    assert header.startswith("a a")
    assert len(header) <= 512
    assert error_reply(SidecarError("")).headers["Nats-Service-Error"] == "internal"


@pytest.mark.parametrize(
    ("tokens", "reply", "expected"),
    [
        (("acme", "j"), "_INBOX.abc.1", True),
        (("acme", "j"), "_INBOX_acme.abc", True),
        (("acme", "j"), "_INBOX_other.abc", False),
        (("acme", "j"), "_INBOX_acmeother.abc", False),
        (("shared", "register"), "_INBOX_acme.abc", True),
        (("acme",), "_R_.abc.def", True),
        (("acme",), "$JS.API.STREAM.PURGE.LLM_REQ", False),
        (("acme",), "llm.v1.request.other.batch", False),
        (("acme",), "llmx.own", True),
    ],
)
def test_where_answers_may_go(tokens: tuple[str, ...], reply: str, expected: bool) -> None:
    assert is_inbox("llm", tokens, reply) is expected


@pytest.mark.parametrize(
    "reply", ["*", ">", "_INBOX_acme.*", "_INBOX_acme..x", ".x", "x.", "a b", "a\x0bb", "x" * 2000]
)
def test_what_is_no_subject_to_publish_to_gets_no_answer(reply: str) -> None:
    assert is_inbox("llm", ("acme", "job1"), reply) is False
