"""What is done about streams that differ: raised, thrown, kept, refused."""

from typing import Any

import pytest

from sidecar.adapters.nats.streams.drift import Drift, compare, is_covered
from sidecar.adapters.nats.streams.topology import StreamSpec, largest_queue, streams
from sidecar.config.settings import Settings

SPECS = {spec.name: spec for spec in streams(Settings())}
REQUESTS = SPECS["LLM_REQ"]
JOBS = SPECS["KV_LLM_JOB"]


def fields(differences: list[Any]) -> list[str]:
    return [difference.field for difference in differences]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_stream_as_asked_for_has_no_drift(spec: StreamSpec) -> None:
    drift = compare(spec, {"name": spec.name, "metadata": {"x": "y"}, **spec.config})
    assert drift == Drift()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_zero_values_that_go_leaves_out_are_no_drift(spec: StreamSpec) -> None:
    actual = {name: value for name, value in spec.config.items() if value not in (False, 0, -1)}
    drift = compare(spec, actual)
    assert drift == Drift()


@pytest.mark.parametrize(
    ("spec", "actual", "changes", "kept", "conflicts"),
    [
        (REQUESTS, {"max_msgs_per_subject": 5}, ["max_msgs_per_subject"], [], []),
        (REQUESTS, {"max_msgs_per_subject": 10**6}, [], ["max_msgs_per_subject"], []),
        (REQUESTS, {"max_msgs_per_subject": -1}, [], [], ["max_msgs_per_subject"]),
        (REQUESTS, {"max_age": 5}, ["max_age"], [], []),
        (JOBS, {"max_age": 0}, [], ["max_age"], []),
        (JOBS, {"num_replicas": 3}, [], ["num_replicas"], []),
        (
            REQUESTS,
            {"discard": "old", "discard_new_per_subject": False},
            ["discard", "discard_new_per_subject"],
            [],
            [],
        ),
        (REQUESTS, {"allow_rollup_hdrs": True}, ["allow_rollup_hdrs"], [], []),
        (REQUESTS, {"allow_msg_ttl": True}, [], [], ["allow_msg_ttl"]),
        (REQUESTS, {"allow_msg_schedules": True}, [], [], ["allow_msg_schedules"]),
        (JOBS, {"allow_msg_ttl": False}, ["allow_msg_ttl"], [], []),
        (REQUESTS, {"storage": "memory"}, [], [], ["storage"]),
        (REQUESTS, {"retention": "workqueue"}, [], [], ["retention"]),
        (REQUESTS, {"subjects": ["x.>"]}, [], [], ["subjects"]),
        (REQUESTS, {"republish": None}, ["republish"], [], []),
        (REQUESTS, {"republish": {"src": "a", "dest": "b"}}, [], [], ["republish"]),
        (REQUESTS, {"mirror": {"name": "x"}}, [], [], ["mirror"]),
        (REQUESTS, {"sealed": True, "deny_delete": True}, [], [], ["sealed", "deny_delete"]),
        (JOBS, {"deny_delete": True}, [], [], []),
    ],
)
def test_what_is_done_about_a_difference(
    spec: StreamSpec, actual: dict[str, Any], changes: list[str], kept: list[str], conflicts: list[str]
) -> None:
    drift = compare(spec, {**spec.config, **actual})
    assert (fields(drift.changes), fields(drift.kept), fields(drift.conflicts)) == (changes, kept, conflicts)
    updated = drift.updated({**spec.config, **actual, "extra": 1})
    assert all(updated[name] == spec.config[name] for name in changes)
    assert updated["extra"] == 1


def test_the_servers_cap_is_the_largest_tenants() -> None:
    def cap(tenants: dict[str, Any]) -> int:
        return largest_queue(Settings.model_validate({"tenants": tenants}))

    assert cap({}) == 10_000
    assert cap({"big": {"max_queue": 50_000}}) == 50_000
    assert cap({"small": {"max_queue": 5}}) == 10_000
    assert cap({"small": {"max_queue": 5}, "default": {"max_queue": 7}}) == 7


def test_names_are_fixed_and_subjects_follow_the_prefix() -> None:
    other = {spec.name: spec for spec in streams(Settings.model_validate({"nats": {"prefix": "team.ai"}}))}
    assert set(other) == set(SPECS)
    assert other["KV_LLM_JOB"].config["subjects"] == ["$KV.LLM_JOB.>", "team.ai.v1.log.>"]
    assert other["KV_LLM_JOB"].config["republish"]["dest"] == "team.ai.v1.job.>"
    assert other["LLM_REQ"].config["republish"]["src"] == "team.ai.v1.request.*.*"


@pytest.mark.parametrize(
    ("subject", "patterns", "expected"),
    [
        ("a.b", ["a.b"], True),
        ("a.b", ["a.*"], True),
        ("a.*", ["a.>"], True),
        ("a.>", ["a.>"], True),
        ("a.>", [">"], True),
        ("a.>", ["a.*"], False),
        ("a.*", ["a.b"], False),
        ("a", ["a.>"], False),
        ("a.b.c", ["a.*"], False),
        ("a.b", ["x", "*.b"], True),
        ("a.b", [], False),
    ],
)
def test_patterns_that_cover_a_subject(subject: str, patterns: list[str], expected: bool) -> None:
    assert is_covered(subject, patterns) is expected
