"""One or more examples of every message: `<message>[.<variant>].json`."""

import hashlib
from typing import Any

import msgspec

from scripts.schema.example_requests import ORDER_SCHEMA, REQUESTS
from sidecar.models import api, bulk, job, objects, pauses, spend, stats, tool
from sidecar.models.codec import encode
from sidecar.models.event import Delta, Event, EventData, EventType, Rejected, Spent, Status, ToolActivity
from sidecar.models.result import Attempt, ErrorInfo, Output, Result, Timings, Usage

_TIME = "2026-12-01T10:00:00.000Z"
_LATER = "2026-12-01T10:00:02.310Z"
_MODEL = "anthropic.claude-sonnet-4-5-20250929-v1:0"
_ANSWER = "JetStream is the persistence layer of NATS."
_RESULT = Result(
    state="succeeded",
    output=Output(
        text=_ANSWER,
        content=({"type": "text", "text": _ANSWER},),
    ),
    stop_reason="end_turn",
    model="claude-sonnet",
    model_id=_MODEL,
    usage=Usage(input_tokens=21, output_tokens=12),
    cost_usd=0.000243,
    attempts=(Attempt(model_id=_MODEL, region="us-east-1", outcome="ok", elapsed_ms=910),),
    timings=Timings(queued_ms=14, first_token_ms=402, total_ms=931),
    text_sha256=hashlib.sha256(_ANSWER.encode()).hexdigest(),
)
_FAILED = Result(
    state="rejected",
    error=ErrorInfo(
        code="invalid_request",
        message="'role' does not take 'system': use one of assistant, user",
        details={"path": "messages[0].role"},
    ),
)
_STATE = job.JobState(
    job="job1",
    tenant="acme",
    job_class="interactive",
    state="running",
    attempt=1,
    owner="sidecar-7f9c",
    model="claude-sonnet",
    request_seq=4711,
    created=_TIME,
    updated=_LATER,
)
_TOOL = tool.ToolInfo(
    scope="acme",
    name="orders",
    version="1.2.0",
    description="Looks up an order by its number.",
    input_schema=ORDER_SCHEMA,
    output_schema=None,
    timeout_s=10.0,
    idempotent=True,
    subject="llm.v1.call.acme.orders.1_2_0",
    expires=_LATER,
)


def _event(event_type: EventType, n: int, data: EventData) -> Event:
    return Event(
        job="job1",
        tenant="acme",
        type=event_type,
        attempt=1,
        n=n,
        time=_LATER,
        metadata={"ticket": "42"},
        data=data,
    )


_RUNNING = Status(
    state="running",
    model="claude-sonnet",
    model_id=_MODEL,
    region="us-east-1",
    reason="named by the request",
    candidates=(Rejected(model="nova-pro", reason="not reached: the first had room"),),
)
_RETURNED = ToolActivity(
    phase="returned",
    tool="orders",
    version="1.2.0",
    tool_use_id="tooluse_1",
    output={"status": "shipped"},
    elapsed_ms=12,
)

_MESSAGES: dict[str, Any] = {
    **REQUESTS,
    "event": _event("result", 9, _RESULT),
    "event.status": _event("status", 2, _RUNNING),
    "event.delta": _event("delta", 3, Delta(index=0, text="JetStream is ")),
    "event.tool": _event("tool", 4, _RETURNED),
    "status": Status(state="queued"),
    "status.running": _RUNNING,
    "status.waiting": Status(state="waiting", waiting_for="quota", estimate_ms=1500),
    "status.retrying": Status(
        state="retrying",
        error=ErrorInfo(code="throttled", message="Too many tokens, please wait", retryable=True),
        next="nova-pro",
        call=Attempt(
            model_id="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            region="us-east-1",
            outcome="error",
            error=ErrorInfo(code="throttled", message="Too many tokens, please wait", retryable=True),
            elapsed_ms=41,
            may_be_billed=False,
            turn=1,
            counted=0,
        ),
        spent=Spent(calls=1, usage=Usage(), usage_basis="observed", cost_usd=0.0),
    ),
    "delta": Delta(index=0, text="JetStream is "),
    "delta.reasoning": Delta(index=0, reasoning="The user asks about "),
    "tool_activity": ToolActivity(
        phase="called", tool="orders", version="1.2.0", tool_use_id="tooluse_1", input={"order_id": "7"}
    ),
    "tool_activity.returned": _RETURNED,
    "result": _RESULT,
    "result.rejected": _FAILED,
    "state": _STATE,
    "job": job.JobView(
        **{**msgspec.structs.asdict(_STATE), "state": "queued", "ahead": 41, "estimate_ms": 90_000}
    ),
    "state.succeeded": msgspec.structs.replace(_STATE, state="succeeded", result=_RESULT, result_n=9),
    "empty": api.Empty(),
    "cancel_request": api.CancelRequest(reason="the user closed the page"),
    "cancel_reply": api.CancelReply(job="job1", tenant="acme", state="cancelled", cancelled=True),
    "replay_request": api.ReplayRequest(attempt=1, n=3),
    "jobs_request": api.JobsRequest(state="running", limit=20),
    "admin_jobs_request": api.AdminJobsRequest(state="failed", error="throttled", metadata={"ticket": 42}),
    "jobs_page": api.JobsPage(jobs=(job.JobView(**msgspec.structs.asdict(_STATE)),), cursor="4711"),
    "retry_request": bulk.RetryRequest(keep=True),
    "retried": bulk.RetriedJob(tenant="acme", job="job1", retried_as="job1-r17"),
    "bulk_retry_request": bulk.BulkRetryRequest(tenant="acme", error="access_denied", limit=100, dry_run=True),
    "bulk_retried": bulk.BulkRetried(
        jobs=(
            bulk.RetriedJob(tenant="acme", job="job1", retried_as="job1-r17"),
            bulk.RetriedJob(
                tenant="acme",
                job="job2",
                error=api.ErrorBody(
                    code="not_found",
                    message="objects that the request names are gone: photo.png; put them there again",
                    details={"objects": ["photo.png"]},
                ),
            ),
        ),
        count=1,
    ),
    "bulk_cancel_request": bulk.BulkCancelRequest(tenant="acme", job_class="batch", reason="sent by mistake"),
    "bulk_cancelled": bulk.BulkCancelled(jobs=(bulk.JobName(tenant="acme", job="job1"),), count=1),
    "pause_request": pauses.PauseRequest(job_class="batch", reason="the month's budget is spent"),
    "resume_request": pauses.ResumeRequest(tenant="*"),
    "pauses": pauses.Pauses(
        pauses=(pauses.Pause(job_class="batch", reason="the month's budget is spent", since=_LATER),)
    ),
    "spend_request": spend.SpendRequest(first="2026-12-01", last="2026-12-31", by=("day", "tenant")),
    "spend_page": spend.SpendPage(
        rows=(
            spend.SpendRow(
                day="2026-12-01",
                tenant="acme",
                calls=2,
                input_tokens=1_200,
                output_tokens=340,
                cache_read_tokens=0,
                cache_write_tokens=0,
                cost_usd=0.0087,
                estimated_usd=0.0,
                unpriced_calls=0,
                incomplete=False,
            ),
        ),
        as_of=_LATER,
    ),
    "models_page": api.ModelsPage(
        models=(
            api.ModelInfo(
                alias="claude-sonnet",
                model_id=_MODEL,
                family="claude",
                name="Claude Sonnet 4.5",
                quality="balanced",
                context_tokens=200_000,
                max_output_tokens=64_000,
                capabilities=("tools", "images", "documents", "reasoning", "structured_output", "caching"),
                lifecycle="active",
                regions=("us-east-1",),
                price_input_usd_per_mtok=3.0,
                price_output_usd_per_mtok=15.0,
                health="healthy",
            ),
        )
    ),
    "tool_registration": tool.ToolRegistration(
        name="orders",
        version="1.2.0",
        description="Looks up an order by its number.",
        input_schema=ORDER_SCHEMA,
        timeout_s=10.0,
        idempotent=True,
    ),
    "tool_registered": tool.ToolRegistered(subject="llm.v1.call.acme.orders.1_2_0", expires=_LATER),
    "tool_deregistration": tool.ToolDeregistration(name="orders", version="1.2.0"),
    "tool_deregistered": tool.ToolDeregistered(name="orders", version="1.2.0", removed=True),
    "tool_list_request": tool.ToolListRequest(shared=True),
    "tool_list": tool.ToolList(tools=(_TOOL,)),
    "object_put": objects.ObjectPut(name="photo.png", upload="7f9c2b", part=0, data=b"\x89PNG\r\n\x1a\n"),
    "object_put.end": objects.ObjectPut(
        name="photo.png", upload="7f9c2b", parts=1, size=8, sha256=objects.hex_digest(b"\x89PNG\r\n\x1a\n")
    ),
    "object_info": objects.ObjectInfo(
        bucket="LLM_BLOB_acme", name="photo.png", size=8, sha256=objects.hex_digest(b"\x89PNG\r\n\x1a\n")
    ),
    "object_get": objects.ObjectGet(name="photo.png"),
    "object_chunk": objects.ObjectChunk(at=0, data=b"\x89PNG\r\n\x1a\n"),
    "error": api.ErrorReply(
        error=api.ErrorBody(
            code="invalid_request", message="'limit' must be <= 1000, not 5000", details={"path": "limit"}
        )
    ),
    "stats": stats.Stats(
        replica="sidecar-7f9c",
        version="1.0.0",
        time=_LATER,
        state="running",
        is_scheduler=True,
        uptime_s=3600.0,
        slots=256,
        slots_used=12,
        replicas=3,
        queued=40,
        running=31,
        classes=(
            stats.ClassStats(
                job_class="interactive", weight=100, queued=40, running=31, share=1.0, fair_share=1.0
            ),
        ),
        tenants=(
            stats.TenantStats(
                tenant="acme",
                weight=1.0,
                lanes=(
                    stats.LaneStats(
                        job_class="interactive", queued=40, running=31, wait_p50_ms=120, wait_p95_ms=480
                    ),
                ),
                share=1.0,
                fair_share=1.0,
                tokens_per_minute=81_000,
                spend_today_usd=4.2,
                budget_today_usd=50.0,
            ),
        ),
        pools=(
            stats.PoolStats(
                model="claude-sonnet",
                invoke_id=f"us.{_MODEL}",
                region="us-east-1",
                in_flight=31,
                used_share=0.81,
                tokens_per_minute=100_000,
                tokens_remaining=19_000,
                throttles_last_minute=0,
                health="healthy",
            ),
        ),
        models=(stats.ModelStats(model="claude-sonnet", health="healthy", calls=104, first_token_p50_ms=402),),
    ),
}


def render() -> dict[str, str]:
    """The text of each example by its name, without `.json`."""
    return {name: msgspec.json.format(encode(m), indent=2).decode() + "\n" for name, m in _MESSAGES.items()}
