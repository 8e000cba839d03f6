"""The streams and buckets of the product, as values; `provision.py` makes them so.

Names are fixed by the protocol, so one JetStream account holds one prefix. Durations are nanoseconds, as in
JetStream's API; -1 (for `max_age` and `subject_delete_marker_ttl` 0) means no limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.config.sections import MOST_DEAD_S
from sidecar.config.settings import Settings, TenantPolicy
from sidecar.models.objects import bucket_of
from sidecar.models.subjects import (
    CANCEL_BUCKET,
    CONFIG_BUCKET,
    CONTROL_BUCKET,
    DEAD_STREAM,
    JOB_BUCKET,
    PROMPT_BUCKET,
    REQUEST_STREAM,
    SPEND_DAYS_STREAM,
    SPEND_STREAM,
    TOOL_BUCKET,
    Subjects,
)

_EVENTS_PER_SUBJECT = 100_000
_DEAD_AGE_S = MOST_DEAD_S
_SPEND_AGE_S = 4 * 86_400
_SPEND_WINDOW_S = 600
_SPEND_DAY_HISTORY = 3
_DAY_S = 86_400
_NS = 1_000_000_000
# What sets the bytes of each stream that has a bound; `object_store` makes the others.
_BYTES_SETTINGS = {REQUEST_STREAM: "retention.requests_bytes", DEAD_STREAM: "retention.dead_bytes"}


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream as it has to be: `config` is JetStream's configuration, without what may be anything.

    `may_stay` are fields that not every server changes in a stream that is there: it does without, and says so.
    """

    name: str
    config: Mapping[str, Any]
    may_stay: tuple[str, ...] = ()


def kv_subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def streams(settings: Settings) -> tuple[StreamSpec, ...]:
    """Every stream that the sidecar needs, under these settings."""
    subjects = Subjects(settings.nats.prefix)
    common = {"storage": settings.nats.storage, "num_replicas": settings.nats.replicas}
    state_age = settings.retention.state_s * _NS
    return (
        _requests(settings, subjects, common),
        _dead(settings, subjects, common),
        _spend(subjects, common),
        _spend_days(settings, subjects, common),
        _jobs(subjects, common, max_age=state_age),
        _bucket(CANCEL_BUCKET, "Marks of cancellations", common, max_age=state_age),
        _bucket(CONTROL_BUCKET, "The scheduler's lease and checkpoints", common),
        _tools(subjects, common),
        _bucket(CONFIG_BUCKET, "Policy that replaces the file's", common, history=10),
        _bucket(PROMPT_BUCKET, "Prompt templates", common, history=10),
    )


def object_store(settings: Settings, tenant: str) -> StreamSpec:
    """A tenant's Object Store bucket, as every client library knows it (ADR-20)."""
    bucket = bucket_of(tenant)
    config = {
        "description": "Answers and documents that are too large for a message",
        "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        "retention": "limits",
        "discard": "new",
        "max_bytes": settings.retention.objects_bytes,
        "max_age": max(settings.retention.objects_s, settings.retention.state_s) * _NS,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "storage": settings.nats.storage,
        "num_replicas": settings.nats.replicas,
    }
    return StreamSpec(object_stream(tenant), config)


def bytes_setting(stream: str) -> str | None:
    """The setting by which a stream asks the server for room; None for those that ask for none."""
    return "retention.objects_bytes" if stream.startswith(object_stream("")) else _BYTES_SETTINGS.get(stream)


def object_stream(tenant: str) -> str:
    return f"OBJ_{bucket_of(tenant)}"


def largest_queue(settings: Settings) -> int:
    """The cap that the server enforces for every lane; smaller ones are enforced at admission."""
    policies = [*settings.tenants.values(), settings.policy.tenant("default"), TenantPolicy()]
    if "default" in settings.tenants:
        policies.pop()
    return max(policy.max_queue for policy in policies)


def _requests(settings: Settings, subjects: Subjects, common: Mapping[str, Any]) -> StreamSpec:
    """Headers by which a client could purge, schedule or expire others' requests stay off."""
    source = subjects.request("*", "*")
    config = {
        "description": "Requests that wait or run; one is deleted when its job has ended",
        "subjects": [source],
        "retention": "limits",
        "discard": "new",
        "discard_new_per_subject": True,
        "max_msgs_per_subject": largest_queue(settings),
        "max_bytes": settings.retention.requests_bytes,
        "max_msgs": -1,
        "max_age": 0,
        "allow_direct": True,
        "republish": {
            "src": source,
            "dest": subjects.doorbell("{{wildcard(1)}}", "{{wildcard(2)}}"),
            "headers_only": True,
        },
        "deny_delete": False,
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "allow_msg_schedules": False,
        "allow_atomic": False,
        "allow_batched": False,
        "allow_msg_counter": False,
    }
    return StreamSpec(REQUEST_STREAM, {**config, **common})


def _dead(settings: Settings, subjects: Subjects, common: Mapping[str, Any]) -> StreamSpec:
    config = {
        "description": "Requests of jobs that failed",
        "subjects": [subjects.dead("*", "*")],
        "retention": "limits",
        "discard": "old",
        "max_bytes": settings.retention.dead_bytes,
        "max_age": _DEAD_AGE_S * _NS,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "deny_delete": False,
    }
    # The first releases of 2.11 do not turn it on later: then only requests of crash loops are kept.
    return StreamSpec(DEAD_STREAM, {**config, **common}, may_stay=("allow_msg_ttl",))


def _tools(subjects: Subjects, common: Mapping[str, Any]) -> StreamSpec:
    """Republished, so that every replica hears what was stored, and nothing that was only sent."""
    bucket = _bucket(TOOL_BUCKET, "Registered tools", common)
    republish = {
        "src": kv_subject(TOOL_BUCKET, ">"),
        "dest": subjects.tool_written(">"),
        "headers_only": False,
    }
    return StreamSpec(bucket.name, {**bucket.config, "republish": republish})


def _spend(subjects: Subjects, common: Mapping[str, Any]) -> StreamSpec:
    """Counters: the server adds up. Retries of an increment are told by their id for `_SPEND_WINDOW_S`."""
    config = {
        "description": "What tenants spent, a counter for each tenant and day",
        "subjects": [subjects.spend("*", "*")],
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_age": _SPEND_AGE_S * _NS,
        "duplicate_window": _SPEND_WINDOW_S * _NS,
        "allow_direct": True,
        "allow_msg_counter": True,
        "deny_delete": False,
    }
    return StreamSpec(SPEND_STREAM, {**config, **common})


def _spend_days(settings: Settings, subjects: Subjects, common: Mapping[str, Any]) -> StreamSpec:
    """A day is written over as its sums grow. More than one message is kept of each, so that what a stranger lays
    over it does not push it out at once.
    """
    config = {
        "description": "What tenants spent: sums by day, model and class",
        "subjects": [subjects.spend_day("*", "*"), subjects.spend_cursor],
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": _SPEND_DAY_HISTORY,
        "max_age": settings.retention.spend_days * _DAY_S * _NS,
        "allow_direct": True,
        "deny_delete": False,
    }
    return StreamSpec(SPEND_DAYS_STREAM, {**config, **common})


def _jobs(subjects: Subjects, common: Mapping[str, Any], *, max_age: int) -> StreamSpec:
    """State and events in one stream, so that a state's revision can fence events.

    The limit per subject is far above a job's events, so that it never evicts one; without any limit nats-py
    takes the bucket for none.
    """
    bucket = _bucket(
        JOB_BUCKET, "Jobs: state documents and events", common, history=_EVENTS_PER_SUBJECT, max_age=max_age
    )
    log = subjects.endpoint("log", ">")
    config = {
        "subjects": [*bucket.config["subjects"], log],
        "republish": {"src": log, "dest": subjects.endpoint("job", ">"), "headers_only": False},
    }
    return StreamSpec(bucket.name, {**bucket.config, **config})


def _bucket(
    bucket: str, description: str, common: Mapping[str, Any], *, history: int = 1, max_age: int = 0
) -> StreamSpec:
    """A KV bucket as every client library knows it, with TTL by message and without limit markers."""
    config = {
        "description": description,
        "subjects": [kv_subject(bucket, ">")],
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": history,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": max_age,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 0,
    }
    return StreamSpec(kv_stream(bucket), {**config, **common})
