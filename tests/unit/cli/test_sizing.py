"""`sidecar sizing`: sums by kind of message, from figures that were measured."""

import json

import pytest
from click.testing import CliRunner

from sidecar.cli.invocation import Invocation
from sidecar.cli.sizing import ExpectedLoad, server_memory, shares, stored_at_first
from sidecar.cli.sizing_command import command

# What `./dev bench sizing` found of a job: characters, whether it streams (50 tokens a second), tool calls, bytes.
MEASURED = [
    (1_000, False, 0, 7_486),
    (10_000, False, 0, 43_503),
    (1_000, True, 0, 62_183),
    (10_000, True, 0, 682_500),
    (200, False, 1, 7_054),
]


@pytest.mark.parametrize(("characters", "is_streamed", "tool_calls", "measured"), MEASURED)
def test_the_sums_are_what_was_measured(
    characters: int, is_streamed: bool, tool_calls: int, measured: int
) -> None:
    """Before anything is old enough to go: every message of a job is there."""
    work = ExpectedLoad(
        jobs_per_s=1.0,
        answer_bytes=characters,
        streamed=float(is_streamed),
        answer_s=characters / 200,
        tool_calls=tool_calls,
    )
    assert stored_at_first(work, 1) == pytest.approx(measured, rel=0.25)


def test_what_goes_earlier_counts_less() -> None:
    work = ExpectedLoad(jobs_per_s=10.0, streamed=0.5, tool_calls=1.0, cancelled=0.1, waiting=1_000)
    kinds = {share.kind: share for share in shares(work)}
    assert kinds["last documents"].messages == 864_000
    assert kinds["earlier documents"].messages == 3 * 864_000 / 4
    assert kinds["result events"].messages == 36_000
    assert kinds["marks of cancellation"].messages == 86_400
    assert kinds["requests that wait or run"].messages == 1_050
    assert server_memory(work) > 864_000 * 250


@pytest.mark.parametrize("is_json", [False, True])
def test_the_command_prints_each_kind_and_the_sum(is_json: bool) -> None:
    arguments = ["--jobs-per-second", "10", "--answer-kb", "4", "--streamed", "0.5"]
    done = CliRunner().invoke(command, [*arguments, *(["--json"] if is_json else [])], obj=Invocation())
    assert done.exit_code == 0, done.output
    if is_json:
        told = json.loads(done.output)
        assert told["bytes"] == sum(part["bytes"] for part in told["streams"])
        assert told["slots"] == 50
    else:
        for said in ("KV_LLM_JOB", "delta events", "last documents", "memory"):
            assert said in done.output
