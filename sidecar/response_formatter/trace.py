"""What a guardrail inside a model call did, from the trace that Converse returns with it. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sidecar.models.result import FilterReport

_ACTIONS: Mapping[str, Literal["block", "redact"]] = {"BLOCKED": "block", "ANONYMIZED": "redact"}


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
