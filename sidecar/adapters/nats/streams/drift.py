"""How a stream that exists differs from what it has to be, and what may be done about it. Pure.

Three kinds of difference. A limit that is too small is raised, one that is larger is kept: both lose nothing,
while lowering would delete what is stored. A switch is thrown. All else is a conflict for a human.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.adapters.nats.streams.topology import StreamSpec

_LIMITS = ("max_msgs_per_subject", "max_msgs", "max_bytes", "max_age", "num_replicas")
_SWITCHES = (
    "allow_direct",
    "discard",
    "discard_new_per_subject",
    "allow_rollup_hdrs",
    "allow_atomic",
    "allow_batched",
    "subject_delete_marker_ttl",
)
# The server lets these be turned on, but never off again.
_ONE_WAY = ("allow_msg_ttl", "allow_msg_schedules")
_FIXED = ("storage", "retention", "allow_msg_counter")
# Absent in all specifications: a stream that has one does not hold what is published to it.
_FOREIGN = ("mirror", "sources", "subject_transform", "sealed", "no_ack")

_DEFAULTS: Mapping[str, Any] = {"discard": "old", "retention": "limits", "storage": "file", "num_replicas": 1}


@dataclass(frozen=True, slots=True)
class Difference:
    field: str
    actual: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.field} is {self.actual!r}, wanted {self.wanted!r}"


@dataclass(frozen=True, slots=True)
class Drift:
    """`changes` can be made in place, `kept` are limits larger than asked for, `conflicts` stop the start."""

    changes: list[Difference] = field(default_factory=list)
    kept: list[Difference] = field(default_factory=list)
    conflicts: list[Difference] = field(default_factory=list)

    def updated(self, actual: Mapping[str, Any]) -> dict[str, Any]:
        """The stream's configuration with the changes made."""
        return {**actual, **{change.field: change.wanted for change in self.changes}}


def compare(spec: StreamSpec, actual: Mapping[str, Any]) -> Drift:
    """What differs between `spec` and the configuration that the server gave for the stream."""
    drift = Drift()
    wanted = spec.config
    _compare_subjects(wanted, actual, drift)
    _compare_republish(wanted, actual, drift)
    for name in _LIMITS:
        if name in wanted:
            _compare_limit(name, wanted, actual, drift)
    for name in (*_SWITCHES, *_ONE_WAY, *_FIXED):
        if name in wanted and _value(actual, name, wanted[name]) != wanted[name]:
            found = Difference(name, _value(actual, name, wanted[name]), wanted[name])
            is_possible = name in _SWITCHES or (name in _ONE_WAY and wanted[name])
            (drift.changes if is_possible else drift.conflicts).append(found)
    for name in _FOREIGN:
        if actual.get(name):
            drift.conflicts.append(Difference(name, actual[name], None))
    if actual.get("deny_delete") and wanted.get("deny_delete") is False:
        drift.conflicts.append(Difference("deny_delete", True, False))
    return drift


def _value(actual: Mapping[str, Any], name: str, wanted: Any) -> Any:
    """Go's JSON leaves zero values out."""
    return actual.get(name, _DEFAULTS.get(name, type(wanted)()))


def _compare_subjects(wanted: Mapping[str, Any], actual: Mapping[str, Any], drift: Drift) -> None:
    have, want = sorted(actual.get("subjects") or ()), sorted(wanted["subjects"])
    if have != want:
        drift.conflicts.append(Difference("subjects", have, want))


def _compare_republish(wanted: Mapping[str, Any], actual: Mapping[str, Any], drift: Drift) -> None:
    want = wanted.get("republish")
    have = actual.get("republish")
    if have is not None:
        have = {"headers_only": False, **have}
    if have == want:
        return
    found = Difference("republish", have, want)
    (drift.changes if have is None else drift.conflicts).append(found)


def _compare_limit(name: str, wanted: Mapping[str, Any], actual: Mapping[str, Any], drift: Drift) -> None:
    have, want = _value(actual, name, wanted[name]), wanted[name]
    if _rank(have) == _rank(want):
        return
    found = Difference(name, have, want)
    if _rank(have) < _rank(want):
        drift.changes.append(found)
    elif name == "max_msgs_per_subject" and wanted.get("discard_new_per_subject") and have <= 0:
        # The server refuses one without the other, and a limit over a full queue would delete from it.
        drift.conflicts.append(found)
    else:
        drift.kept.append(found)


def _rank(limit: int) -> float:
    return limit if limit > 0 else float("inf")


def is_covered(subject: str, patterns: Sequence[str]) -> bool:
    """Whether every subject that `subject` (which may have wildcards) stands for matches one of `patterns`."""
    return any(_covers(pattern.split("."), subject.split(".")) for pattern in patterns)


def _covers(pattern: list[str], tokens: list[str]) -> bool:
    for i, part in enumerate(pattern):
        if part == ">":
            return len(tokens) > i
        if i >= len(tokens) or tokens[i] == ">" or part not in ("*", tokens[i]):
            return False
    return len(pattern) == len(tokens)
