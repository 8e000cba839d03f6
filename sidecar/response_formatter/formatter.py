"""From a model's answer, or from what stopped it, to the one result. Pure."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Literal

import msgspec

from sidecar.errors import JobCancelled, ModelFailed, SidecarError
from sidecar.models.call import ModelReply
from sidecar.models.content import AnswerBlock, OtherBlock, TextBlock
from sidecar.models.facts import RunFacts
from sidecar.models.result import (
    ErrorInfo,
    FilterReport,
    Output,
    Result,
    StopReason,
    TerminalState,
    worth_listing,
)
from sidecar.runtime.redaction import told

# What a guardrail inside a model call did, as the trace says that Converse returns with it.
_ACTIONS: Mapping[str, Literal["block", "redact"]] = {"BLOCKED": "block", "ANONYMIZED": "redact"}


def text_of(content: tuple[AnswerBlock, ...]) -> str:
    """The answer's text: its text blocks joined as they came, nothing trimmed."""
    return "".join([block.text for block in content if type(block) is TextBlock])


def digest(text: str) -> str:
    """SHA-256 of the text as clients get it: half surrogate pairs arrive as U+FFFD."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    return sha256(data).hexdigest()


def error_info(error: SidecarError) -> ErrorInfo:
    """What a tenant reads of an error, in events and results."""
    return ErrorInfo(code=error.code, message=told(error), retryable=error.is_retryable, details=error.details)


def answered(reply: ModelReply, facts: RunFacts) -> Result:
    """The result of an answer that is whole. A guardrail's block and a full context are outcomes of their own."""
    text = text_of(reply.content)
    if reply.warnings:
        facts.warn(*reply.warnings)
    if reply.stop_reason == "other":
        facts.warn(f"the model stopped with a reason of its own: {reply.raw_stop_reason!r}")
    unusable = _unusable(reply, text) if reply.stop_reason == "malformed_output" else None
    is_cut_by_budget = reply.stop_reason == "max_tokens" and facts.is_bound_by_budget
    content, messages = map(msgspec.to_builtins, (reply.content, facts.messages))
    return Result(
        state="succeeded" if unusable is None else "failed",
        error=unusable,
        output=Output(text=text, content=tuple(content), messages=tuple(messages)),
        stop_reason="budget" if is_cut_by_budget else reply.stop_reason,
        partial=is_cut_by_budget or (reply.stop_reason == "malformed_output" and bool(text)),
        filters=guardrail_reports(reply.guardrail_trace) if reply.guardrail_trace else (),
        text_sha256=digest(text),
        **_facts(facts),
    )


def _unusable(reply: ModelReply, text: str) -> ErrorInfo | None:
    """Why an answer that the model itself, or its reader, calls malformed is none; None where text can be used."""
    is_call = any(
        isinstance(block, OtherBlock) and isinstance(block.value, dict) and "toolUse" in block.value
        for block in reply.content
    )
    if is_call:
        return error_info(ModelFailed("the model called a tool in a form that cannot be read"))
    if not text.strip():
        return error_info(ModelFailed("the model's answer holds nothing that can be read"))
    return None


def stopped(
    error: SidecarError,
    facts: RunFacts,
    *,
    state: TerminalState | None = None,
    stop_reason: StopReason | None = None,
) -> Result:
    """The result of a job that did not come to a whole answer; streamed text is kept and marked partial."""
    text = "".join(facts.text)
    return Result(
        state=state or state_of(error),
        output=Output(text=text, content=({"type": "text", "text": text},) if text else ()),
        stop_reason=stop_reason or facts.stop_reason,
        error=None if isinstance(error, JobCancelled) else error_info(error),
        partial=bool(text),
        text_sha256=digest(text) if text else None,
        **_facts(facts),
    )


def state_of(error: SidecarError) -> TerminalState:
    if isinstance(error, JobCancelled):
        return "cancelled"
    return "expired" if error.code == "deadline_exceeded" else "failed"


def _facts(facts: RunFacts) -> dict[str, Any]:
    attempts = worth_listing(facts.attempts)
    if left_out := len(facts.attempts) + facts.left_out - len(attempts):
        facts.warn(f"{left_out} calls that cost nothing are not among the attempts")
    return {
        "model": facts.model,
        "model_id": facts.model_id,
        "usage": facts.usage,
        "usage_basis": facts.usage_basis,
        "cost_usd": facts.cost_usd,
        "attempts": attempts,
        "children": tuple(facts.children),
        "warnings": tuple(facts.warnings),
        "timings": facts.timings,
    }


def guardrail_reports(trace: Any) -> tuple[FilterReport, ...]:
    """A report for each guardrail, direction and action that found something; without what was matched."""
    if not isinstance(trace, Mapping):
        return ()
    counts: dict[tuple[str, Literal["input", "output"], Literal["redact", "block", "flag"]], dict[str, int]] = {}
    for name, on, assessment in _assessments(trace):
        for finding in _findings(assessment):
            action: Literal["redact", "block", "flag"] = _ACTIONS.get(str(finding.get("action")), "flag")
            kind = str(finding.get("type") or finding.get("name") or "word").lower()
            kinds = counts.setdefault((name, on, action), {})
            kinds[kind] = kinds.get(kind, 0) + 1
    return tuple(
        FilterReport(name=f"guardrail:{name}", action=action, count=sum(kinds.values()), kinds=kinds, on=on)
        for (name, on, action), kinds in counts.items()
    )


def _assessments(
    trace: Mapping[str, Any],
) -> Iterator[tuple[str, Literal["input", "output"], Mapping[str, Any]]]:
    for name, assessment in (trace.get("inputAssessment") or {}).items():
        yield name, "input", assessment
    for name, assessments in (trace.get("outputAssessments") or {}).items():
        for assessment in assessments:
            yield name, "output", assessment


def _findings(assessment: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those that were detected: each policy has lists of them."""
    for policy, content in assessment.items():
        if policy.endswith("Policy") and isinstance(content, Mapping):
            for findings in content.values():
                for finding in findings if isinstance(findings, list) else ():
                    if isinstance(finding, Mapping) and finding.get("detected", True):
                        yield finding
