"""ApplyGuardrail: what is sent, and what the answer means. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from sidecar.errors import ModelFailed
from sidecar.models.filtering import GuardrailVerdict


class GuardrailRequest(msgspec.Struct, frozen=True):
    """One text for one guardrail."""

    guardrail: str
    version: str
    params: dict[str, Any]


class _Text(msgspec.Struct):
    text: str = ""


class _Response(msgspec.Struct, rename="camel"):
    action: str
    outputs: list[_Text] = []
    assessments: list[dict[str, Any]] = []


def encode_guardrail(
    guardrail: str, *, version: str, text: str, source: Literal["INPUT", "OUTPUT"]
) -> GuardrailRequest:
    params = {"source": source, "content": [{"text": {"text": text}}]}
    return GuardrailRequest(guardrail, version, params)


def decode_verdict(response: bytes | Mapping[str, Any], *, text: str) -> GuardrailVerdict:
    """Raises ModelFailed for an answer that is none: a text must not pass because nobody judged it."""
    try:
        if isinstance(response, bytes):
            found = msgspec.json.decode(response, type=_Response)
        else:
            found = msgspec.convert({k: v for k, v in response.items() if k != "ResponseMetadata"}, _Response)
    except msgspec.DecodeError as e:
        raise ModelFailed(
            f"Bedrock's verdict cannot be read ({e})", details={"provider_code": "no_verdict"}
        ) from e
    if found.action == "NONE":
        return GuardrailVerdict(intervened=False, is_blocked=False, text=text, assessments=found.assessments)
    kinds: dict[str, int] = {}
    actions: set[str] = set()
    for assessment in found.assessments:
        for policy, content in assessment.items():
            if policy.endswith("Policy") and isinstance(content, Mapping):
                _count(content, kinds, actions)
    return GuardrailVerdict(
        intervened=True,
        is_blocked="BLOCKED" in actions,
        text="".join(output.text for output in found.outputs),
        kinds=kinds or {"guardrail": 1},
        assessments=found.assessments,
    )


def _count(content: Mapping[str, Any], kinds: dict[str, int], actions: set[str]) -> None:
    for findings in content.values():
        for finding in findings if isinstance(findings, list) else ():
            if not isinstance(finding, Mapping) or finding.get("action", "NONE") == "NONE":
                continue
            actions.add(str(finding["action"]))
            # Never what was matched: a report must not repeat what was taken out.
            kind = str(finding.get("type") or finding.get("name") or "word").lower()
            kinds[kind] = kinds.get(kind, 0) + 1
