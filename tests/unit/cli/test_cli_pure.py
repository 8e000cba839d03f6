"""What the command line decides without doing anything."""

import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli import exits
from sidecar.cli.config_command import hide_secrets, lines_of
from sidecar.cli.findings import NATS, Finding, exit_code
from sidecar.cli.invocation import Invocation
from sidecar.cli.main import COMMANDS, group, main
from sidecar.cli.settings_options import overrides
from sidecar.cli.submit_command import job_ids, read_requests
from sidecar.cli.view import describe_result, describe_status, describe_tool
from sidecar.client import QueueFull, UnknownJob
from sidecar.errors import (
    AccessDenied,
    BusRefused,
    BusUnavailable,
    CallTimeout,
    ErrorCode,
    InvalidRequest,
    Permanent,
    RateLimited,
    SidecarError,
    StartupError,
)
from sidecar.models.event import Status, ToolActivity
from sidecar.models.result import ErrorInfo, Result, TerminalState, Timings, Usage
from sidecar.models.shown import visible

ONE = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), 2),
        (StartupError("x"), 2),
        (BusUnavailable("x"), 3),
        (BusRefused("x"), 3),
        (AccessDenied("x"), 3),
        (CallTimeout("x", limit="total"), 4),
        (QueueFull("x"), 5),
        (RateLimited("x"), 5),
        (Permanent("x", code="budget_exceeded"), 5),
        (UnknownJob("x"), 1),
        (SidecarError("x"), 1),
    ],
)
def test_errors_have_their_exit_codes(error: SidecarError, code: int) -> None:
    assert exits.of_error(error) == code


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("succeeded", None, 0),
        ("failed", "model_error", 1),
        ("failed", "timeout", 4),
        ("expired", "deadline_exceeded", 4),
        ("rejected", "quota_exceeded", 5),
        ("rejected", "unknown_model", 1),
        ("cancelled", None, 1),
    ],
)
def test_results_have_their_exit_codes(state: TerminalState, error: ErrorCode | None, code: int) -> None:
    info = ErrorInfo(code=error, message="x") if error else None
    assert exits.of_result(Result(state=state, error=info)) == code


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (json.dumps(ONE).encode(), 1),
        (json.dumps(ONE, indent=2).encode(), 1),
        (json.dumps([ONE, ONE]).encode(), 2),
        (b"\n".join([json.dumps(ONE).encode()] * 3) + b"\n\n", 3),
    ],
)
def test_requests_come_as_one_as_many_or_as_lines(payload: bytes, count: int) -> None:
    assert len(read_requests(payload, name="f")) == count


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "holds no request"),
        (b"[]", "holds no request"),
        (b"hello", "f, line 1"),
        (json.dumps([ONE, {"messages": 3}]).encode(), "f, entry 2: messages"),
        (json.dumps(ONE).encode() + b"\n{", "f, line 2"),
    ],
)
def test_a_bad_request_is_named_by_its_place(payload: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_requests(payload, name="f")


def test_ids_of_many_requests_are_numbered() -> None:
    assert job_ids(None, 2) == [None, None]
    assert job_ids("a", 1) == ["a"]
    assert job_ids("a", 2) == ["a-1", "a-2"]


def test_settings_on_the_command_line_nest_and_are_json_or_text() -> None:
    given = ["tenants.acme.weight=3", 'bedrock.regions=["a"]', "log.format=text", "nats.adopt=true"]
    assert overrides(given) == {
        "tenants": {"acme": {"weight": 3}},
        "bedrock": {"regions": ["a"]},
        "log": {"format": "text"},
        "nats": {"adopt": True},
    }
    invocation = Invocation(server="nats://h", prefix="p", connect_timeout_s=1.0)
    assert overrides([], invocation) == {"nats": {"url": "nats://h", "prefix": "p", "connect_timeout_s": 1.0}}
    assert overrides([], Invocation()) == {}


@pytest.mark.parametrize("assignment", ["x", "=1", ".a=1", "a..b=1"])
def test_what_is_no_assignment_is_a_usage_error(assignment: str) -> None:
    with pytest.raises(click.UsageError):
        overrides([assignment])


def test_a_section_cannot_be_a_value_too() -> None:
    with pytest.raises(click.UsageError):
        overrides(["a=1", "a.b=2"])


def test_secrets_are_hidden_wherever_they_stand() -> None:
    shown = hide_secrets(
        {"nats": {"url": "nats://u:hunter2@h:1,nats://tok@g", "password": "hunter2", "user": "u", "token": None}}
    )
    assert "hunter2" not in str(shown)
    assert "tok@" not in str(shown)
    assert shown["nats"]["user"] == "u"
    assert lines_of({"a": {"b": 1, "c": {}}, "d": None}) == ["a.b = 1", "a.c = {}"]


@given(st.text())
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    shown = visible(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert "\x1b" not in shown
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        ([("a", "ok"), ("b", "warn")], 0),
        ([("a", "fail")], 1),
        ([(NATS, "fail"), ("a", "fail")], 3),
        ([], 0),
    ],
)
def test_doctors_verdict(levels: list[tuple[str, Any]], code: int) -> None:
    assert exit_code(Finding(check, level, "") for check, level in levels) == code


def test_every_command_is_there_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        found = group.get_command(click.Context(group), name)
        assert found is not None
        assert found.name == name
        assert found.help
        assert main([name, "--help"]) == 0
    assert main(["--version"]) == 0
    assert main([]) in (0, 2)
    capsys.readouterr()


def test_what_happens_is_told_in_one_line_each() -> None:
    assert describe_status(Status(state="queued")) == "queued"
    assert describe_status(Status(state="waiting", waiting_for="quota", estimate_ms=1500)) == (
        "waiting for quota, about 1.5 s"
    )
    retrying = Status(state="retrying", next="nova-pro", error=ErrorInfo(code="throttled", message="slow"))
    assert describe_status(retrying) == "retrying with nova-pro: slow"
    running = Status(state="running", model="nova-lite", region="us-east-1", reason="asked for")
    assert describe_status(running) == "running on nova-lite in us-east-1: asked for"
    assert describe_tool(ToolActivity(phase="returned", tool="t", elapsed_ms=3)) == "tool t returned after 3 ms"
    result = Result(
        state="failed",
        partial=True,
        stop_reason="budget",
        model="m",
        usage=Usage(input_tokens=1, output_tokens=2),
        usage_basis="estimated",
        cost_usd=0.5,
        error=ErrorInfo(code="timeout", message="too long"),
        warnings=("odd",),
        timings=Timings(total_ms=7),
    )
    assert describe_result(result) == (
        "failed (partial, stopped by budget) · m · 1 in, 2 out (estimated) · $0.500000 · 7 ms\n"
        "timeout: too long\nwarning: odd"
    )
