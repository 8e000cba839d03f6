"""The protocol's channels: subject, who speaks, which messages go over it, who answers with what."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["receive", "send"]


@dataclass(frozen=True, slots=True)
class Channel:
    """`direction` is the sidecar's. `reply` names the messages of an answer; an error reply may always come."""

    name: str
    subject: str
    direction: Direction
    messages: tuple[str, ...]
    summary: str
    reply: tuple[str, ...] = ()
    queue: str | None = None


CHANNELS: tuple[Channel, ...] = (
    Channel("request", "request.{tenant}.{class}", "receive", ("request",), "Submit a job, durably."),
    Channel("status", "job.{tenant}.{job}.status", "send", ("status_event",), "A job changed its state."),
    Channel("delta", "job.{tenant}.{job}.delta", "send", ("delta_event",), "A piece of an answer."),
    Channel("tool", "job.{tenant}.{job}.tool", "send", ("tool_event",), "A tool was called, or returned."),
    Channel("result", "job.{tenant}.{job}.result", "send", ("result_event",), "A job has ended."),
    Channel(
        "ask", "ask.{tenant}.{class}", "receive", ("request", "plain_text"), "Submit a job and wait.", ("result",)
    ),
    Channel("cancel", "cancel.{tenant}.{job}", "receive", ("cancel_request",), "Cancel a job.", ("cancel_reply",)),
    Channel("get", "get.{tenant}.{job}", "receive", ("empty",), "What is known of a job.", ("job",)),
    Channel(
        "replay",
        "replay.{tenant}.{job}",
        "receive",
        ("replay_request",),
        "All stored events after a place, in order; many replies.",
        ("event", "end"),
    ),
    Channel("jobs", "jobs.{tenant}", "receive", ("jobs_request",), "List jobs, newest first.", ("jobs_page",)),
    Channel(
        "admin_jobs",
        "admin.jobs",
        "receive",
        ("admin_jobs_request",),
        "List jobs of all tenants, newest first. For operators.",
        ("jobs_page",),
    ),
    Channel(
        "tools_register",
        "tools.{scope}.register",
        "receive",
        ("tool_registration",),
        "Register a version of a tool.",
        ("tool_registered",),
    ),
    Channel(
        "tools_deregister",
        "tools.{scope}.deregister",
        "receive",
        ("tool_deregistration",),
        "Take a version of a tool back.",
        ("tool_deregistered",),
    ),
    Channel(
        "tools_list",
        "tools.{scope}.list",
        "receive",
        ("tool_list_request",),
        "List a scope's tools.",
        ("tool_list",),
    ),
    Channel(
        "retry",
        "retry.{tenant}.{job}",
        "receive",
        ("retry_request",),
        "Run a failed job again, under a new id.",
        ("retried",),
    ),
    Channel(
        "admin_pause",
        "admin.pause",
        "receive",
        ("pause_request",),
        "Begin no more jobs that match; for operators.",
        ("pauses",),
    ),
    Channel(
        "admin_resume",
        "admin.resume",
        "receive",
        ("resume_request",),
        "End the pauses that match; for operators.",
        ("pauses",),
    ),
    Channel(
        "admin_retry",
        "admin.retry",
        "receive",
        ("bulk_retry_request",),
        "Run all failed jobs again that match; for operators; many replies.",
        ("bulk_retried", "end"),
    ),
    Channel(
        "admin_cancel",
        "admin.cancel",
        "receive",
        ("bulk_cancel_request",),
        "Cancel all jobs that match; for operators; many replies.",
        ("bulk_cancelled", "end"),
    ),
    Channel(
        "spend",
        "spend.{tenant}",
        "receive",
        ("spend_request",),
        "What the tenant's jobs took, by day, model and class; many replies.",
        ("spend_page", "end"),
    ),
    Channel(
        "admin_spend",
        "admin.spend",
        "receive",
        ("spend_request",),
        "The same of all tenants; for operators.",
        ("spend_page", "end"),
    ),
    Channel("models", "models.{tenant}", "receive", ("empty",), "List the models.", ("models_page",)),
    Channel(
        "objects_put",
        "objects.{tenant}.put",
        "receive",
        ("object_put",),
        "Put an object, piece by piece.",
        ("object_info",),
    ),
    Channel(
        "objects_get",
        "objects.{tenant}.get",
        "receive",
        ("object_get",),
        "An object's content, piece by piece; many replies.",
        ("object_chunk", "end"),
    ),
    Channel(
        "call",
        "call.{scope}.{tool}.{version}",
        "send",
        ("tool_input",),
        "Call a tool; its provider answers.",
        ("tool_output",),
        "tool",
    ),
    Channel("stats", "sys.stats", "send", ("stats",), "What the sidecar says about itself, once a second."),
)

PARAMETERS: dict[str, str] = {
    "tenant": "1 to 64 of A-Z a-z 0-9 _ -",
    "job": "Job id: 1 to 64 of A-Z a-z 0-9 _ -",
    "class": "Class of the job.",
    "scope": "A tenant, or `shared`.",
    "tool": "Name of the tool.",
    "version": "Version of the tool, its dots replaced by `_`.",
}
