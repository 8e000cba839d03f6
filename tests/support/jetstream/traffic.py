"""What a message to the server is for, read off the wire: names by which tests say where things go wrong."""

import json
from typing import Any

from tests.support.jetstream.rules import EXPECTED
from tests.support.jetstream.wire import headers_of

_API = "$JS.API."
_READS = {
    "LLM_REQ": "intake.get",
    "KV_LLM_JOB": "jobs.get",
    "KV_LLM_CANCEL": "jobs.is_cancelled",
    "KV_LLM_CTL": "leases.holder",
    "LLM_DEAD": "dead.get",
    "LLM_SPEND": "spend.total",
    "LLM_SPEND_DAYS": "spend_days.day",
    "KV_LLM_TOOL": "tools.get",
    "KV_LLM_PROMPT": "prompts.get",
    "KV_LLM_CONFIG": "policies.load",
}
_SCANS = {
    "LLM_REQ": "intake.read",
    "LLM_DEAD": "dead.list",
    "LLM_SPEND_DAYS": "spend_days.days",
    "KV_LLM_TOOL": "tools.snapshot",
    "KV_LLM_PROMPT": "prompts.load",
}
_DELETES = {"LLM_REQ": "intake.delete", "KV_LLM_CTL": "leases.release"}
_LOOKS = {
    "LLM_REQ": "intake.last_seq",
    "KV_LLM_TOOL": "tools.last_revision",
    "KV_LLM_PROMPT": "prompts.mark",
    "KV_LLM_JOB": "jobs.list",
}


def read(subject: str, header: bytes, payload: bytes) -> tuple[str, str]:
    """The name of what a message does, and the subject that it concerns."""
    if subject.startswith(_API):
        return _api(subject.removeprefix(_API), payload)
    if subject.startswith("$KV."):
        return _write(subject, headers_of(header) if header else {}), subject
    if subject.startswith("$O."):
        return ("blobs.append" if ".C." in subject else "blobs.finish"), subject
    if subject.startswith("$SRV."):
        return "tools.services", subject
    kind = ".".join(subject.split(".")[2:3])
    names = {
        "request": "intake.submit",
        "log": "events.publish",
        "sys": "cluster.request",
        "dead": "dead.put",
        "spend": "spend.add",
        "spent": "spend_days.put",
        "spent_to": "spend_days.claim",
        "call": "tools.call",
    }
    return names.get(kind, "core.publish"), subject


def _write(subject: str, headers: dict[str, str]) -> str:
    """What a write to a bucket is."""
    bucket, _, key = subject.removeprefix("$KV.").partition(".")
    is_new = headers.get(EXPECTED) == "0"
    if bucket == "LLM_JOB":
        if key.endswith(".journal"):
            return "journal.purge" if "Nats-Rollup" in headers else "journal.append"
        return "jobs.create" if is_new else "jobs.update"
    if bucket == "LLM_CTL" and key.startswith("lease."):
        return "leases.acquire" if is_new else "leases.renew"
    if bucket == "LLM_CTL" and key == "pauses":
        return "pauses.save"
    if bucket == "LLM_TOOL":
        return "tools.delete" if "KV-Operation" in headers else "tools.put"
    if bucket == "LLM_PROMPT":
        return "prompts.delete" if "KV-Operation" in headers else "prompts.create"
    return {"LLM_CTL": "checkpoints.save", "LLM_CANCEL": "jobs.mark_cancelled"}.get(bucket, "policies.save")


def _api(below: str, payload: bytes) -> tuple[str, str]:
    body: dict[str, Any] = json.loads(payload) if payload.startswith(b"{") else {}
    if below.startswith("DIRECT.GET."):
        stream, _, subject = below.removeprefix("DIRECT.GET.").partition(".")
        return _direct(stream, subject, body)
    if below.startswith("CONSUMER."):
        return "intake.heads", below
    verb, _, stream = below.rpartition(".")
    subject = body.get("last_by_subj") or body.get("next_by_subj") or body.get("subjects_filter") or ""
    if verb == "STREAM.MSG.GET":
        return _direct(stream, subject, body)
    if verb == "STREAM.MSG.DELETE":
        return _DELETES.get(stream, "stream.delete"), str(body.get("seq", ""))
    if verb == "STREAM.INFO":
        if stream == "LLM_REQ" and subject:
            return "intake.backlog", subject
        return _LOOKS.get(stream, "stream.info"), subject or stream
    if verb == "STREAM.PURGE":
        return "dead.purge" if stream == "LLM_DEAD" else "stream.purge", body.get("filter", "")
    return verb.lower(), stream


def _direct(stream: str, subject: str, body: dict[str, Any]) -> tuple[str, str]:
    pattern = body.get("next_by_subj") or subject
    if stream.startswith("OBJ_"):
        return ("blobs.read" if ".C." in pattern else "blobs.info"), pattern
    if pattern.endswith(".journal"):
        return "journal.read", pattern
    if ".log." in pattern:
        return "events.replay", pattern
    if stream == "KV_LLM_CTL" and pattern.endswith(".pauses"):
        return "pauses.load", pattern
    if stream == "KV_LLM_CTL" and ".checkpoint." in pattern:
        return "checkpoints.load", pattern
    if "batch" in body or "multi_last" in body:
        fallback = "jobs.history" if stream == "KV_LLM_JOB" else "stream.read"
        return _SCANS.get(stream, fallback), pattern
    return _READS.get(stream, "stream.get"), pattern or str(body.get("seq", ""))
