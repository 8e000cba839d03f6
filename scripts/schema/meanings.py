"""What the protocol's words mean: error codes, states, stop reasons, event types."""

from sidecar.errors import ErrorCode
from sidecar.models.event import EventType
from sidecar.models.job import State
from sidecar.models.result import StopReason

ERRORS: dict[ErrorCode, str] = {
    "invalid_request": "The payload is not what the protocol asks for; `details.path` names the field.",
    "unknown_model": "No model of the catalogue goes by this name.",
    "unknown_tool": "No live version of the tool fits the range.",
    "tenant_denied": "The tenant may not use the sidecar, the class, the model or the tool.",
    "payload_too_large": "The request, or an object it names, is larger than allowed.",
    "queue_full": "The tenant's queue of this class is full.",
    "quota_exceeded": "The call can never fit into the model's or the tenant's quota.",
    "budget_exceeded": "The job's or the tenant's budget is used up.",
    "deadline_exceeded": "The deadline has passed, or cannot be reached.",
    "timeout": "A time limit was exceeded; `details.limit` says which.",
    "throttled": "Bedrock refused for lack of quota, on every route.",
    "model_unavailable": "No model could be called, for as long as the job's class is held or on every route.",
    "model_error": "The model broke while answering.",
    "stream_interrupted": "An answer broke off after it had begun.",
    "context_overflow": "The input does not fit into the model's context window.",
    "access_denied": "The model that was named, or the region, is not allowed to the sidecar.",
    "guardrail_blocked": "A guardrail or a filter blocked the input or the answer.",
    "output_invalid": "The answer does not satisfy the request's output schema.",
    "tool_failed": "A tool failed, and the job could not go on without it.",
    "too_many_turns": "The job needed more turns or tool calls than allowed.",
    "crash_loop": "The job was begun too often by replicas that crashed; it lies in `LLM_DEAD`.",
    "not_found": "No such job. In replies only.",
    "rate_limited": "Too many requests of this tenant wait; ask after `details.retry_after_s`. In replies only.",
    "not_ready": "What is asked for is not known yet; ask again after `details.retry_after_s`. In replies only.",
    "internal": "A fault of the sidecar or the bus.",
}

STATES: dict[State, str] = {
    "queued": "Waits for its turn.",
    "running": "A replica runs it.",
    "waiting": "Began, and waits for a tool, quota, a model or a slot.",
    "succeeded": "Ended with an answer.",
    "failed": "Ended with an error; `output` may hold what there was (`partial`).",
    "cancelled": "Somebody cancelled it.",
    "expired": "Its deadline passed.",
    "rejected": "Never began: it could not run as it was.",
}

STOPS: dict[StopReason, str] = {
    "end_turn": "The answer is complete.",
    "tool_use": "An inline tool was called: run it, and go on in a new job.",
    "max_tokens": "The answer reached `max_tokens`.",
    "stop_sequence": "One of the `stop` sequences came.",
    "guardrail": "A guardrail intervened.",
    "content_filtered": "The provider or a filter withheld the answer.",
    "context_overflow": "The context window was full.",
    "malformed_output": "The model wrote what could not be read.",
    "budget": "The job's budget was used up.",
    "other": "Anything else; the model's own word is in `warnings`.",
}

EVENTS: dict[EventType, str] = {
    "status": "`state`: queued, running, waiting or retrying, and what belongs to it.",
    "delta": "`index` and a piece of `text` or of `reasoning`. Only with `stream: true`.",
    "tool": "`phase` (called, progress, returned, failed), `tool`, `tool_use_id`, `input`, `output` or `error`.",
    "result": "How the job ended. Exactly one, and the last event.",
}
