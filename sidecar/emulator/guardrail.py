"""Guardrails: ApplyGuardrail, and the trace that Converse returns with a guardrailConfig."""

from collections.abc import Mapping
from typing import Any

from sidecar.emulator.answer import Answer

_ACCOUNT = "123456789012"
_UNITS = {
    "automatedReasoningPolicies": 0,
    "automatedReasoningPolicyUnits": 0,
    "contentPolicyImageUnits": 0,
    "contentPolicyUnits": 0,
    "contextualGroundingPolicyUnits": 0,
    "sensitiveInformationPolicyFreeUnits": 0,
    "sensitiveInformationPolicyUnits": 0,
    "topicPolicyUnits": 1,
    "wordPolicyUnits": 0,
}
_BLOCKED = {
    "topicPolicy": {"topics": [{"name": "forbidden", "type": "DENY", "action": "BLOCKED", "detected": True}]}
}
_MASKED = {
    "sensitiveInformationPolicy": {
        "piiEntities": [{"type": "NAME", "match": "someone", "action": "ANONYMIZED", "detected": True}],
        "regexes": [],
    }
}


def make_extra_fields(body: Mapping[str, Any], answer: Answer, *, region: str, mode: str | None) -> dict[str, Any]:
    """Reply fields that only some requests ask for: guardrail trace, service tier, latency mode."""
    extra: dict[str, Any] = {}
    config = body.get("guardrailConfig")
    if config and (config.get("trace") in ("enabled", "enabled_full")):
        extra["trace"] = {"guardrail": _make_trace(config, answer, region=region, mode=mode)}
    if "performanceConfig" in body:
        extra["performanceConfig"] = body["performanceConfig"]
    if "serviceTier" in body:
        extra["serviceTier"] = body["serviceTier"]
    return extra


def apply_guardrail(identifier: str, version: str, body: Mapping[str, Any], *, region: str) -> dict[str, Any]:
    """Body of an ApplyGuardrail reply. Text that contains `[[guardrail=block]]` or `=mask` is acted upon."""
    texts = [block["text"].get("text", "") for block in body.get("content") or () if "text" in block]
    joined = " ".join(texts)
    mode = next((mode for mode in ("block", "mask") if f"[[guardrail={mode}]]" in joined), None)
    outputs = {
        "block": [{"text": "Sorry, the model cannot answer this question."}],
        "mask": [{"text": text.replace("[[guardrail=mask]]", "{NAME}")} for text in texts],
    }.get(mode or "", [])
    return {
        "action": "GUARDRAIL_INTERVENED" if mode else "NONE",
        "actionReason": _reason(mode),
        "outputs": outputs,
        "usage": _UNITS,
        "assessments": [_assess(identifier, version, len(joined), region=region, mode=mode)],
        "guardrailCoverage": {"textCharacters": {"guarded": len(joined), "total": len(joined)}},
    }


def _make_trace(config: Mapping[str, Any], answer: Answer, *, region: str, mode: str | None) -> dict[str, Any]:
    name = str(config.get("guardrailIdentifier", "")).rsplit("/", 1)[-1]
    version = str(config.get("guardrailVersion", "DRAFT"))
    size = sum(len(block.get("text", "")) for block in answer.blocks)
    on_input = mode if mode == "block" else None
    on_output = mode if mode == "mask" else None
    trace: dict[str, Any] = {
        "actionReason": _reason(mode),
        "inputAssessment": {name: _assess(name, version, size, region=region, mode=on_input)},
        "modelOutput": [],
    }
    if mode != "block":
        trace["outputAssessments"] = {name: [_assess(name, version, size, region=region, mode=on_output)]}
    return trace


def _assess(name: str, version: str, characters: int, *, region: str, mode: str | None) -> dict[str, Any]:
    findings = {"block": _BLOCKED, "mask": _MASKED}.get(mode or "", {})
    return {
        **findings,
        "appliedGuardrailDetails": {
            "guardrailArn": f"arn:aws:bedrock:{region}:{_ACCOUNT}:guardrail/{name}",
            "guardrailId": name,
            "guardrailOrigin": ["REQUEST"],
            "guardrailOwnership": "SELF",
            "guardrailVersion": version,
        },
        "invocationMetrics": {
            "guardrailCoverage": {"textCharacters": {"guarded": characters, "total": characters}},
            "guardrailProcessingLatency": 12,
            "usage": _UNITS,
        },
    }


def _reason(mode: str | None) -> str:
    return {"block": "Guardrail blocked.", "mask": "Guardrail masked."}.get(mode or "", "No action.")
