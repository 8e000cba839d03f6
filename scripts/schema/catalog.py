"""Every message of the protocol: its name, its type, and whether it is answered, sent or received."""

from dataclasses import dataclass
from typing import Any

from sidecar.models import api, bulk, event, job, objects, pauses, request, result, spend, stats, tool


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """One message. `name` is the file's: `schemas/json/<name>.v1.json`."""

    name: str
    type: Any
    title: str
    summary: str


MESSAGES: tuple[MessageSpec, ...] = (
    MessageSpec(
        "request", request.JobRequest, "Job request", "A job: published to the request subject, or asked."
    ),
    MessageSpec("event", event.Event, "Event", "An event of a job: the envelope, with data by its type."),
    MessageSpec("status", event.Status, "Status data", "Data of a `status` event: the job changed its state."),
    MessageSpec("delta", event.Delta, "Delta data", "Data of a `delta` event: a piece of the answer."),
    MessageSpec(
        "tool_activity", event.ToolActivity, "Tool data", "Data of a `tool` event: a call and its return."
    ),
    MessageSpec(
        "result", result.Result, "Result data", "Data of the one `result` event; also the reply to `ask`."
    ),
    MessageSpec("state", job.JobState, "Job state", "The state document, as it lies in the bucket."),
    MessageSpec("job", job.JobView, "Job", "The reply to `get`: the document, or what the queue knows of a job."),
    MessageSpec("empty", api.Empty, "Empty request", "A request without fields; no payload at all will do."),
    MessageSpec("cancel_request", api.CancelRequest, "Cancel request", "Cancels a job. May be empty."),
    MessageSpec("cancel_reply", api.CancelReply, "Cancel reply", "What became of a cancellation in a second."),
    MessageSpec("replay_request", api.ReplayRequest, "Replay request", "From which event on. May be empty."),
    MessageSpec("jobs_request", api.JobsRequest, "Jobs request", "Which jobs to list. May be empty."),
    MessageSpec(
        "admin_jobs_request", api.AdminJobsRequest, "Admin jobs request", "Which jobs of all tenants to list."
    ),
    MessageSpec("jobs_page", api.JobsPage, "Jobs page", "One page of a tenant's jobs, newest first."),
    MessageSpec("retry_request", bulk.RetryRequest, "Retry request", "Runs a failed job again. May be empty."),
    MessageSpec("retried", bulk.RetriedJob, "Retried", "Under which id a failed job runs again."),
    MessageSpec("bulk_retry_request", bulk.BulkRetryRequest, "Bulk retry request", "Which failed jobs."),
    MessageSpec("bulk_retried", bulk.BulkRetried, "Bulk retried", "A part of the jobs that run again."),
    MessageSpec("bulk_cancel_request", bulk.BulkCancelRequest, "Bulk cancel request", "Which jobs."),
    MessageSpec("bulk_cancelled", bulk.BulkCancelled, "Bulk cancelled", "A part of the jobs marked."),
    MessageSpec("pause_request", pauses.PauseRequest, "Pause request", "What to hold back, and why."),
    MessageSpec("resume_request", pauses.ResumeRequest, "Resume request", "Which pauses to end."),
    MessageSpec("pauses", pauses.Pauses, "Pauses", "All that is held back."),
    MessageSpec("spend_request", spend.SpendRequest, "Spend request", "Which days and sums. May be empty."),
    MessageSpec("spend_page", spend.SpendPage, "Spend page", "A part of the sums of what jobs took."),
    MessageSpec("models_page", api.ModelsPage, "Models page", "The catalogue as a tenant may use it."),
    MessageSpec("tool_registration", tool.ToolRegistration, "Tool registration", "Registers a version of a tool."),
    MessageSpec("tool_registered", tool.ToolRegistered, "Tool registered", "Where to listen, and until when."),
    MessageSpec("tool_deregistration", tool.ToolDeregistration, "Tool deregistration", "Takes a version back."),
    MessageSpec("tool_deregistered", tool.ToolDeregistered, "Tool deregistered", "Whether there was one."),
    MessageSpec(
        "tool_list_request", tool.ToolListRequest, "Tool list request", "Which tools to list. May be empty."
    ),
    MessageSpec("tool_list", tool.ToolList, "Tool list", "The tools that a scope offers."),
    MessageSpec("object_put", objects.ObjectPut, "Object put", "A piece of an upload, or its end."),
    MessageSpec("object_info", objects.ObjectInfo, "Object info", "What was stored."),
    MessageSpec("object_get", objects.ObjectGet, "Object get", "Asks for an object's content."),
    MessageSpec("object_chunk", objects.ObjectChunk, "Object chunk", "A piece of an object's content."),
    MessageSpec("error", api.ErrorReply, "Error reply", "The body of every error reply."),
    MessageSpec("stats", stats.Stats, "Stats", "Sent once a second by every replica."),
)

BY_NAME = {message.name: message for message in MESSAGES}
